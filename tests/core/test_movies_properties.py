"""What holds for every draft and patch, whatever is sent."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchly_core.errors import InvalidMovie
from watchly_core.images import Image
from watchly_core.movies import CLIENT_FIELDS, Movie, MovieDraft, MoviePatch, client_fields, drafted, patched

AT = datetime(2026, 11, 22, 10, tzinfo=UTC)

#: Any code point, surrogates and control characters too, with those that rules speak of drawn often.
points = st.sampled_from("\r\n\t \x00\x85\u00a0\ud800\udcffé\U0001f3ac") | st.characters(
    exclude_categories=()
)
texts = st.text(points, max_size=30) | st.builds(
    lambda point, size: point * size, points, st.sampled_from([100, 101, 255, 256, 10_000, 10_001])
)
integers = st.integers() | st.integers(1868, 2202) | st.integers(0, 3)
scalars = st.none() | st.booleans() | integers | st.floats() | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
plausible = st.fixed_dictionaries(
    {},
    optional={"title": texts, "description": texts | st.none(), "release_year": integers, "genre": texts},
)
names = st.sampled_from(Movie.__struct_fields__) | texts
members = st.builds(lambda one, other: one | other, plausible, st.dictionaries(names, values, max_size=4))

images = st.none() | st.builds(
    Image, st.just("0" * 32), st.integers(1, 9), st.integers(1, 9), st.just("png"), st.just(3)
)
#: Movies as a database may hold them: any client field may break a rule.
movies = st.builds(
    Movie,
    id=st.integers(1, 3),
    title=texts,
    description=st.none() | texts,
    release_year=st.none() | integers,
    genre=st.none() | texts,
    image_url=st.none() | st.just("/images/x"),
    image=images,
    version=st.integers(1, 3),
    created_at=st.none() | st.just(AT),
    updated_at=st.none() | st.just(AT),
)


def result(write: Any, *args: Any) -> MovieDraft | None:
    """The draft that comes out, or None when it is refused in the one way allowed."""
    try:
        draft = write(*args)
    except InvalidMovie as error:
        invalid = error
    else:
        assert isinstance(draft, MovieDraft)
        return draft
    assert invalid.faults
    for fault in invalid.faults:
        assert fault.parameter is None
        assert (fault.pointer or "").startswith("#/")
        assert msgspec.json.decode(msgspec.json.encode(fault))["detail"] == fault.detail
        assert fault.detail in str(invalid)
    return None


def good_text(text: object, shortest: int, longest: int, allowed: str = "") -> bool:
    return (
        type(text) is str
        and text == text.strip()
        and shortest <= len(text) <= longest
        and not any(unicodedata.category(point) in {"Cc", "Cs"} and point not in allowed for point in text)
    )


def keeps_the_rules(draft: MovieDraft) -> bool:
    year = draft.release_year
    return (
        good_text(draft.title, 1, 255)
        and (draft.description is None or good_text(draft.description, 0, 10_000, "\n\t"))
        and (draft.genre is None or good_text(draft.genre, 1, 100))
        and (year is None or (type(year) is int and 1870 <= year <= 2200))
    )


@settings(deadline=None)
@given(members, st.none() | movies)
def test_whatever_is_sent_gives_a_good_draft_or_invalid_movie(
    sent: dict[str, Any], current: Movie | None
) -> None:
    draft = result(drafted, sent, current)
    if draft is not None:
        assert keeps_the_rules(draft)
        assert msgspec.json.decode(msgspec.json.encode(draft), type=MovieDraft) == draft


@settings(deadline=None)
@given(plausible)
def test_what_is_refused_breaks_a_rule_and_each_fault_names_a_field_that_does(sent: dict[str, Any]) -> None:
    def normal(value: object) -> object:
        return value.replace("\r\n", "\n").strip() if isinstance(value, str) else value

    cleaned: dict[str, Any] = {name: normal(value) for name, value in sent.items()}
    broken = {
        name
        for name in CLIENT_FIELDS
        if not keeps_the_rules(msgspec.structs.replace(MovieDraft(title="x"), **{name: cleaned.get(name)}))
    }
    if not broken:
        assert drafted(sent) == MovieDraft(**cleaned)
        return
    with pytest.raises(InvalidMovie) as caught:
        drafted(sent)
    assert {fault.pointer for fault in caught.value.faults} == {f"#/{name}" for name in broken}


@settings(deadline=None)
@given(members)
def test_drafting_a_draft_changes_nothing(sent: dict[str, Any]) -> None:
    draft = result(drafted, sent)
    if draft is not None:
        assert drafted(draft) == draft
        assert drafted(msgspec.json.decode(msgspec.json.encode(draft))) == draft


@settings(deadline=None)
@given(plausible)
def test_a_struct_and_a_mapping_are_judged_alike(sent: dict[str, Any]) -> None:
    sent.setdefault("title", "Heat")
    assert result(drafted, sent) == result(drafted, MovieDraft(**sent))


@settings(deadline=None)
@given(movies, members)
def test_whatever_patch_is_sent_gives_a_good_movie_or_the_one_there_was_or_invalid_movie(
    movie: Movie, sent: dict[str, Any]
) -> None:
    draft = result(patched, movie, sent)
    if draft is not None:
        assert draft == client_fields(movie) or keeps_the_rules(draft)


@settings(deadline=None)
@given(movies, plausible)
def test_a_patch_as_struct_and_as_mapping_are_judged_alike(movie: Movie, sent: dict[str, Any]) -> None:
    assert result(patched, movie, sent) == result(patched, movie, MoviePatch(**sent))


@settings(deadline=None)
@given(movies, plausible)
def test_a_patch_is_a_replacement_by_the_merged_movie(movie: Movie, sent: dict[str, Any]) -> None:
    draft = result(patched, movie, sent)
    if draft is not None and draft != client_fields(movie):
        assert draft == drafted(msgspec.structs.asdict(client_fields(movie)) | sent)
        again = msgspec.structs.replace(movie, **msgspec.structs.asdict(draft))
        assert patched(again, sent) == draft


@settings(deadline=None)
@given(movies)
def test_an_empty_patch_changes_no_movie_however_broken(movie: Movie) -> None:
    assert patched(movie, {}) == client_fields(movie)
    assert patched(movie, MoviePatch()) == client_fields(movie)
