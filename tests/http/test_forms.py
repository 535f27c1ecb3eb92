"""Forms with an image among their fields, read piece by piece as servers give them."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import httpx
import litestar
import pytest
from hypothesis import given
from hypothesis import strategies as st
from litestar.testing import RequestFactory
from litestar.types import HTTPReceiveMessage

from watchly_core.errors import ImageTooLarge, InvalidMovie
from watchly_core.movies import CLIENT_FIELDS, MovieDraft, drafted
from watchly_http.forms import Form, members, read_form
from watchly_http.requests import (
    BodyTooLarge,
    ClientGone,
    MalformedRequest,
    Request,
    UnsupportedMediaType,
)

LARGEST_TEXT = 20_000
LARGEST_FILE = 2_000_000

#: More than is kept in memory before it goes to a file.
LARGE = bytes(range(256)) * 4_000

BOUNDARY = "----boundary"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"


def part(disposition: str, content: bytes, *headers: str) -> bytes:
    head = "\r\n".join([f"Content-Disposition: form-data; {disposition}", *headers])
    return f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode("utf-8", "surrogateescape") + content + b"\r\n"


def text(name: str, content: str) -> bytes:
    return part(f'name="{name}"', content.encode())


def image(
    content: bytes, disposition: str = 'name="image"; filename="a.png"', kind: str = "image/png"
) -> bytes:
    return part(disposition, content, f"Content-Type: {kind}")


END = f"--{BOUNDARY}--\r\n".encode()
HEAT = text("title", "Heat")


class Sender:
    """A client that sends these pieces, and leaves after the last one if it `leaves`.

    Attributes:
        sent: bytes of them that were taken.
    """

    def __init__(self, pieces: Iterable[bytes], *, leaves: bool = False) -> None:
        self._pieces, self._leaves = iter(pieces), leaves
        self.sent = 0

    async def receive(self) -> HTTPReceiveMessage | dict[str, str]:
        piece = next(self._pieces, None)
        if piece is not None:
            self.sent += len(piece)
            return {"type": "http.request", "body": piece, "more_body": True}
        if self._leaves:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": b"", "more_body": False}

    def request(self, content_type: str | None = TYPE, **headers: str) -> Request:
        given = {name.replace("_", "-").lower(): value for name, value in headers.items()}
        if content_type is not None:
            given["content-type"] = content_type
        scope = RequestFactory().post("/api/movies").scope
        scope["headers"] = [(name.encode(), value.encode("latin-1")) for name, value in given.items()]
        return litestar.Request(scope, receive=self.receive)  # type: ignore[arg-type] # see the types above


class Read:
    """What a form holds, its file read."""

    def __init__(self, form: Form) -> None:
        self.fields = form.fields
        self.file: tuple[bytes, str | None] | None = None
        if form.file is not None:
            content = form.file.spool.file.read()
            assert form.file.spool.size == len(content)
            self.file = (content, form.file.media_type)


def read(
    *pieces: bytes,
    content_type: str | None = TYPE,
    leaves: bool = False,
    meanwhile: Callable[[], None] = lambda: None,
    **headers: str,
) -> Read:
    """Read a form that comes in these pieces."""
    return read_from(Sender(pieces, leaves=leaves), content_type, meanwhile, **headers)


def read_from(
    sender: Sender,
    content_type: str | None = TYPE,
    meanwhile: Callable[[], None] = lambda: None,
    **headers: str,
) -> Read:
    async def run() -> Read:
        async with read_form(
            sender.request(content_type, **headers),
            fields=CLIENT_FIELDS,
            file="image",
            largest_text=LARGEST_TEXT,
            largest_file=LARGEST_FILE,
        ) as form:
            meanwhile()
            return Read(form)

    return asyncio.run(run())


def faults(*pieces: bytes) -> list[tuple[str | None, str]]:
    """Where the faults of a form are, and which."""
    with pytest.raises(InvalidMovie) as raised:
        read(*pieces)
    return [(fault.pointer, fault.code) for fault in raised.value.faults]


@pytest.fixture
def spools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """Counts the spool files that are open; at the end there must be none."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def count() -> int:
        links = []
        for link in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):  # that of the listing itself
                links.append(link.readlink())
        return sum(link.is_relative_to(tmp_path) for link in links)

    yield count
    assert count() == 0
    assert not list(tmp_path.iterdir())


