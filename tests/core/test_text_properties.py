"""Folding, words, entries and similarity under every text that a movie or a search may hold."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from itertools import product

from hypothesis import example, given, settings
from hypothesis import strategies as st

from watchly_core.text import (
    LEAST_CLOSENESS,
    MAX_KEY,
    MAX_SIMILAR,
    MAX_WORD,
    Search,
    entries,
    fold,
    matches,
    similar,
    title_key,
    vocabulary,
    words,
)

#: What search has to treat apart, drawn often; any code point, lone surrogates included.
odd = st.sampled_from(
    " _-'’.·/&*,:=^\\\"%|!()<>\x00\t\n\u00ad\u200b\u200d\u202e\u3099\u309b\u0301\u0345\u094d\u0940\u0e38"  # noqa: RUF001
    "½²ßøłæıİΣςй가ᄀ\u1160ガｶﾞ七侍\ufdfa\ufe0f\U0001f3ac\U000e0100ʼŉ™Ａ１"  # noqa: RUF001
)
texts = st.text(st.sampled_from("abcdeABC") | odd | st.characters(exclude_categories=()))
OF_A_AND_B = ["".join(letters) for size in range(1, 9) for letters in product("ab", repeat=size)]
short_words = st.text("abcde", min_size=1, max_size=8)
phrases = st.lists(st.text("abAé-' ", max_size=6), max_size=5).map(" ".join)

ENTRY = re.compile("[<=^]?[^<=^]+")


@settings(deadline=None)
@given(texts)
@example("ŉ\u0345ᾳ")
def test_what_is_folded_stays_as_it_is(text: str) -> None:
    folded = fold(text)
    assert fold(folded) == folded
    assert unicodedata.is_normalized("NFC", folded)


@settings(deadline=None)
@given(st.text())
def test_case_and_the_form_of_accents_do_not_matter(text: str) -> None:
    assert fold(unicodedata.normalize("NFD", text)) == fold(unicodedata.normalize("NFC", text)) == fold(text)
    assert fold(text.casefold()) == fold(text)
    assert words(text.upper()) == words(text.upper().lower())


@settings(deadline=None)
@given(texts)
def test_words_are_made_of_letters_digits_and_marks(text: str) -> None:
    found = words(text)
    for word in found:
        assert 1 <= len(word) <= MAX_WORD
        assert word[0].isalnum()
        assert all(letter.isalnum() or unicodedata.category(letter)[0] == "M" for letter in word)
    # Words are what is between other words: they come again from what they make.
    assert words(" ".join(found)) == found


def has_sound_entries(title: str, description: str | None) -> None:
    """Entries are safe between the quotes of a lexeme, and as small as PostgreSQL wants them."""
    found = entries(title, description)
    assert found == sorted(set(found))
    for entry in found:
        assert ENTRY.fullmatch(entry)
        bare = entry[1:] if entry[0] in "<=^" else entry
        assert all(
            letter.isalnum() or letter == " " or unicodedata.category(letter)[0] == "M" for letter in bare
        )
        assert " " not in bare or entry[0] in "<^"
        assert bare == bare.lstrip()
        assert len(bare) <= (MAX_KEY if entry[0] == "^" else MAX_WORD)
        assert len(entry.encode()) <= 2_046
    # A tsvector holds less than 1 MB, with a few bytes for each of its entries.
    assert sum(len(entry.encode()) + 8 for entry in found) < 1_000_000
    # All words are there, those of the title once more, and the title if it has one.
    in_title = {entry[1:] for entry in found if entry[0] == "="}
    plain = set(vocabulary(found))
    assert set(words(title)) <= in_title <= plain
    assert set(words(description or "")) <= plain
    assert len([entry for entry in found if entry[0] == "^"]) == bool(words(title))
    assert len([entry for entry in found if entry[0] == "<"]) == min(3, len(" ".join(words(title))))


@settings(deadline=None)
@given(texts, st.none() | texts)
def test_entries_of_any_movie_are_sound(title: str, description: str | None) -> None:
    has_sound_entries(title, description)


@settings(deadline=None, max_examples=20)
@given(st.text(odd, min_size=1, max_size=8), st.integers(1, 30_000), st.integers(1, 30_000))
@example("\ufdfa", 30_000, 30_000)
@example("\U00010400.", 30_000, 30_000)
def test_entries_of_very_long_texts_are_sound(text: str, title: int, description: int) -> None:
    has_sound_entries(text * (title // len(text)), text * (description // len(text)))


def test_entries_of_20_000_different_letters_are_sound() -> None:
    letters = [chr(point) for point in range(0x20000, 0x2A6D0)]
    for joint in ("", " ", ".", " .", ". "):
        has_sound_entries(joint.join(letters), joint.join(reversed(letters)))
    has_sound_entries("".join(letters[n] + "." * (n % 3 > 0) for n in range(20_000)), None)


@settings(deadline=None)
@given(texts)
def test_a_title_finds_itself_first(title: str) -> None:
    tiers = Search.of(title).tiers()
    assert bool(tiers) == bool(words(title))
    assert all(matches(entries(title, None), tier.pattern) for tier in tiers)


def naive_tier(q: str, title: str, description: str) -> int | None:
    """Relevance as the issue words it, where no marks join words."""
    asked, in_title = words(q), words(title)
    anywhere = in_title + words(description)
    if not asked:
        return None
    if asked == in_title:
        return 0
    if " ".join(in_title).startswith(" ".join(asked)):
        return 1
    for tier, places in ((2, in_title), (3, anywhere)):
        if all(any(place.startswith(word) for place in places) for word in asked):
            return tier
    return None


unjoined = st.lists(st.text("abAé", max_size=3), max_size=5).map(" ".join)


@settings(deadline=None)
@given(unjoined, unjoined, unjoined)
def test_tiers_are_what_they_say(q: str, title: str, description: str) -> None:
    found = entries(title, description)
    tier = next((tier.number for tier in Search.of(q).tiers() if matches(found, tier.pattern)), None)
    assert tier == naive_tier(q, title, description)


@settings(deadline=None)
@given(phrases, phrases, phrases)
def test_a_movie_that_is_found_is_found_by_less_as_well(q: str, title: str, description: str) -> None:
    found = entries(title, description)

    def finds(text: str) -> bool:
        return any(matches(found, tier.pattern) for tier in Search.of(text).tiers())

    if finds(q):
        asked = words(q)
        for word in asked:
            assert finds(word)
            assert finds(word[:1])
        assert finds(" ".join(reversed(asked)))
        assert finds(q.upper())


def naive_trigrams(word: str) -> set[str]:
    padded = "  " + word + " "
    return {"".join(three) for three in zip(padded, padded[1:], padded[2:], strict=False)}


@settings(deadline=None)
@given(short_words, st.sets(short_words, max_size=20))
def test_similar_words_have_three_tenths_of_their_trigrams_in_common_or_two_letters_exchanged(
    word: str, known: set[str]
) -> None:
    exchanged = set()
    for place in range(len(word) - 1):
        letters = list(word)
        letters[place : place + 2] = reversed(letters[place : place + 2])
        exchanged.add("".join(letters))
    expected = dict.fromkeys((exchanged - {word}) & known, LEAST_CLOSENESS)
    for other in known:
        common = naive_trigrams(word) & naive_trigrams(other)
        index = Fraction(len(common), len(naive_trigrams(word) | naive_trigrams(other)))
        if index >= Fraction(LEAST_CLOSENESS, 10):
            expected[other] = max(int(index * 10), expected.get(other, 0))
    assert similar(word, known) == expected


@settings(deadline=None)
@given(st.text("ab", min_size=4, max_size=6), st.permutations(OF_A_AND_B), st.integers(150, len(OF_A_AND_B)))
def test_of_many_similar_words_the_closest_count(word: str, shuffled: list[str], size: int) -> None:
    known = shuffled[:size]
    each = [(other, near) for other in known for near in similar(word, [other]).values()]
    each.sort(key=lambda item: (-item[1], item[0]))
    assert list(similar(word, known).items()) == each[:MAX_SIMILAR]


meanings = st.dictionaries(short_words, st.integers(LEAST_CLOSENESS, 10), max_size=4)


@settings(deadline=None)
@given(st.lists(short_words, min_size=1, max_size=3), st.data(), phrases, phrases)
def test_the_tier_of_a_movie_is_told_by_its_least_close_word(
    asked: list[str], data: st.DataObject, title: str, description: str
) -> None:
    meant = {word: data.draw(meanings, label=word) for word in asked}
    tiers = Search(tuple(asked)).similar_tiers(meant)
    numbers = [tier.number for tier in tiers]
    assert numbers == sorted(set(numbers))
    assert set(numbers) <= set(range(4, 20))
    found = entries(title, description)
    tier = next((tier.number for tier in tiers if matches(found, tier.pattern)), None)

    def closeness(word: str, places: list[str]) -> int:
        if any(place.startswith(word) for place in places):
            return 10
        return max([near for other, near in meant[word].items() if other in places], default=0)

    in_title = [entry[1:] for entry in found if entry[0] == "="]
    expected = None
    for first, places in ((4, in_title), (12, vocabulary(found))):
        least = min(closeness(word, places) for word in asked)
        if expected is None and least >= LEAST_CLOSENESS:
            expected = first + 10 - least
    assert tier == expected


@settings(deadline=None)
@given(texts)
def test_a_key_to_sort_by_is_bounded_and_blind_to_case(title: str) -> None:
    key = title_key(title)
    assert len(key) <= MAX_KEY
    assert title_key(title.upper().lower()) == title_key(title.upper())
