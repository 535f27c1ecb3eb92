"""Lists of movies that are in memory: which of them a query finds, and in which order.

What a query means is written once: here, in `queries` and in `text`. A store that asks a server for the same
has to come to the same; a small one can read its movies and leave the rest to this.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

import msgspec

from watchly_core.movies import Movie
from watchly_core.queries import GenreCount, MovieQuery, Position
from watchly_core.text import Tier, matches, title_key, vocabulary
from watchly_core.text import entries as text_entries
from watchly_core.text import similar as similar_words

__all__ = ["count_genres", "entries_of", "found", "listed"]


def entries_of(movie: Movie) -> list[str]:
    """What a movie is found by."""
    return text_entries(movie.title, movie.description)


def listed(
    query: MovieQuery,
    movies: Collection[Movie],
    *,
    entries: Callable[[Movie], list[str]] = entries_of,
    most: int | None = None,
) -> tuple[list[tuple[Movie, Position]], bool]:
    """At most so many movies after the query's cursor in its order, each with its position.

    Args:
        query: which ones, and how they are ordered; its limit does not matter.
        movies: all movies of the catalogue, or where nothing is searched for those that pass the filters.
        entries: `entries_of`, or something that remembers what that came to.
        most: how many at most; None for all.

    Returns:
        The movies, and whether the words of the query had to be guessed (see `Page.of`).
    """
    admitted, similar = _admitted(query, movies, entries)
    placed = [
        (movie, query.position(movie, tier=tier, key=title_key(movie.title))) for movie, tier in admitted
    ]
    if query.cursor is not None:
        after = query.rank(query.cursor.position)
        placed = [item for item in placed if query.rank(item[1]) > after]
    return sorted(placed, key=lambda item: query.rank(item[1]))[:most], similar


def found(
    query: MovieQuery, movies: Collection[Movie], *, entries: Callable[[Movie], list[str]] = entries_of
) -> Sequence[Movie]:
    """All movies that a query finds on all its pages together, in no order; see `listed` for the rest."""
    return [movie for movie, _ in _admitted(msgspec.structs.replace(query, cursor=None), movies, entries)[0]]


def count_genres(movies: Iterable[Movie]) -> Sequence[GenreCount]:
    """The genres of these movies, the most frequent first, then by code point; no genre is none."""
    counts = Counter(movie.genre for movie in movies if movie.genre is not None)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [GenreCount(genre, number) for genre, number in ranked]


def _admitted(
    query: MovieQuery, movies: Collection[Movie], entries: Callable[[Movie], list[str]]
) -> tuple[list[tuple[Movie, int]], bool]:
    """The movies that a query finds, with their tiers, and whether its words had to be guessed."""
    tiers, similar = _tiers(query, movies, entries)
    admitted = []
    for movie in movies:
        if query.admits(movie):
            tier = 0 if tiers is None else _tier(entries(movie), tiers)
            if tier is not None:
                admitted.append((movie, tier))
    return admitted, similar


def _tiers(
    query: MovieQuery, movies: Collection[Movie], entries: Callable[[Movie], list[str]]
) -> tuple[list[Tier] | None, bool]:
    """The tiers of a query's search, and whether they hold similar words; None where all fit."""
    if query.search is None:
        return None, False
    if not query.search.words:
        return [], False
    exact = query.search.tiers()
    similar = query.cursor.similar if query.cursor else True
    if not similar or (
        query.cursor is None and any(_tier(entries(movie), exact) is not None for movie in movies)
    ):
        return exact, False
    known = {word for movie in movies for word in vocabulary(entries(movie))}
    guessed = {word: similar_words(word, known) for word in query.search.words}
    return query.search.similar_tiers(guessed), True


def _tier(entries: list[str], tiers: list[Tier]) -> int | None:
    return next((tier.number for tier in tiers if matches(entries, tier.pattern)), None)
