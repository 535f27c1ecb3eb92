"""Finding movies over REST: search, filters, sorting, totals and genres."""

from __future__ import annotations

from urllib.parse import quote

import msgspec
import pytest
from httpx import Response
from litestar.testing import RequestFactory
from tests.http.conftest import Client, Configure, faults_in, problem_in

from watchly_adapters.settings import MEMORY, read_settings
from watchly_core import Page
from watchly_core.errors import InvalidQuery
from watchly_http.filters import CURSOR, FILTERS, LIMIT, SORT, read_query
from watchly_http.requests import Request

pytestmark = pytest.mark.anyio

FILMS: tuple[dict[str, object], ...] = (
    {"title": "Heat", "description": "Cops and robbers.", "release_year": 1995, "genre": "Crime"},
    {"title": "The Godfather", "description": "A family.", "release_year": 1972, "genre": "Crime"},
    {
        "title": "Amélie",
        "description": "Paris, in the heat of love.",
        "release_year": 2001,
        "genre": "Comedy",
    },
    {"title": "In the Heat of the Night", "release_year": 1967, "genre": "Drama"},
    {"title": "Sans titre"},
    {"title": "Leon", "release_year": 1994, "genre": "crime"},
)
#: What is odd to ask for, and breaks what is not careful.
ODD = ("'", '"', "%", "_", "\\", "&|!():*", "'; DROP TABLE movies; --", "\U0001f600", "\x00", "a\x00b", "-")


@pytest.fixture
async def films(client: Client) -> Client:
    """A client of a catalogue with the films above, whose ids start at 1."""
    for film in FILMS:
        await client.added(**film)
    return client


async def ids(client: Client, query: str) -> list[int]:
    response = await client.get(f"/api/movies?{query}")
    assert response.status_code == 200, response.text
    return [movie.id for movie in msgspec.json.decode(response.content, type=Page).data]


FOUND: tuple[tuple[str, list[int]], ...] = (
    ("", [1, 2, 3, 4, 5, 6]),
    ("q=heat", [1, 4, 3]),  # the title, a word of one, the description
    ("q=HEAT+cops", [1]),
    ("q=amelie", [3]),
    ("q=L%C3%A9on", [6]),
    ("q=god", [2]),
    ("q=godfahter", [2]),
    ("q=", [1, 2, 3, 4, 5, 6]),
    ("q=%20%09", [1, 2, 3, 4, 5, 6]),
    ("q=%3F%21", []),
    ("q=heat&sort=-release_year", [3, 1, 4]),
    ("q=heat&genre=Crime", [1]),
    ("q=heat&genre=Western", []),
    ("genre=Crime", [1, 2]),
    ("genre=crime", [6]),
    ("genre=", []),
    ("release_year=1995", [1]),
    ("min_release_year=1995", [1, 3]),
    ("max_release_year=1972", [2, 4]),
    ("min_release_year=1972&max_release_year=1995", [1, 2, 6]),
    ("min_release_year=1995&max_release_year=1972", []),
    ("release_year=-2147483648", []),
    ("release_year=2147483647", []),
    ("sort=title", [3, 1, 4, 6, 5, 2]),
    ("sort=-title", [2, 5, 6, 4, 1, 3]),
    ("sort=release_year", [4, 2, 6, 1, 3, 5]),
    ("sort=-release_year", [3, 1, 6, 2, 4, 5]),
    ("sort=-id", [6, 5, 4, 3, 2, 1]),
    ("sort=-created_at", [6, 5, 4, 3, 2, 1]),
    ("sort=updated_at,title", [1, 2, 3, 4, 5, 6]),
)


async def test_movies_are_found(films: Client) -> None:
    for query, found in FOUND:
        assert await ids(films, query) == found, query


async def test_pages_of_one_make_up_the_list(films: Client) -> None:
    for query, whole in FOUND:
        found: list[int] = []
        cursor: str | None = ""
        while cursor is not None:
            more = f"&cursor={cursor}" if cursor else ""
            response = await films.get(f"/api/movies?{query}&limit=1{more}")
            page = msgspec.json.decode(response.content, type=Page)
            found += [movie.id for movie in page.data]
            cursor = page.next_cursor
        assert found == whole, query


