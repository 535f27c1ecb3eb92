"""The rules on writing a movie: the table of api.md, for drafts and patches, structs and mappings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ParamSpec

import msgspec
import pytest

from watchly_core.errors import InvalidMovie
from watchly_core.images import Image
from watchly_core.movies import (
    CLIENT_FIELDS,
    MAX_FAULTS,
    Movie,
    MovieDraft,
    MoviePatch,
    client_fields,
    drafted,
    patched,
)

P = ParamSpec("P")

Members = Mapping[str, Any]
Writing = Callable[[Members], MovieDraft]

AT = datetime(2026, 11, 22, 10, 0, 0, tzinfo=UTC)
ASTRAL = "\U0001f3ac"

POSTER = Image("0123456789abcdef0123456789abcdef", 600, 900, "jpeg", 81234, {"thumbnail": "/t", "card": "/c"})
HEAT = Movie(7, "Heat", "Cops.\nRobbers.", 1995, "Crime", "/images/x", POSTER, 3, AT, AT + timedelta(hours=1))


def heat(**changes: Any) -> Movie:
    return msgspec.structs.replace(HEAT, **changes)


def brief(value: object) -> str:
    """A name for a parameter, however long or odd it is."""
    return "huge" if isinstance(value, int) and abs(value) > 10**30 else ascii(value)[:30]


def as_json(value: object) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))


def faults_of(write: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> list[tuple[str | None, str]]:
    with pytest.raises(InvalidMovie) as caught:
        write(*args, **kwargs)
    assert caught.value.faults
    for fault in caught.value.faults:
        assert fault.parameter is None
        assert fault.detail
        msgspec.json.encode(fault)
    return [(fault.pointer, fault.code) for fault in caught.value.faults]


def _draft_members(members: Members) -> MovieDraft:
    return drafted({"title": "Heat", **members})


def _draft_struct(members: Members) -> MovieDraft:
    return drafted(MovieDraft(**{"title": "Heat", **members}))


def _replace_members(members: Members) -> MovieDraft:
    return drafted({"title": "Heat", **members}, HEAT)


def _patch_members(members: Members) -> MovieDraft:
    return patched(HEAT, members)


def _patch_struct(members: Members) -> MovieDraft:
    return patched(HEAT, MoviePatch(**members))


#: Every way of writing client fields: all of them keep the same rules.
WAYS = [_draft_members, _draft_struct, _replace_members, _patch_members, _patch_struct]

every_way = pytest.mark.parametrize("write", WAYS, ids=lambda way: way.__name__.strip("_"))


@every_way
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("title", "x"),
        ("title", "x" * 255),
        ("title", ASTRAL * 255),
        ("title", "e\u0301"),
        ("title", "\u200b"),
        ("title", "a\u2028b"),
        ("title", "a\u00a0b"),
        ("description", None),
        ("description", ""),
        ("description", "x" * 10_000),
        ("description", ASTRAL * 10_000),
        ("description", "one\n\ttwo\nthree"),
        ("release_year", None),
        ("release_year", 1870),
        ("release_year", 2200),
        ("genre", None),
        ("genre", "x"),
        ("genre", "x" * 100),
        ("genre", ASTRAL * 100),
    ],
    ids=brief,
)
def test_what_keeps_the_rules_is_taken_as_it_is(write: Writing, name: str, value: object) -> None:
    assert getattr(write({name: value}), name) == value


@every_way
@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("title", None, "required"),
        ("title", "", "too_short"),
        ("title", " \t\r\n ", "too_short"),
        ("title", "\u3000\u00a0", "too_short"),
        ("title", "x" * 256, "too_long"),
        ("title", ASTRAL * 256, "too_long"),
        ("title", 5, "wrong_type"),
        ("title", True, "wrong_type"),
        ("title", ["Heat"], "wrong_type"),
        ("title", {"en": "Heat"}, "wrong_type"),
        ("description", "x" * 10_001, "too_long"),
        ("description", ASTRAL * 10_001, "too_long"),
        ("description", 5, "wrong_type"),
        ("description", False, "wrong_type"),
        ("release_year", 1869, "too_small"),
        ("release_year", 0, "too_small"),
        ("release_year", -1995, "too_small"),
        ("release_year", -(10**30), "too_small"),
        ("release_year", 2201, "too_large"),
        ("release_year", 2**63, "too_large"),
        ("release_year", 10**30, "too_large"),
        ("release_year", 10**5_000, "too_large"),
        ("release_year", "1999", "wrong_type"),
        ("release_year", 1999.0, "wrong_type"),
        ("release_year", float("nan"), "wrong_type"),
        ("release_year", float("inf"), "wrong_type"),
        ("release_year", True, "wrong_type"),
        ("release_year", False, "wrong_type"),
        ("release_year", [1999], "wrong_type"),
        ("release_year", {}, "wrong_type"),
        ("genre", "", "too_short"),
        ("genre", "   ", "too_short"),
        ("genre", "x" * 101, "too_long"),
        ("genre", ASTRAL * 101, "too_long"),
        ("genre", 0, "wrong_type"),
    ],
    ids=brief,
)
def test_what_breaks_a_rule_is_refused_by_its_name(
    write: Writing, name: str, value: object, code: str
) -> None:
    assert faults_of(write, {name: value}) == [(f"#/{name}", code)]


@every_way
@pytest.mark.parametrize("name", ["title", "description", "genre"])
@pytest.mark.parametrize(
    "code_point", [0x00, 0x07, 0x08, 0x0B, 0x0C, 0x0D, 0x1B, 0x1F, 0x7F, 0x80, 0x85, 0x9F]
)
def test_no_text_holds_a_control_character(write: Writing, name: str, code_point: int) -> None:
    assert faults_of(write, {name: f"a{chr(code_point)}b"}) == [(f"#/{name}", "forbidden_character")]


@every_way
@pytest.mark.parametrize("name", ["title", "genre"])
@pytest.mark.parametrize("text", ["a\nb", "a\tb", "a\r\nb"])
def test_only_a_description_holds_newlines_and_tabs(write: Writing, name: str, text: str) -> None:
    assert faults_of(write, {name: text}) == [(f"#/{name}", "forbidden_character")]
    assert write({"description": text}).description == text.replace("\r\n", "\n")


@every_way
@pytest.mark.parametrize("name", ["title", "description", "genre"])
@pytest.mark.parametrize("code_point", [0xD800, 0xDBFF, 0xDC00, 0xDCFF, 0xDFFF])
def test_no_text_holds_a_lone_surrogate(write: Writing, name: str, code_point: int) -> None:
    assert faults_of(write, {name: f"a{chr(code_point)}b"}) == [(f"#/{name}", "forbidden_character")]


@every_way
@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("  Heat\t", "Heat"),
        ("\r\nHeat\r\n", "Heat"),
        ("\u3000Heat\u00a0", "Heat"),
        (" " * 300 + "x" * 90 + "\n" * 300, "x" * 90),
    ],
    ids=brief,
)
def test_texts_are_trimmed_before_they_are_measured(write: Writing, given: str, stored: str) -> None:
    for name in ("title", "description", "genre"):
        assert getattr(write({name: given}), name) == stored


@every_way
def test_crlf_becomes_lf_before_a_text_is_measured(write: Writing) -> None:
    assert write({"description": "a\r\n" * 4_999 + "bc"}).description == "a\n" * 4_999 + "bc"
    assert write({"description": "a\r\n\r\nb"}).description == "a\n\nb"


@every_way
@pytest.mark.parametrize("text", ["a\rb", "a\r\r\nb", "a\n\rb"])
def test_a_carriage_return_of_its_own_is_refused(write: Writing, text: str) -> None:
    assert faults_of(write, {"description": text}) == [("#/description", "forbidden_character")]


@every_way
def test_a_blank_description_is_an_empty_one(write: Writing) -> None:
    assert write({"description": " \r\n\t "}).description == ""


@every_way
def test_every_fault_is_listed_at_once(write: Writing) -> None:
    broken = {
        "title": "x" * 256 + "\x00",
        "description": "\ud800" + "x" * 10_000,
        "release_year": 1,
        "genre": " ",
    }
    assert sorted(faults_of(write, broken)) == [
        ("#/description", "forbidden_character"),
        ("#/description", "too_long"),
        ("#/genre", "too_short"),
        ("#/release_year", "too_small"),
        ("#/title", "forbidden_character"),
        ("#/title", "too_long"),
    ]


@pytest.mark.parametrize("write", [drafted, lambda members: drafted(members, HEAT)], ids=["new", "replaced"])
def test_a_draft_needs_a_title_and_nothing_else(write: Writing) -> None:
    assert write({"title": "Heat"}) == MovieDraft(title="Heat")
    assert faults_of(write, {}) == [("#/title", "required")]


def test_unknown_members_are_named_beside_every_other_fault() -> None:
    members = {"titel": "Heat", "id": 1, "version": 1, "genre": "", "release_year": "1999"}
    expected = {
        ("#/title", "required"),
        ("#/titel", "unknown_member"),
        ("#/id", "read_only"),
        ("#/version", "read_only"),
        ("#/genre", "too_short"),
        ("#/release_year", "wrong_type"),
    }
    faults = faults_of(drafted, members)
    assert set(faults) == expected
    assert len(faults) == len(expected)
    assert set(faults_of(patched, heat(title=""), {**members, "title": None})) == expected


@pytest.mark.parametrize("name", ["titel", "Title", "title ", "director", "_id", "titl\u0435"])
def test_a_member_that_only_looks_like_one_is_unknown(name: str) -> None:
    for write in (_draft_members, _replace_members, _patch_members):
        assert [code for _, code in faults_of(write, {name: None})] == ["unknown_member"]


@pytest.mark.parametrize(
    ("name", "pointer"),
    [
        ("a/b", "#/a~1b"),
        ("m~n", "#/m~0n"),
        ("~1", "#/~01"),
        ("a b", "#/a%20b"),
        ("c%d", "#/c%25d"),
        ('k"l', "#/k%22l"),
        ("i\\j", "#/i%5Cj"),
        ("e^f", "#/e%5Ef"),
        ("#", "#/%23"),
        ("", "#/"),
        ("\x00", "#/%00"),
        ("é", "#/%C3%A9"),
        (ASTRAL, "#/%F0%9F%8E%AC"),
    ],
)
def test_a_pointer_is_an_escaped_uri_fragment(name: str, pointer: str) -> None:
    for write in (_draft_members, _replace_members, _patch_members):
        assert faults_of(write, {name: 1}) == [(pointer, "unknown_member")]


@pytest.mark.parametrize("name", ["\ud800", "a\udfffb", "\udcff" * 200], ids=brief)
def test_a_surrogate_in_a_name_still_gives_a_fault_that_can_be_sent(name: str) -> None:
    ((pointer, code),) = faults_of(drafted, {"title": "Heat", name: 1})
    assert code == "unknown_member"
    assert pointer is not None
    assert pointer.startswith("#/")
    assert pointer.isascii()


def test_a_long_name_is_cut_in_its_pointer() -> None:
    ((pointer, _),) = faults_of(drafted, {"title": "Heat", "x" * 1_000_000: 1})
    assert pointer == "#/" + "x" * 100 + "%E2%80%A6"
    ((pointer, _),) = faults_of(drafted, {"title": "Heat", "x" * 100: 1})
    assert pointer == "#/" + "x" * 100


def test_more_faults_than_anybody_reads_are_cut_and_those_of_client_fields_come_first() -> None:
    members = {f"x{number}": 1 for number in range(5_000)} | {"genre": 5}
    ways: list[Writing] = [drafted, lambda members: patched(HEAT, {**members, "title": None})]
    for write in ways:
        faults = faults_of(write, members)
        assert len(faults) == MAX_FAULTS
        assert faults[:2] == [("#/title", "required"), ("#/genre", "wrong_type")]


# Members that the server sets.


def test_a_movie_sent_back_as_it_was_read_is_a_replacement_that_changes_nothing() -> None:
    members = as_json(HEAT)
    assert drafted(members, HEAT) == client_fields(HEAT)
    assert patched(HEAT, members) == client_fields(HEAT)


@pytest.mark.parametrize("name", ["id", "version", "image_url", "image", "created_at", "updated_at"])
def test_a_server_set_member_equal_to_the_current_one_is_ignored(name: str) -> None:
    value = as_json(getattr(HEAT, name))
    assert drafted({"title": "Ronin", name: value}, HEAT) == MovieDraft(title="Ronin")
    assert patched(HEAT, {"title": "Ronin", name: value}).title == "Ronin"


@pytest.mark.parametrize("name", ["image_url", "image", "created_at", "updated_at"])
def test_a_server_set_member_that_is_null_may_be_sent_back_as_null(name: str) -> None:
    bare = heat(**{name: None})
    assert drafted({"title": "Ronin", name: None}, bare) == MovieDraft(title="Ronin")
    assert patched(bare, {"title": "Ronin", name: None}).title == "Ronin"


def test_the_order_of_the_members_of_an_image_is_no_difference() -> None:
    image = as_json(POSTER)
    image["variants"] = dict(reversed(image["variants"].items()))
    turned = dict(reversed(image.items()))
    assert drafted({"title": "Ronin", "image": turned}, HEAT) == MovieDraft(title="Ronin")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", 8),
        ("id", "7"),
        ("id", 7.0),
        ("id", None),
        ("id", 10**30),
        ("id", 10**5_000),
        ("version", 4),
        ("version", 3.0),
        ("version", "3"),
        ("version", True),
        ("version", None),
        ("image_url", None),
        ("image_url", "https://elsewhere.example/"),
        ("image_url", "\ud800"),
        ("image", None),
        ("image", {}),
        ("image", "0123456789abcdef0123456789abcdef"),
        ("image", as_json(POSTER) | {"width": 601}),
        ("image", as_json(POSTER) | {"width": 600.0}),
        ("image", as_json(POSTER) | {"more": None}),
        ("image", as_json(POSTER) | {"variants": {}}),
        ("image", {name: value for name, value in as_json(POSTER).items() if name != "bytes"}),
        ("image", {"\ud800": "\ud800"}),
        ("created_at", None),
        ("created_at", "2026-11-22T10:00:01Z"),
        ("created_at", "2026-11-22"),
        ("created_at", 1_795_341_600),
        ("updated_at", "2026-11-22T10:00:00Z"),
    ],
    ids=brief,
)
def test_a_server_set_member_unlike_the_current_one_is_refused(name: str, value: object) -> None:
    assert faults_of(drafted, {"title": "Ronin", name: value}, HEAT) == [(f"#/{name}", "read_only")]
    assert faults_of(patched, HEAT, {"title": "Ronin", name: value}) == [(f"#/{name}", "read_only")]
    assert faults_of(patched, HEAT, {name: value}) == [(f"#/{name}", "read_only")]


@pytest.mark.parametrize("value", [True, 1.0, "1", [1]])
def test_one_is_neither_true_nor_a_float(value: object) -> None:
    first = heat(id=1, version=1)
    for name in ("id", "version"):
        assert faults_of(patched, first, {name: value}) == [(f"#/{name}", "read_only")]
        assert patched(first, {name: 1}) == client_fields(first)


@pytest.mark.parametrize("value", [0, False, "", [], {}, "null"])
def test_null_is_nothing_but_null(value: object) -> None:
    bare = heat(image=None, image_url=None, created_at=None, updated_at=None)
    for name in ("image", "image_url", "created_at", "updated_at"):
        assert faults_of(patched, bare, {name: value}) == [(f"#/{name}", "read_only")]


def test_a_new_movie_has_no_server_set_members_but_an_absent_image() -> None:
    assert drafted({"title": "Heat", "image": None, "image_url": None}) == MovieDraft(title="Heat")
    for name in ("id", "version", "created_at", "updated_at"):
        for value in (None, 1):
            assert faults_of(drafted, {"title": "Heat", name: value}) == [(f"#/{name}", "read_only")]
    for name in ("image", "image_url"):
        assert faults_of(drafted, {"title": "Heat", name: "/x"}) == [(f"#/{name}", "read_only")]


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("name", ["image", "id", "title", "release_year", "other"])
def test_a_value_nested_without_end_is_a_fault_like_any_other(name: str) -> None:
    deep = nested(100_000)
    for write in (_draft_members, _replace_members, _patch_members):
        ((pointer, _),) = faults_of(write, {name: deep})
        assert pointer == f"#/{name}"


# Patches.


def test_a_patch_keeps_what_it_leaves_out() -> None:
    assert patched(HEAT, {}) == client_fields(HEAT)
    assert patched(HEAT, MoviePatch()) == client_fields(HEAT)
    changes: Members = {"title": "Ronin", "description": "x", "release_year": 1998, "genre": "Y"}
    for name, value in changes.items():
        expected = msgspec.structs.replace(client_fields(HEAT), **{name: value})
        assert patched(HEAT, {name: value}) == expected
        assert patched(HEAT, MoviePatch(**{name: value})) == expected


def test_null_in_a_patch_clears_all_but_the_title() -> None:
    cleared: Members = {"description": None, "release_year": None, "genre": None}
    assert patched(HEAT, cleared) == MovieDraft(title="Heat")
    assert patched(HEAT, MoviePatch(**cleared)) == MovieDraft(title="Heat")
    assert faults_of(patched, HEAT, {"title": None}) == [("#/title", "required")]


def test_a_replacement_clears_what_it_leaves_out() -> None:
    assert drafted(MovieDraft(title="Heat"), HEAT) == MovieDraft(title="Heat")


def test_a_patch_that_says_what_is_there_changes_nothing() -> None:
    assert patched(HEAT, {"title": " Heat ", "description": "Cops.\r\nRobbers.\r\n"}) == client_fields(HEAT)


ADOPTED = [
    ("title", "", "too_short"),
    ("title", "   ", "too_short"),
    ("title", "a\x00b", "forbidden_character"),
    ("description", "x" * 10_001, "too_long"),
    ("description", "a\rb", "forbidden_character"),
    ("release_year", 0, "too_small"),
    ("release_year", 9999, "too_large"),
    ("genre", "", "too_short"),
    ("genre", "a\tb", "forbidden_character"),
]

every_adopted = pytest.mark.parametrize(("name", "value", "code"), ADOPTED, ids=brief)


@every_adopted
def test_an_adopted_movie_stays_as_it_is_under_a_patch_that_changes_nothing(
    name: str, value: Any, code: str
) -> None:
    del code
    adopted = heat(**{name: value})
    others = {field: getattr(adopted, field) for field in CLIENT_FIELDS if field != name}
    server = {"id": 7, "version": 3, "created_at": "2026-11-22T10:00:00Z"}
    for patch in ({}, others, server, others | server, MoviePatch(), MoviePatch(**others)):
        assert patched(adopted, patch) == client_fields(adopted)


@every_adopted
def test_saying_the_broken_value_again_changes_nothing_either(name: str, value: Any, code: str) -> None:
    del code
    adopted = heat(**{name: value})
    assert patched(adopted, {name: value}) == client_fields(adopted)
    everything = {field: getattr(adopted, field) for field in CLIENT_FIELDS}
    assert patched(adopted, everything) == client_fields(adopted)


@every_adopted
def test_a_patch_that_changes_an_adopted_movie_has_to_mend_it(name: str, value: Any, code: str) -> None:
    adopted = heat(**{name: value})
    other = "genre" if name != "genre" else "title"
    change: Members = {other: "Changed"}
    assert faults_of(patched, adopted, change) == [(f"#/{name}", code)]
    assert faults_of(patched, adopted, MoviePatch(**change)) == [(f"#/{name}", code)]
    # A fault of the patch does not hide the one that was there.
    assert set(faults_of(patched, adopted, {other: 5})) == {
        (f"#/{name}", code),
        (f"#/{other}", "wrong_type"),
    }
    mended = patched(adopted, {name: getattr(HEAT, name), other: "Changed"})
    assert getattr(mended, name) == getattr(HEAT, name)
    assert getattr(mended, other) == "Changed"


@every_adopted
def test_a_bad_member_in_a_patch_is_not_hidden_by_an_adopted_fault(name: str, value: Any, code: str) -> None:
    adopted = heat(**{name: value})
    assert ("#/nonsense", "unknown_member") in faults_of(patched, adopted, {"nonsense": 1})
    assert ("#/id", "read_only") in faults_of(patched, adopted, {"id": 8})
    assert (f"#/{name}", code) in faults_of(drafted, client_fields(adopted), adopted)


def test_an_adopted_text_that_is_only_untrimmed_stays_so_until_something_changes() -> None:
    adopted = heat(title=" Heat ", description="a\r\nb")
    assert patched(adopted, {}) == client_fields(adopted)
    assert patched(adopted, {"genre": "Crime"}) == client_fields(adopted)
    assert patched(adopted, {"genre": "Drama"}) == MovieDraft(
        title="Heat", description="a\nb", release_year=1995, genre="Drama"
    )


def test_reading_checks_nothing() -> None:
    row = Movie(1, "", "\x00", 5, "", "javascript:", None, 1, None, None)
    assert as_json(row)["release_year"] == 5
    assert client_fields(row) == MovieDraft(title="", description="\x00", release_year=5, genre="")


def test_a_movie_is_on_the_wire_as_api_md_shows_it() -> None:
    assert as_json(HEAT) == {
        "id": 7,
        "title": "Heat",
        "description": "Cops.\nRobbers.",
        "release_year": 1995,
        "genre": "Crime",
        "image_url": "/images/x",
        "image": {
            "key": "0123456789abcdef0123456789abcdef",
            "width": 600,
            "height": 900,
            "format": "jpeg",
            "bytes": 81234,
            "variants": {"thumbnail": "/t", "card": "/c"},
        },
        "version": 3,
        "created_at": "2026-11-22T10:00:00Z",
        "updated_at": "2026-11-22T11:00:00Z",
    }