# ---- what is read ----


def test_texts_and_a_file_in_any_order() -> None:
    parts = [HEAT, text("genre", "Crime"), text("description", "Cops\r\nand robbers"), image(LARGE)]

    for ordered in (parts, parts[::-1], [*parts[2:], *parts[:2]]):
        found = read(b"".join(ordered) + END)

        assert found.fields == {"title": "Heat", "genre": "Crime", "description": "Cops\r\nand robbers"}
        assert found.file == (LARGE, "image/png")


def test_a_form_may_have_no_file_or_nothing_but_one() -> None:
    assert read(HEAT, END).file is None
    assert read(image(b"x"), END).fields == {}
    assert read(END).fields == {}


@given(cuts=st.lists(st.integers(0, 3_000), max_size=40), step=st.integers(1, 200))
def test_it_makes_no_difference_where_a_form_is_cut(cuts: list[int], step: int) -> None:
    # What looks like the beginning of a boundary, but is none.
    content = f"\r\n--{BOUNDARY[:-1]}\r\n-\r\r\n--".encode() * 50
    whole = text("title", "Amélie \N{FILM FRAMES}") + image(content) + text("genre", "Comedy") + END
    places = sorted({*cuts, *range(0, len(whole), 10 * step)})
    pieces = [whole[start:stop] for start, stop in zip([0, *places], [*places, len(whole)], strict=True)]

    found = read(*pieces)

    assert found.fields == {"title": "Amélie \N{FILM FRAMES}", "genre": "Comedy"}
    assert found.file == (content, "image/png")


def test_one_byte_at_a_time() -> None:
    whole = HEAT + image(b"\r\n--\r\n") + END

    found = read(*(bytes([byte]) for byte in whole))

    assert (found.fields, found.file) == ({"title": "Heat"}, (b"\r\n--\r\n", "image/png"))


def test_a_form_as_a_client_library_makes_it() -> None:
    made = httpx.Request(
        "POST",
        "http://x",
        data={"title": "Amélie", "release_year": "2001"},
        files={"image": ("Plakat für Amélie.jpg", LARGE, "image/jpeg")},
    )

    found = read(made.read(), content_type=made.headers["content-type"])

    assert found.fields == {"title": "Amélie", "release_year": "2001"}
    assert found.file == (LARGE, "image/jpeg")


@pytest.mark.parametrize(
    "content_type",
    [
        f'multipart/form-data; boundary="{BOUNDARY}"',
        f"Multipart/Form-Data; charset=utf-8; Boundary={BOUNDARY}",
        f"multipart/form-data;boundary={BOUNDARY}",
        f"multipart/form-data; boundary={BOUNDARY}; charset=utf-8",
    ],
)
def test_a_boundary_is_named_in_several_ways(content_type: str) -> None:
    assert read(HEAT, END, content_type=content_type).fields == {"title": "Heat"}


def test_a_boundary_may_have_70_characters_of_which_some_have_to_be_quoted() -> None:
    boundary = "a b=c/d:e?f(g)" + "x" * 56
    body = (HEAT + END).replace(BOUNDARY.encode(), boundary.encode())

    assert read(body, content_type=f'multipart/form-data; boundary="{boundary}"').fields == {"title": "Heat"}