async def test_a_cursor_of_another_list_is_refused(films: Client) -> None:
    first = await films.get("/api/movies?genre=Crime&limit=1")
    cursor = first.json()["next_cursor"]

    assert await ids(films, f"genre=Crime&cursor={cursor}") == [2]
    for query in ("", "q=heat", "genre=Crime&sort=title", "genre=Crime&release_year=1995", "genre=crime"):
        refused = await films.get(f"/api/movies?{query}&cursor={cursor}")
        assert faults_in(refused, "invalid_parameter") == {("cursor", "invalid_cursor")}, query


@pytest.mark.parametrize("path", ["/api/movies", "/api/genres", "/api/movies/export"])
async def test_odd_words_have_a_defined_answer(films: Client, path: str) -> None:
    for text in (*ODD, "x" * 10_000, " ".join(["ab"] * 32), "\u0e33" * 300):
        response = await films.get(f"{path}?q={quote(text)}")
        assert response.status_code == 200, text
        if path == "/api/movies" and not any(map(str.isalnum, text)):
            assert response.json() == {"data": [], "next_cursor": None}, text


@pytest.mark.parametrize("path", ["/api/movies", "/api/genres", "/api/movies/export"])
@pytest.mark.parametrize(
    ("query", "faults"),
    [
        ("q=%FF", {("q", "invalid_value")}),
        ("q=heat%ED%A0%80", {("q", "invalid_value")}),
        ("q=" + "+".join(["ab"] * 33), {("q", "too_long")}),
        ("genre=%00", {("genre", "invalid_value")}),
        ("genre=%C3", {("genre", "invalid_value")}),
        ("release_year=1995.0", {("release_year", "invalid_value")}),
        ("release_year=", {("release_year", "invalid_value")}),
        ("release_year=2147483648", {("release_year", "invalid_value")}),
        ("release_year=" + "9" * 5_000, {("release_year", "invalid_value")}),
        ("min_release_year=%2B5", {("min_release_year", "invalid_value")}),
        ("max_release_year=%D9%A3", {("max_release_year", "invalid_value")}),
        ("q=a&q=b", {("q", "repeated_parameter")}),
        ("Q=a&year=1", {("Q", "unknown_parameter"), ("year", "unknown_parameter")}),
        (
            "q=%FF&release_year=x&min_release_year=y&max_release_year=z&genre=%00&z=1",
            {
                ("q", "invalid_value"),
                ("release_year", "invalid_value"),
                ("min_release_year", "invalid_value"),
                ("max_release_year", "invalid_value"),
                ("genre", "invalid_value"),
                ("z", "unknown_parameter"),
            },
        ),
    ],
)
async def test_every_fault_of_the_filters_is_named(
    fake_client: Client, path: str, query: str, faults: set[tuple[str, str]]
) -> None:
    assert faults_in(await fake_client.get(f"{path}?{query}"), "invalid_parameter") == faults


@pytest.mark.parametrize("name", ["q", "genre", "release_year", "sort", "limit", "cursor"])
@pytest.mark.parametrize("value", [b"Am\xe9lie", b"\xff", b"%FF", b"%C3x", b"\xed\xa0\x80"], ids=ascii)
async def test_a_parameter_that_is_not_utf8_is_refused_by_name(name: str, value: bytes) -> None:
    # Clients cannot send such bytes unencoded, and granian refuses them; another server may pass them on.
    request: Request = RequestFactory().get("/api/movies")
    request.scope["query_string"] = b"%s=%s" % (name.encode(), value)

    with pytest.raises(InvalidQuery) as raised:
        read_query(request, (*FILTERS, SORT, LIMIT, CURSOR), read_settings({"DATABASE_URL": MEMORY}))

    assert [fault.parameter for fault in raised.value.faults] == [name]


@pytest.mark.parametrize("path", ["/api/movies", "/api/movies/export"])
@pytest.mark.parametrize(
    "sort", ["", "rating", "title,", ",", "title,-title", "--id", "Title", " id", "id;title", "%00", "%FF"]
)
async def test_a_bad_sort_key_is_refused(fake_client: Client, path: str, sort: str) -> None:
    response = await fake_client.get(f"{path}?sort={sort}")

    assert faults_in(response, "invalid_parameter") == {("sort", "invalid_value")}


async def test_the_faults_of_a_list_are_told_together(fake_client: Client) -> None:
    response = await fake_client.get("/api/movies?limit=0&sort=x&cursor=y&release_year=z&limit=1")

    assert faults_in(response, "invalid_parameter") == {
        ("limit", "invalid_value"),
        ("limit", "repeated_parameter"),
        ("sort", "invalid_value"),
        ("cursor", "invalid_cursor"),
        ("release_year", "invalid_value"),
    }


