"""Export and import over REST."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import sys
from typing import Final

import msgspec
import pytest
from httpx import Response
from tests.http.conftest import Client, Configure, client_of, faults_in, problem_in

from watchly_core.imports import Form, ImportReport
from watchly_core.movies import CLIENT_FIELDS
from watchly_core.threads import Threads
from watchly_http import transfers
from watchly_http.problems import ImportProblem
from watchly_http.transfers import _Source

pytestmark = pytest.mark.anyio

FILMS: tuple[dict[str, object], ...] = (
    {"title": "Heat", "description": "Cops.\nRobbers.", "release_year": 1995, "genre": "Crime"},
    {"title": 'Good, "Bad"', "description": "", "release_year": None, "genre": None},
    {"title": "七人の侍", "description": None, "release_year": 1954, "genre": "Drama"},
    {"title": "=1+1", "description": None, "release_year": 1995, "genre": "Drama"},
)
#: Seconds for anything that is to happen; far more than it takes.
PATIENCE: Final = 30.0
NDJSON = "application/x-ndjson"
CSV = "text/csv; charset=utf-8; header=present"


def lines(films: tuple[dict[str, object], ...] = FILMS) -> bytes:
    return b"".join(json.dumps(film, ensure_ascii=False).encode() + b"\n" for film in films)


def table(films: tuple[dict[str, object], ...] = FILMS) -> bytes:
    head = ",".join(CLIENT_FIELDS)
    # An empty description is a text; a missing one is none.
    rows = (
        ",".join(
            "" if film[name] is None else '"' + str(film[name]).replace('"', '""') + '"'
            for name in CLIENT_FIELDS
        )
        for film in films
    )
    return "\r\n".join([head, *rows, ""]).encode()


async def send(client: Client, content: bytes, media_type: str = NDJSON, query: str = "") -> Response:
    headers = {"Content-Type": media_type}
    return await client.post(f"/api/movies/import{query}", content=content, headers=headers)


def report_in(response: Response) -> ImportReport:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"added", "rejected", "rejected_total", "dry_run"}
    return msgspec.json.decode(response.content, type=ImportReport)


def refusal_in(response: Response) -> ImportProblem:
    problem_in(response, "validation")
    found = msgspec.json.decode(response.content, type=ImportProblem)
    assert found.added == 0
    return found


async def exported(client: Client, query: str = "") -> list[dict[str, object]]:
    response = await client.get(f"/api/movies/export{query}")
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.content.splitlines()]


async def count(client: Client) -> int:
    response = await client.get("/api/movies", headers={"Prefer": "count=exact"})
    total = response.json()["total"]
    assert isinstance(total, int)
    return total


# ---- export ----


async def test_what_is_imported_is_exported(client: Client) -> None:
    for content, media_type in ((lines(), NDJSON), (table(), "text/csv")):
        assert report_in(await send(client, content, media_type)) == ImportReport(4, (), 0, dry_run=False)

    found = await client.get("/api/movies/export")
    assert found.headers["content-type"] == NDJSON
    assert found.headers["content-disposition"] == 'attachment; filename="movies.ndjson"'
    assert found.headers["vary"] == "Accept"
    assert [json.loads(line) for line in found.content.splitlines()] == [*FILMS, *FILMS]
    found = await client.get("/api/movies/export?max_release_year=1995", headers={"Accept": "text/csv"})
    assert found.headers["content-type"] == CSV
    assert found.headers["content-disposition"] == 'attachment; filename="movies.csv"'
    rows = list(csv.reader(io.StringIO(found.content.decode(), newline="")))
    dated = [[str(value or "") for value in film.values()] for film in FILMS if film["release_year"]]
    assert rows == [list(CLIENT_FIELDS), *dated, *dated]


async def test_an_export_can_be_imported(client: Client) -> None:
    await send(client, lines())
    for accept in (NDJSON, "text/csv"):
        whole = (await client.get("/api/movies/export", headers={"Accept": accept})).content
        before = await count(client)
        assert report_in(await send(client, whole, accept)).added == before
        films = await exported(client)
        assert films[:before] == films[before:]


async def test_filters_and_sort_of_an_export(client: Client) -> None:
    await send(client, lines())

    for query, titles in (
        ("?sort=-title", ["七人の侍", "Heat", 'Good, "Bad"', "=1+1"]),
        ("?genre=Drama&sort=release_year", ["七人の侍", "=1+1"]),
        ("?release_year=1995&sort=-id", ["=1+1", "Heat"]),
        ("?q=robbers", ["Heat"]),
        ("?q=robbesr", ["Heat"]),
        ("?q=nobody+home", []),
    ):
        assert [movie["title"] for movie in await exported(client, query)] == titles, query


async def test_an_export_of_nothing(client: Client) -> None:
    assert (await client.get("/api/movies/export")).content == b""
    found = await client.get("/api/movies/export", headers={"Accept": "text/csv"})
    assert found.content == b"title,description,release_year,genre\r\n"


async def test_a_large_export_is_whole(client: Client) -> None:
    films = tuple({**FILMS[0], "title": f"Heat {number}"} for number in range(3_000))
    assert report_in(await send(client, lines(films))).added == 3_000

    assert await exported(client) == list(films)


async def test_head_of_an_export(client: Client) -> None:
    await send(client, lines())

    for accept, content_type in (("*/*", NDJSON), ("text/csv", CSV)):
        found = await client.head("/api/movies/export", headers={"Accept": accept})
        assert (found.status_code, found.content) == (200, b"")
        assert found.headers["content-type"] == content_type
        assert found.headers["content-disposition"].startswith("attachment")
    assert (await client.head("/api/movies/export?sort=x")).status_code == 400


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ([], NDJSON),
        ([""], NDJSON),
        (["*/*"], NDJSON),
        (["application/*"], NDJSON),
        (["text/*"], CSV),
        (["TEXT/CSV"], CSV),
        (["application/x-ndjson; charset=utf-8"], NDJSON),
        (['application/x-ndjson;charset="UTF-8", text/csv;q=0.5'], NDJSON),
        (["application/*;charset=utf-8;q=0.5, text/csv;q=0.4"], NDJSON),
        (["text/csv; charset=UTF-8"], CSV),
        (['text/csv;header="present"'], CSV),
        (["text/csv, application/x-ndjson"], NDJSON),
        (["application/x-ndjson;q=0.5, text/csv;q=0.6"], CSV),
        (["application/x-ndjson;q=0, */*"], CSV),
        (["*/*;q=0.1, text/csv;q=0.05"], NDJSON),
        (["text/*;q=0.9, text/csv;q=0.1, application/*;q=0.5"], NDJSON),
        (["text/csv;charset=utf-8;q=0.9, text/csv;q=0.1, application/x-ndjson;q=0.5"], CSV),
        (["text/html", "text/csv"], CSV),
        (["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"], NDJSON),
        (['foo/bar;a="x, text/csv;q=0", text/csv'], CSV),
        (["text/csv;q=1.0000, application/x-ndjson;q=0.001"], NDJSON),
        ([", , text/csv ,"], CSV),
        (["text/csv;q=0.5;q=1, application/x-ndjson;q=0.6"], NDJSON),
    ],
)
async def test_the_type_is_negotiated(fake_client: Client, accept: list[str], content_type: str) -> None:
    headers = [("Accept", value) for value in accept]
    if not accept:
        del fake_client.headers["accept"]

    found = await fake_client.get("/api/movies/export", headers=headers)

    assert (found.status_code, found.headers["content-type"]) == (200, content_type)


@pytest.mark.parametrize(
    "accept",
    [
        "application/json",
        "text/html",
        "*/*;q=0",
        "text/csv;q=0, application/x-ndjson;q=0.0",
        "text/csv;charset=latin1",
        "application/x-ndjson;charset=latin1",
        "application/x-ndjson;header=present",
        "text/csv;header=absent",
        "text",
        "*",
        "*/csv",
        ";",
        "text/csv;q=2",
        "text/csv;q=x",
        '"text/csv"',
    ],
)
async def test_no_other_type_is_to_be_had(fake_client: Client, accept: str) -> None:
    found = await fake_client.get("/api/movies/export", headers={"Accept": accept})

    assert "application/x-ndjson or text/csv" in problem_in(found, "not_acceptable").detail
    assert found.headers["vary"] == "Accept"


@pytest.mark.parametrize(("path", "method"), [("export", "GET"), ("import", "POST")])
async def test_no_movie_is_called_export_or_import(fake_client: Client, path: str, method: str) -> None:
    allowed = {method, "OPTIONS"} | ({"HEAD"} if method == "GET" else set())
    for other in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"} - allowed:
        refused = await fake_client.request(other, f"/api/movies/{path}", json={"title": "Heat"})
        assert refused.status_code == 405, other
        assert set(refused.headers["allow"].split(", ")) == allowed
    problem_in(await fake_client.delete(f"/api/movies/{path}/image"), "not_found")


# ---- import ----


async def test_lines_that_break_rules_are_told_and_nothing_is_added(client: Client) -> None:
    content = lines(FILMS[:2]) + b'{"title": ""}\n\n{"title": "x", "release_year": 3000, "stars": 5}\n[]\n{\n'

    refused = refusal_in(await send(client, content))

    assert [(fault.pointer, fault.code, fault.detail) for fault in refused.errors] == [
        ("#/title", "too_short", "line 3: must not be blank"),
        ("#/release_year", "too_large", "line 5: must be at most 2200"),
        ("#/stars", "unknown_member", "line 5: is not a member of a movie"),
        ("#", "wrong_type", "line 6: must be a JSON object"),
        ("#", "malformed", "line 7: is not JSON in UTF-8, or is nested too deep"),
    ]
    assert [rejection.line for rejection in refused.rejected] == [3, 5, 6, 7]
    assert (refused.rejected_total, refused.dry_run) == (4, False)
    assert await count(client) == 0


async def test_lines_that_break_rules_can_be_left_out(client: Client) -> None:
    content = table(FILMS[:2]) + b",,1995,\r\nAm\xe9lie,,,\r\nHeat,\r\n" + b"Alien,,1979,\r\n"

    report = report_in(await send(client, content, "text/csv", "?on_error=skip"))

    assert (report.added, report.rejected_total, report.dry_run) == (3, 3, False)
    assert [(item.line, [fault.code for fault in item.errors]) for item in report.rejected] == [
        (5, ["required"]),
        (6, ["forbidden_character"]),
        (7, ["malformed"]),
    ]
    assert [movie["title"] for movie in await exported(client)] == ["Heat", 'Good, "Bad"', "Alien"]


async def test_a_dry_run_adds_nothing(client: Client) -> None:
    good, bad = lines(), lines() + b"{}\n"

    assert report_in(await send(client, good, query="?dry_run=true")) == ImportReport(4, (), 0, dry_run=True)
    report = report_in(await send(client, bad, query="?dry_run=true&on_error=skip"))
    assert (report.added, report.rejected_total, report.dry_run) == (4, 1, True)
    refused = refusal_in(await send(client, bad, query="?dry_run=true&on_error=abort"))
    assert (refused.rejected_total, refused.dry_run) == (1, True)
    assert await count(client) == 0


@pytest.mark.parametrize("on_error", ["abort", "skip"])
async def test_a_thousand_faults_are_listed_and_all_are_counted(fake_client: Client, on_error: str) -> None:
    response = await send(fake_client, b'{"title": "", "stars": 1}\n' * 2_500, query=f"?on_error={on_error}")

    if on_error == "abort":
        refused = refusal_in(response)
        assert (len(refused.errors), len(refused.rejected), refused.rejected_total) == (1_000, 1_000, 2_500)
    else:
        report = report_in(response)
        assert (report.added, len(report.rejected), report.rejected_total) == (0, 1_000, 2_500)


@pytest.mark.parametrize("on_error", ["abort", "skip"])
@pytest.mark.parametrize(
    ("content", "media_type", "said"),
    [
        (b"", "text/csv", "there is no column 'title'"),
        (b"\xef\xbb\xbf", "text/csv", "there is no column 'title'"),
        (b"name,year\r\nHeat,1995\r\n", "text/csv", "the column 'name' is not one of title"),
        (b"title,title\r\nHeat,Heat\r\n", "text/csv", "the column 'title' is there twice"),
        (b'ti"tle\r\nHeat\r\n"x', "text/csv", "is not one of title"),
        (b'"title"x\r\nHeat\r\n', "text/csv", "the header is not CSV"),
        (b'title\r\nHeat\r\n"Ali\r\nen', "text/csv", "what starts at line 3"),
        (b"title\r\nHeat\r\n" + b"x" * 1_000_001, "text/csv", "is longer than 1000000 bytes"),
        (lines() + b'{"title": "' + b"x" * 1_000_000, NDJSON, "what starts at line 5"),
    ],
)
async def test_a_file_whose_rows_cannot_be_told_apart_is_refused(
    fake_client: Client, content: bytes, media_type: str, said: str, on_error: str
) -> None:
    response = await send(fake_client, content, media_type, f"?on_error={on_error}")

    assert said in problem_in(response, "validation").errors[0].detail
    assert await count(fake_client) == 0


async def test_an_empty_file_of_lines_adds_nothing(fake_client: Client) -> None:
    for content in (b"", b"\n\r\n \n", b"\xef\xbb\xbf"):
        assert report_in(await send(fake_client, content)) == ImportReport(0, (), 0, dry_run=False)


@pytest.mark.parametrize(
    "media_type",
    ["text/csv", "TEXT/CSV; header=present", 'text/csv; charset="UTF-8"', "text/csv;charset=utf8 ; x=y"],
)
async def test_csv_goes_by_several_names(fake_client: Client, media_type: str) -> None:
    assert report_in(await send(fake_client, table(), media_type)).added == 4


@pytest.mark.parametrize(
    "media_type",
    [
        "",
        "application/json",
        "text/plain",
        "text/csv; charset=iso-8859-1",
        "application/x-ndjson; charset=utf-16",
        "multipart/form-data; boundary=x",
        "text/csv, application/x-ndjson",
        ";",
        "*/*",
    ],
)
async def test_other_types_are_not_imported(fake_client: Client, media_type: str) -> None:
    problem_in(await send(fake_client, lines(), media_type), "unsupported_media_type")


async def test_a_compressed_file_is_not_imported(fake_client: Client) -> None:
    headers = {"Content-Type": NDJSON, "Content-Encoding": "gzip"}

    refused = await fake_client.post("/api/movies/import", content=lines(), headers=headers)

    problem_in(refused, "unsupported_media_type")


@pytest.mark.parametrize(
    ("query", "faults"),
    [
        ("?on_error=stop", {("on_error", "invalid_value")}),
        ("?on_error=", {("on_error", "invalid_value")}),
        ("?dry_run=1&on_error=Skip", {("dry_run", "invalid_value"), ("on_error", "invalid_value")}),
        ("?dry_run=true&dry_run=true", {("dry_run", "repeated_parameter")}),
        ("?format=csv", {("format", "unknown_parameter")}),
    ],
)
async def test_the_parameters_of_an_import_are_strict(
    fake_client: Client, query: str, faults: set[tuple[str, str]]
) -> None:
    assert faults_in(await send(fake_client, lines(), query=query), "invalid_parameter") == faults
    # The type is looked at first.
    problem_in(await send(fake_client, lines(), "text/plain", query), "unsupported_media_type")


async def test_a_file_that_is_too_large_is_refused(configure: Configure) -> None:
    async with Client(configure(MAX_IMPORT_BYTES="300 kB")) as client:
        film = lines(FILMS[:1])
        most = film * (300_000 // len(film))

        assert report_in(await send(client, most)).added == 300_000 // len(film)
        before = await count(client)
        assert "300000" in problem_in(await send(client, most + film), "too_large").detail
        assert await count(client) == before


async def test_only_imports_whose_rows_are_read_begin_a_transaction(
    configure_fakes: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each holds a connection: many of them at once would leave none for anybody else."""
    monkeypatch.setattr(transfers, "TURN_WAIT", 0.05)
    container = configure_fakes()
    async with client_of(container) as client:

        def post() -> asyncio.Task[Response]:
            headers = {"Content-Type": NDJSON}
            return asyncio.create_task(client.post("/api/movies/import", content=lines(), headers=headers))

        async with asyncio.timeout(PATIENCE):
            # On the fakes writers wait for each other: the imports that begin do not get to their end.
            async with container.database().transactions() as tx:
                await tx.images.of_movie(1)  # from here on the others wait
                going, refused = {post() for _ in range(6)}, set[asyncio.Task[Response]]()
                while len(refused) < 4:
                    done, going = await asyncio.wait(going, return_when=asyncio.FIRST_COMPLETED)
                    refused |= done
            assert [(await task).json()["added"] for task in going] == [len(FILMS)] * 2
            for task in refused:
                problem_in(task.result(), "unavailable")
                assert int(task.result().headers["retry-after"]) > 0
            # Whoever had a turn, or had none, gives it back.
            for response in [await post() for _ in range(3)]:
                assert report_in(response).added == len(FILMS)


