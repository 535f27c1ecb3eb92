"""What a match is: folding, words, trigrams, and the tiers of a search.

It is defined here alone. A store keeps the entries that `entries` makes of a movie and compares them with
the patterns of a `Search`, so every store gives the same answers, whatever its server thinks a letter is.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Final, TypeAlias

import msgspec

__all__ = [
    "LEAST_CLOSENESS",
    "MAX_KEY",
    "MAX_SIMILAR",
    "MAX_WORD",
    "Pattern",
    "Search",
    "Term",
    "Tier",
    "entries",
    "exchanges",
    "fold",
    "matches",
    "similar",
    "title_key",
    "trigrams",
    "vocabulary",
    "words",
]

#: Code points of a text that are searched.
_SEARCHED: Final = 20_000
#: Code points of a key to sort by, and of a word.
MAX_KEY: Final = 255
MAX_WORD: Final = 64

#: Letters that Unicode does not take apart, as people type them who lack them.
_LETTERS: Final = str.maketrans(
    {
        "ø": "o",
        "ł": "l",
        "đ": "d",
        "ð": "d",
        "þ": "th",
        "æ": "ae",
        "œ": "oe",
        "ħ": "h",
        "ŧ": "t",
        "\u0131": "i",  # without its dot
        # What looks like an apostrophe and counts as a letter, as in one spelling of Hawai'i.
        **dict.fromkeys("\u02b9\u02ba\u02bb\u02bc\u02be\u02bf", "'"),
    }
)
#: "8½" is "8 1/2" and not "81/2", "Alien³" is "Alien 3".
_RAISED: Final = "⁰¹²³⁴-⁹"
_APART: Final = re.compile(rf"(?<=\S)(?:(?=[¼-¾⅐-⅟↉])|(?<![{_RAISED}])(?=[{_RAISED}]))")
#: What nobody sees (Unicode 15, Default_Ignorable_Code_Point), and the signs of marks in trade.
_SILENT: Final = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff\u2120\u2122]"
)
#: Marks that make another sound of a kana, and not an accent.
_VOICED: Final = "\u3099\u309a"


def fold(text: str) -> str:
    """`text` without case, accents, compatibility forms and what is not seen.

    Source: Unicode 15, sections 3.13 and 5.18; UAX #15.
    """
    if text.isascii():
        return text.lower()
    spaced = _APART.sub(" ", _SILENT.sub("", text))
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", spaced).casefold())
    bare = "".join(letter for letter in plain if letter in _VOICED or not unicodedata.combining(letter))
    return unicodedata.normalize("NFC", bare.translate(_LETTERS))


def title_key(title: str) -> str:
    """What titles are sorted by; equal keys are told apart by the titles' code points."""
    return fold(title[:MAX_KEY])[:MAX_KEY]


#: Hyphens, apostrophes, dots and what else stands between letters without a space.
_JOINTS: Final = "-\u2010\u2012\u2013'\u2018\u2019.\u00b7\u30fb/:,&*"
#: Vowel signs and the like, which are parts of words: the scripts that have them lie in these blocks.
_BLOCKS: Final = (range(0x0300, 0x1E00), range(0xA800, 0xAC00))


@cache
def _word() -> str:
    """The expression of a word. It takes a while to make, so it and what holds it wait to be needed."""
    points = chain.from_iterable(_BLOCKS)
    signs = "".join(sign for sign in map(chr, points) if unicodedata.category(sign)[0] == "M")
    return rf"\w[\w{_VOICED}{signs}]*"


@cache
def _words() -> re.Pattern[str]:
    return re.compile(_word())


@cache
def _runs() -> re.Pattern[str]:
    """Words that marks join may be typed as one: "Spider-Man", "L'Avventura", "M*A*S*H", "10,000 BC"."""
    return re.compile(rf"{_word()}(?:[{_JOINTS}]{_word()})*")


#: Characters of scripts without spaces are words by themselves: Han, and hiragana, which stands between.
_UNSPACED: Final = re.compile("[\u3041-\u3096\u309d-\u309f\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]")


def _searched(text: str) -> str:
    # The underscore is the one mark that expressions take for a letter.
    folded = fold(text[:_SEARCHED])[:_SEARCHED].replace("_", " ")
    return folded if folded.isascii() else _UNSPACED.sub(r" \g<0> ", folded)


def words(text: str) -> list[str]:
    """The words of `text`, folded, in their order: runs of letters, digits and their marks."""
    return _words_in(_searched(text))


def _words_in(searched: str) -> list[str]:
    return [word[:MAX_WORD] for word in _words().findall(searched)]


def _spellings(searched: str) -> Iterator[str]:
    """The words of a text as `_searched` gives it, and those that marks join once more as one word."""
    for run in _runs().findall(searched):
        if run.isalnum():
            yield run[:MAX_WORD]
            continue
        parts = _words().findall(run)
        yield from (part[:MAX_WORD] for part in parts)
        if len(parts) > 1:
            yield "".join(parts)[:MAX_WORD]


#: What an entry begins with when it is a whole title, the first characters or a word of one. No word does.
_TITLE: Final = "^"
_TITLE_START: Final = "<"
_IN_TITLE: Final = "="
#: Beginnings of so few characters are entries of their own: what many movies share has to be told at once.
_SHORT: Final = 3