@pytest.mark.parametrize(
    ("path", "names"),
    [("/api/genres", {"sort", "limit", "cursor"}), ("/api/movies/export", {"limit", "cursor"})],
)
async def test_what_only_lists_take_is_unknown_elsewhere(
    fake_client: Client, path: str, names: set[str]
) -> None:
    response = await fake_client.get(f"{path}?sort=id&limit=1&cursor=x")

    assert faults_in(response, "invalid_parameter") == {(name, "unknown_parameter") for name in names}


# ---- totals ----


async def test_a_total_is_counted_on_request(films: Client) -> None:
    for query, total in (("limit=2", 6), ("q=heat&limit=1", 3), ("genre=Western", 0), ("q=godfahter", 1)):
        response = await films.get(f"/api/movies?{query}", headers={"Prefer": "count=exact"})
        assert response.json()["total"] == total
        assert response.headers["preference-applied"] == "count=exact"
        assert response.headers["vary"] == "Prefer"


@pytest.mark.parametrize(
    "prefer",
    [
        ["Count = exact"],
        ['count="exact"'],
        ["respond-async, count=exact; foo=bar", "wait=5"],
        ["respond-async", "count=exact"],
        ['foo="a, count=none", count=exact'],
        ["count=exact, count=none"],
        [", ,count=exact;"],
    ],
)
async def test_preferences_come_in_many_ways(fake_client: Client, prefer: list[str]) -> None:
    response = await fake_client.get("/api/movies", headers=[("Prefer", value) for value in prefer])

    assert response.json()["total"] == 0


async def test_a_total_counts_all_pages_from_the_first(films: Client) -> None:
    first = await films.get("/api/movies?limit=2")
    cursor = first.json()["next_cursor"]

    second = await films.get(f"/api/movies?cursor={cursor}", headers={"Prefer": "count=exact"})

    assert [movie["id"] for movie in second.json()["data"]] == [3, 4, 5, 6]
    assert second.json()["total"] == 6


@pytest.mark.parametrize(
    "prefer",
    ["", "count", "count=estimated", 'foo="count=exact"', "foo; count=exact", "count=none, count=exact", '"'],
)
async def test_other_preferences_are_passed_over(fake_client: Client, prefer: str) -> None:
    response = await fake_client.get("/api/movies", headers={"Prefer": prefer})

    assert response.json() == {"data": [], "next_cursor": None}
    assert "preference-applied" not in response.headers
    assert response.headers["vary"] == "Prefer"


async def test_caches_are_told_of_every_header_that_counts(configure_fakes: Configure) -> None:
    async with Client(configure_fakes(CORS_ORIGINS="https://app.example")) as client:
        for origin in ({}, {"Origin": "https://app.example"}, {"Origin": "https://evil.example"}):
            for path, name in (("/api/movies", "Prefer"), ("/api/movies/export", "Accept")):
                response = await client.get(path, headers=origin)
                assert set(response.headers.get_list("vary")) == {"Origin", name}


# ---- genres ----


def genres(response: Response) -> list[tuple[str, int]]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"data"}
    return [(item["genre"], item["movies"]) for item in response.json()["data"]]


async def test_genres_are_counted(films: Client) -> None:
    wanted: tuple[tuple[str, list[tuple[str, int]]], ...] = (
        ("", [("Crime", 2), ("Comedy", 1), ("Drama", 1), ("crime", 1)]),
        ("q=heat", [("Comedy", 1), ("Crime", 1), ("Drama", 1)]),
        ("q=godfahter", [("Crime", 1)]),
        ("max_release_year=1972", [("Crime", 1), ("Drama", 1)]),
        ("genre=Crime", [("Crime", 2)]),
        ("genre=Western", []),
        ("q=%3F", []),
    )
    for query, counts in wanted:
        assert genres(await films.get(f"/api/genres?{query}")) == counts, query


async def test_an_empty_catalogue_has_no_genres(client: Client) -> None:
    assert genres(await client.get("/api/genres")) == []


async def test_genres_can_only_be_read(fake_client: Client) -> None:
    response = await fake_client.post("/api/genres", json={"genre": "Noir"})

    problem_in(response, "method_not_allowed")
    assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}
    assert (await fake_client.head("/api/genres")).status_code == 200