def test_what_surrounds_a_form_is_passed_over() -> None:
    assert read(b"This is MIME.\r\n", HEAT, END, b"\r\nThe end.").fields == {"title": "Heat"}


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ("Content-Type: text/plain",),
        ("Content-Type: text/plain; charset=UTF-8",),
        ('content-type: Text/Plain; charset="utf8"', "content-transfer-encoding: 8bit"),
        ("Content-Length: 7", "X-Other: y"),
    ],
)
def test_a_text_may_say_that_it_is_one(headers: tuple[str, ...]) -> None:
    assert read(part('name="title"', "Amélie".encode(), *headers), END).fields == {"title": "Amélie"}


@pytest.mark.parametrize(
    "name",
    [
        'filename="../../etc/passwd"',
        'filename="..\\\\..\\\\x"',
        'filename="\x00.png"',
        'filename="a%0D%0Ab.png"',
        'filename="a\rb.png"',
        f'filename="{"x" * 300}.png"',
        'filename="шрек.png"',
        'filename=""',
        "filename=",
        "filename",
        'filename="a.png"; filename="b.png"',
        "filename*=UTF-8''a.png",
        "",
    ],
)
def test_how_the_file_is_called_makes_no_difference(name: str) -> None:
    assert read(image(b"content", f'name="image"; {name}'), END).file == (b"content", "image/png")


def test_a_file_may_have_no_type() -> None:
    assert read(part('name="image"; filename="a"', b"content"), END).file == (b"content", None)


@pytest.mark.parametrize(
    "nothing",
    [
        image(b"", 'name="image"; filename=""', "application/octet-stream"),
        part('name="image"; filename=""', b""),
        text("image", ""),
    ],
)
def test_an_input_where_no_file_was_chosen_is_none(nothing: bytes) -> None:
    assert read(HEAT, nothing, END).file is None


def test_a_chosen_file_that_is_empty_is_one() -> None:
    assert read(image(b""), END).file == (b"", "image/png")


# ---- what is refused by its name ----


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        (text("rating", "5"), ("#/rating", "unknown_member")),
        (text("Title", "Heat"), ("#/Title", "unknown_member")),
        (text("id", "7"), ("#/id", "unknown_member")),
        (text("image[]", ""), ("#/image%5B%5D", "unknown_member")),
        (text("a/b~c", ""), ("#/a~1b~0c", "unknown_member")),
        (text("x" * 500, ""), ("#/" + "x" * 100, "unknown_member")),
        (text("a%0D%0Ab\x00", ""), ("#/a%0D%0Ab%00", "unknown_member")),
        (image(b"x", 'name="poster"; filename="a.png"'), ("#/poster", "unknown_member")),
        (text("genre", "a") + text("genre", "b"), ("#/genre", "repeated_member")),
        (text("genre", "a") + text("genre", "a"), ("#/genre", "repeated_member")),
        (image(b"x") + image(b"y"), ("#/image", "repeated_member")),
        (image(b"x") + text("image", ""), ("#/image", "repeated_member")),
        (text("image", "") + image(b"x"), ("#/image", "repeated_member")),
        (image(b"x", 'name="genre"; filename="a.png"'), ("#/genre", "wrong_type")),
        (part('name="genre"; filename="a.txt"', b"x"), ("#/genre", "wrong_type")),
        (part('name="genre"; filename=""', b""), ("#/genre", "wrong_type")),
        (part('name="genre"', b"{}", "Content-Type: application/json"), ("#/genre", "wrong_type")),
        (text("image", "https://example.org/a.png"), ("#/image", "wrong_type")),
        pytest.param(text("image", "x" * LARGEST_TEXT), ("#/image", "wrong_type"), id="a long text"),
        (part('name="genre"', b"x", "Content-Type: text/plain; charset=latin1"), ("#/genre", "wrong_type")),
        (part('name="genre"', b"x", "Content-Type: text/plain; charset=none"), ("#/genre", "wrong_type")),
        (part('name="genre"', b"x", 'Content-Type: text/plain; charset=""'), ("#/genre", "wrong_type")),
    ],
)
def test_a_part_that_is_wrong_is_refused_by_name(wrong: bytes, fault: tuple[str, str]) -> None:
    assert faults(HEAT, wrong, END) == [fault]