class BlankLines(io.BytesIO):
    """Blank lines without an end, but for those that see that others get on meanwhile.

    Attributes:
        turns: of the others, counted by them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.turns = self.given = 0
        self._first_turn: int | None = None

    def readline(self, size: int | None = -1, /) -> bytes:  # noqa: ARG002 - of a file
        if self._first_turn is None:
            self._first_turn = self.turns
        if self.turns - self._first_turn >= 20 or self.given == 300_000:
            return b""
        self.given += 1
        return b"title\n" if self.given == 1 else b"\n"


@pytest.mark.parametrize("form", ["csv", "ndjson"])
async def test_lines_without_rows_leave_the_interpreter_to_others(form: Form) -> None:
    file, threads = BlankLines(), Threads(1, "rows")
    source, before = _Source(file, form), sys.getswitchinterval()
    sys.setswitchinterval(60)  # a thread keeps it for as long as it likes
    try:
        reading = asyncio.create_task(threads.lend(source.some))
        while not reading.done():
            await asyncio.sleep(0)
            file.turns += 1
    finally:
        sys.setswitchinterval(before)

    assert len(await reading) == (form == "ndjson")
    assert file.given < 300_000


async def test_an_import_is_told_in_the_log(client: Client) -> None:
    await send(client, lines())
    movie = await client.current(1)

    (change,) = client.call(lambda: client.container.catalogue().history(1))
    event = change.event

    assert (event.movie, event.actor, event.version) == (movie, "anonymous", 1)