def entries(title: str, description: str | None) -> list[str]:
    """What a movie is found by, in code point order: its words, those of its title once more, its title.

    They hold letters, digits, marks and spaces, behind at most one ``=``, ``^`` or ``<``.
    """
    searched = _searched(title)
    in_title = set(_spellings(searched))
    found = in_title.union(_spellings(_searched(description or "")))
    found.update([_IN_TITLE + word for word in in_title])
    if in_title:
        whole = " ".join(_words_in(searched))[:MAX_KEY]
        found.add(_TITLE + whole)
        found.update([_TITLE_START + whole[:length] for length in range(1, min(len(whole), _SHORT) + 1)])
    return sorted(found)


def vocabulary(found: Iterable[str]) -> list[str]:
    """Those of a movie's entries that are plain words: what a mistyped word may have meant."""
    return [entry for entry in found if entry[0] not in {_TITLE, _TITLE_START, _IN_TITLE}]


def trigrams(word: str) -> list[str]:
    """Every three characters in a row of `word` between two spaces and one, each once.

    Source: PostgreSQL manual, appendix F, pg_trgm.
    """
    padded = f"  {word} "
    return list(dict.fromkeys(padded[start : start + 3] for start in range(len(word) + 1)))


#: Of the words that are similar to one, so many count: the closest, then by code point.
MAX_SIMILAR: Final = 100
#: The tenths of their trigrams that two words have in common at least, for one to stand for the other.
LEAST_CLOSENESS: Final = 3
_CLOSEST: Final = 10


def similar(word: str, known: Iterable[str]) -> dict[str, int]:
    """The words that `word` may have been meant to be, each with its closeness.

    Those are the `known` words that share trigrams enough with it, or come about when two neighbouring
    characters of it are exchanged. Closeness is in tenths, rounded down: trigrams in common over trigrams
    of either (the Jaccard index).
    """
    own = frozenset(trigrams(word))
    exchanged = frozenset(exchanges(word))
    found = {}
    for other in known:
        theirs = trigrams(other)
        common = len(own.intersection(theirs))
        closeness = 10 * common // (len(own) + len(theirs) - common)
        if closeness >= LEAST_CLOSENESS or other in exchanged:
            found[other] = max(closeness, LEAST_CLOSENESS)
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0]))[:MAX_SIMILAR])


def exchanges(word: str) -> list[str]:
    """What `word` becomes when two neighbouring characters are exchanged."""
    return [
        word[:place] + word[place + 1] + word[place] + word[place + 2 :]
        for place in range(len(word) - 1)
        if word[place] != word[place + 1]
    ]


class Term(msgspec.Struct, frozen=True):
    """An entry, or with `prefix` every entry that begins so."""

    text: str
    prefix: bool


#: Matches a movie that has, for each member, an entry of one of its terms.
Pattern: TypeAlias = tuple[tuple[Term, ...], ...]


class Tier(msgspec.Struct, frozen=True):
    """One step of relevance: the movies that match `pattern` and that of no tier before it."""

    number: int
    pattern: Pattern


class Search(msgspec.Struct, frozen=True):
    """What the words of a `q` ask for; with no words it finds nothing."""

    words: tuple[str, ...]

    @classmethod
    def of(cls, q: str) -> Search:
        """The search that `q` stands for."""
        return cls(tuple(words(q)))

    def tiers(self) -> list[Tier]:
        """By relevance: the title itself, its beginning, words of it, words of the description as well."""
        if not self.words:
            return []
        title = " ".join(self.words)
        every = tuple((Term(word, prefix=True),) for word in self.words)
        # Of a longer one the entries hold the beginning: its words have to match as well.
        rest, title = (every if len(title) > MAX_KEY else ()), title[:MAX_KEY]
        short = len(title) <= _SHORT
        start = Term((_TITLE_START if short else _TITLE) + title, prefix=not short)
        return [
            Tier(0, ((Term(_TITLE + title, prefix=False),), *rest)),
            Tier(1, ((start,), *rest)),
            Tier(2, tuple((Term(_IN_TITLE + word, prefix=True),) for word in self.words)),
            Tier(3, every),
        ]

    def similar_tiers(self, meant: Mapping[str, Mapping[str, int]]) -> list[Tier]:
        """By relevance, where words may stand for others: first those of the title, the closest first.

        `meant` gives for each word what `similar` found for it.
        """
        found: list[Tier] = []
        number = len(self.tiers())
        if not self.words:
            return found
        for place in (_IN_TITLE, ""):
            for closeness in range(_CLOSEST, LEAST_CLOSENESS - 1, -1):
                pattern = tuple(
                    (
                        Term(place + word, prefix=True),
                        *(
                            Term(place + other, prefix=False)
                            for other, near in meant[word].items()
                            if near >= closeness
                        ),
                    )
                    for word in self.words
                )
                # A step at which no word is added finds nothing new, yet keeps its number.
                if not found or found[-1].pattern != pattern:
                    found.append(Tier(number, pattern))
                number += 1
        return found


def matches(found: Sequence[str], pattern: Pattern) -> bool:
    """Whether a movie with these entries matches `pattern`."""
    return all(any(_has(found, term) for term in terms) for terms in pattern)


def _has(found: Sequence[str], term: Term) -> bool:
    place = bisect_left(found, term.text)
    if place == len(found):
        return False
    return found[place].startswith(term.text) if term.prefix else found[place] == term.text