def test_all_faults_are_told_together() -> None:
    latin = part('name="genre"', b"Com\xe9die", "Content-Type: text/plain; charset=iso-8859-1")

    assert faults(text("a", "x"), image(b"x" * 1_000), latin, HEAT, HEAT, text("b", ""), END) == [
        ("#/a", "unknown_member"),
        ("#/genre", "wrong_type"),
        ("#/title", "repeated_member"),
        ("#/b", "unknown_member"),
    ]


def test_thousands_of_parts_are_not_all_read() -> None:
    sender = Sender([HEAT] * 10_000)
    with pytest.raises(InvalidMovie) as raised:
        read_from(sender)

    assert len(raised.value.faults) == 20
    assert sender.sent <= 25 * len(HEAT)


@pytest.mark.parametrize(
    ("begun", "fault"),
    [
        (image(b"x") + image(b""), "repeated_member"),
        (image(b"", 'name="poster"; filename="a.png"'), "unknown_member"),
        (text("rating", "5") + image(b""), "unknown_member"),
    ],
)
def test_a_large_file_in_a_form_with_faults_is_not_read_to_its_end(
    spools: Callable[[], int], begun: bytes, fault: str
) -> None:
    sender = Sender([begun.removesuffix(b"\r\n"), *[b"x" * 1_000] * 100_000])
    with pytest.raises(InvalidMovie) as raised:
        read_from(sender)

    assert [found.code for found in raised.value.faults] == [fault]
    assert sender.sent < len(begun) + LARGEST_TEXT + 2_000
    assert spools() == 0


# ---- what is too large ----


def test_texts_may_be_so_long_together() -> None:
    name = len("Heat")
    fits = text("description", "x" * (LARGEST_TEXT - name))
    assert len(read(HEAT, fits, image(LARGE), END).fields["description"]) == LARGEST_TEXT - name

    with pytest.raises(BodyTooLarge, match=str(LARGEST_TEXT)):
        read(HEAT, text("description", "x" * (LARGEST_TEXT - name + 1)), END)


def test_a_text_without_end_is_not_read_on() -> None:
    sender = Sender([part('name="title"', b""), *[b"x" * 1_000] * 100_000])
    with pytest.raises(BodyTooLarge):
        read_from(sender)
    assert sender.sent < LARGEST_TEXT + 5_000


def test_a_file_may_be_so_large(spools: Callable[[], int]) -> None:
    largest = bytes(LARGEST_FILE)
    found = read(HEAT, image(largest), END)
    assert found.file == (largest, "image/png")

    sender = Sender([image(largest).removesuffix(b"\r\n"), *[b"x" * 1_000] * 100_000])
    with pytest.raises(ImageTooLarge, match=str(LARGEST_FILE)):
        read_from(sender)
    assert sender.sent < LARGEST_FILE + 5_000
    assert spools() == 0


def test_a_form_that_is_announced_too_large_is_not_read() -> None:
    sender = Sender([HEAT, END])
    with pytest.raises(BodyTooLarge):
        read_from(sender, content_length="3000000")
    assert sender.sent == 0


@pytest.mark.parametrize(
    "pieces",
    [
        (b"preamble " * 100,) * 10_000,
        (END, *(b"epilogue " * 100,) * 10_000),
        (f"--{BOUNDARY}\r\n".encode(), *(b"x",) * 10_000),
        (part('name="title"', b"", "X: " + "x" * 5_000), END),
        (part('name="title"', b"", *["X: y"] * 20), END),
    ],
    ids=["before", "after", "no end of a header", "a long header", "many headers"],
)
def test_a_form_with_too_much_around_its_content_is_refused(pieces: tuple[bytes, ...]) -> None:
    sender = Sender(pieces)
    with pytest.raises(MalformedRequest):
        read_from(sender)
    assert sender.sent < 100_000


