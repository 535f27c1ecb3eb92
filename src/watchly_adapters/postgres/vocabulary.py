"""The words of all movies, and those among them that a mistyped word may have meant."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

from psycopg.rows import scalar_row

from watchly_adapters.postgres.pool import HostConnection, cursor
from watchly_adapters.postgres.statements import Statement
from watchly_core.movies import Movie, MovieDraft
from watchly_core.text import (
    LEAST_CLOSENESS,
    MAX_SIMILAR,
    entries,
    exchanges,
    similar,
    title_key,
    trigrams,
    vocabulary,
)

#: Words that bulk loads remember to have noted, so that they ask for each once.
_REMEMBERED: Final = 200_000

#: Those of some words that are not known yet; each has its first trigram, if it has any.
SELECT_UNKNOWN: Final = """
    SELECT word FROM unnest(%s::text[]) AS given (word)
    WHERE NOT EXISTS (
        SELECT FROM trigrams
        WHERE trigrams.trigram = '  ' || left(given.word, 1) AND trigrams.word = given.word
    )
"""
_UNKNOWN: Final = "/* vocabulary.unknown */" + SELECT_UNKNOWN
_LEARN: Final = Statement("""/* vocabulary.learn */
    INSERT INTO trigrams (trigram, word, size) SELECT * FROM unnest(%s::text[], %s::text[], %s::integer[])
""")
# A word that two transactions learned at once is there twice.
_CLOSE: Final = """/* vocabulary.close */
    (SELECT word FROM (
        SELECT word, size, count(*) AS common
        FROM (SELECT DISTINCT trigram, word, size FROM trigrams WHERE trigram = ANY(%s::text[])) AS shared
        WHERE 10 * size >= %s * %s AND %s * size <= 10 * %s
        GROUP BY word, size
    ) AS counted
    WHERE 10 * common >= %s * (%s + size - common)
    ORDER BY 10 * common / (%s + size - common) DESC, word LIMIT %s)
    UNION
    SELECT word FROM trigrams WHERE (trigram, word) IN (
        SELECT '  ' || left(word, 1), word FROM unnest(%s::text[]) AS exchanged (word)
    )
"""


class Searched(NamedTuple):
    """What the row of a movie holds for sorting and finding it, and the words of it."""

    title_key: str
    search: str
    words: list[str]


def index(movie: Movie | MovieDraft) -> Searched:
    """What a movie is sorted by and found by: `search` as the text of a tsvector."""
    found = entries(movie.title, movie.description)
    # Entries hold no quote and no backslash.
    search = " ".join([f"'{entry}'" for entry in found])
    return Searched(title_key(movie.title), search, vocabulary(found))


class Vocabulary:
    """The vocabulary on a connection that is inside a transaction.

    Args:
        connection: the connection.
        remembers: whether words that were noted once are not asked for again. That is only for transactions
            of our own: a host may undo a part of one.
    """

    def __init__(self, connection: HostConnection, *, remembers: bool = False) -> None:
        self._connection = connection
        self._remembers = remembers
        self._noted: set[str] = set()

    async def learn(self, words: AbstractSet[str]) -> None:
        """Note those of `words` that are not known yet."""
        async with cursor(self._connection, scalar_row) as asked:
            await asked.execute(_UNKNOWN, (list(words - self._noted),))
            await self.add(await asked.fetchall())
        if self._remembers:
            if len(self._noted) > _REMEMBERED:
                self._noted.clear()
            self._noted |= words

    async def add(self, words: Iterable[str]) -> None:
        """Note words that `SELECT_UNKNOWN` gave in the same transaction."""
        rows = [
            (trigram, word, len(found)) for word in words for found in [trigrams(word)] for trigram in found
        ]
        if rows:
            await _LEARN.later(self._connection, tuple(map(list, zip(*rows, strict=True))))


async def meant(connection: HostConnection, words: Iterable[str]) -> dict[str, dict[str, int]]:
    """What each of `words` may have been meant to be, see `text.similar`."""
    found = {}
    async with cursor(connection, scalar_row) as asked:
        for word in dict.fromkeys(words):
            own = trigrams(word)
            size, least = len(own), LEAST_CLOSENESS
            bounds = (least, size, least, size, least, size, size, MAX_SIMILAR)
            await asked.execute(_CLOSE, (own, *bounds, exchanges(word)))
            found[word] = similar(word, await asked.fetchall())
    return found