# ---- what is no form ----


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        'multipart/form-data; boundary=" "',
        f"multipart/form-data; boundary={'x' * 71}",
        'multipart/form-data; boundary="a\xe9b"',
        'multipart/form-data; boundary="a\tb"',
        'multipart/form-data; boundary="a{b"',
    ],
)
def test_a_form_has_to_name_a_boundary(content_type: str) -> None:
    with pytest.raises(MalformedRequest):
        read(HEAT, END, content_type=content_type)


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "application/json",
        "multipart/mixed; boundary=x",
        "multipart/form-data, boundary=x",
        "application/x-www-form-urlencoded",
    ],
)
def test_another_type_is_refused(content_type: str | None) -> None:
    with pytest.raises(UnsupportedMediaType):
        read(HEAT, END, content_type=content_type)


def test_what_is_encoded_is_refused() -> None:
    with pytest.raises(UnsupportedMediaType):
        read(HEAT, END, content_encoding="gzip")
    for encoding in ("base64", "quoted-printable", "x-other"):
        with pytest.raises(UnsupportedMediaType):
            read(part('name="title"', b"SGVhdA==", f"Content-Transfer-Encoding: {encoding}"), END)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"garbage",
        b"{}",
        HEAT,
        HEAT.removesuffix(b"\r\n") + b"--" + END,
        HEAT + END.replace(b"--\r\n", b"\r\n"),
        HEAT + END.replace(b"--\r\n", b"-"),
        HEAT + END.replace(b"--\r\n", b"xx"),
        HEAT[:-10],
        b"x" + HEAT + END,
        HEAT.replace(b"\r\n", b"\n") + END,
        (HEAT + END).replace(b"Content-Disposition", b"Other"),
        (HEAT + END).replace(b"form-data", b"attachment"),
        (HEAT + END).replace(b' name="title"', b""),
        (HEAT + END).replace(b'name="title"', b'name=""'),
        (HEAT + END).replace(b"Content-Disposition: ", b"Content-Disposition "),
        part('name="title"', b"", "no header at all") + END,
        part('name="title"', b"", ": empty") + END,
        part('name="title"', b"Heat", "Content-Length: 3") + END,
        part('name="title"', b"Heat", "Content-Length: 5") + END,
        part('name="title"', b"Heat", "Content-Length: x") + END,
        part('name="title"', b"Heat", "Content-Length: " + "9" * 4_000) + END,
        part('name="\udcff"', b"Heat") + END,
        part('name="image"; filename="\r\nX"', b"Heat") + END,
    ],
)
def test_a_form_that_is_broken_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedRequest):
        read(body)


@given(
    edits=st.lists(
        st.tuples(
            st.integers(0, 600),
            st.integers(0, 30),
            st.binary(max_size=20)
            | st.sampled_from([b"\r\n", b'"', b";", b"--", b"\x00", b"\xff", END, HEAT]),
        ),
        max_size=4,
    )
)
def test_whatever_is_sent_is_a_form_or_refused(edits: list[tuple[int, int, bytes]]) -> None:
    body = part('name="title"', b"Heat", "Content-Type: text/plain; charset=utf-8", "Content-Length: 4")
    body += image(b"content") + text("genre", "Crime") + END
    for start, size, put in edits:
        body = body[:start] + put + body[start + size :]

    with suppress(MalformedRequest, UnsupportedMediaType, InvalidMovie, BodyTooLarge):
        found = read(body)
        assert found.fields.keys() <= set(CLIENT_FIELDS)


def test_a_client_that_leaves_is_told_from_one_that_sends_nonsense() -> None:
    for body in (b"", HEAT, HEAT + image(LARGE)[:-500_000], HEAT + image(LARGE)):
        with pytest.raises(ClientGone):
            read(body, leaves=True)


# ---- what is left ----


def test_a_file_lives_as_long_as_its_form(spools: Callable[[], int]) -> None:
    seen: list[int] = []

    read(image(LARGE), HEAT, END, meanwhile=lambda: seen.append(spools()))

    assert seen == [1]


@pytest.mark.parametrize(
    "rest",
    [
        END[:-8],
        END.replace(b"--\r\n", b"xx"),
        text("rating", "5") + END,
        part('name="title"', bytes(30_000)) + END,
    ],
    ids=["cut", "broken", "unknown", "too long"],
)
def test_no_file_is_left_of_a_form_that_is_refused(spools: Callable[[], int], rest: bytes) -> None:
    for leaves in (False, True):
        with pytest.raises((MalformedRequest, InvalidMovie, BodyTooLarge, ClientGone)):
            read(image(LARGE), rest, leaves=leaves)
        assert spools() == 0


def test_no_file_is_left_of_a_form_whose_reader_fails(spools: Callable[[], int]) -> None:
    def fail() -> None:
        raise RuntimeError("a fault of our own")

    with pytest.raises(RuntimeError):
        read(image(LARGE), END, meanwhile=fail)
    assert spools() == 0


def test_no_file_is_left_of_a_form_whose_reading_is_cut(spools: Callable[[], int]) -> None:
    async def run() -> None:
        waiting = asyncio.Event()
        sender = Sender([image(LARGE)])

        async def receive() -> HTTPReceiveMessage | dict[str, str]:
            if sender.sent:
                waiting.set()
                await asyncio.Event().wait()
            return await sender.receive()

        request: Request = litestar.Request(sender.request().scope, receive=receive)  # type: ignore[arg-type] # as above

        async def attempt() -> None:
            async with read_form(request, fields=(), file="image", largest_text=1, largest_file=LARGEST_FILE):
                raise AssertionError("it has no end")

        task = asyncio.create_task(attempt())
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert spools() == 0


# ---- what becomes of it ----


def draft(**fields: str) -> MovieDraft:
    return drafted(members(Form({"title": "Heat", **fields})))


def test_texts_become_the_members_of_a_movie() -> None:
    assert draft(description="Cops.", release_year="1995", genre="Crime") == MovieDraft(
        title="Heat", description="Cops.", release_year=1995, genre="Crime"
    )


def test_an_empty_text_is_null_where_a_movie_can_have_that() -> None:
    assert members(Form({"description": "", "release_year": "", "genre": ""})) == {
        "description": None,
        "release_year": None,
        "genre": None,
    }
    with pytest.raises(InvalidMovie, match="title: must not be blank"):
        draft(title="")


@pytest.mark.parametrize(
    ("year", "code"),
    [
        *(
            (year, "wrong_type")
            for year in ("abc", "1999.0", " 1999", "1999 ", "1_999", "+1999", "01999", "null")
        ),
        *(
            (year, "wrong_type")
            for year in ("\u0661\u0669\u0669\u0669", "1e3", "true", "\udcff", "9" * 5_000)
        ),
        ("-1999", "too_small"),
        ("0", "too_small"),
        ("99999", "too_large"),
    ],
)
def test_a_year_that_is_no_integer_of_json_is_refused_with_all_else_that_is_wrong(
    year: str, code: str
) -> None:
    with pytest.raises(InvalidMovie) as raised:
        draft(release_year=year, genre="x" * 200)

    found: Mapping[str | None, str] = {fault.pointer: fault.code for fault in raised.value.faults}
    assert found == {"#/release_year": code, "#/genre": "too_long"}


def test_bytes_that_are_not_utf8_are_refused_with_all_else_that_is_wrong() -> None:
    found = read(part('name="title"', b"Am\xe9lie"), part('name="genre"', b"\xff" * 200), END)

    with pytest.raises(InvalidMovie) as raised:
        drafted(members(Form(found.fields)))

    assert [(fault.pointer, fault.code) for fault in raised.value.faults] == [
        ("#/title", "forbidden_character"),
        ("#/genre", "too_long"),
        ("#/genre", "forbidden_character"),
    ]
