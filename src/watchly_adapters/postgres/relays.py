"""The relay's ledger in PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from psycopg import AsyncCursor
from psycopg.rows import args_row, tuple_row

from watchly_adapters.postgres.pool import HostConnection, cursor
from watchly_adapters.postgres.turns import SILENCE
from watchly_core.errors import TargetNotFound
from watchly_core.messages import Letter, LetterCount, Message, Target

_TARGET: Final = " name, url, secret, position, version, failures, failing_since, due_at, reason "
_ADD: Final = (
    "/* relays.add */ INSERT INTO relay_targets ("
    + _TARGET
    + ") VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"
)
_TARGETS: Final = "/* relays.targets */ SELECT" + _TARGET + 'FROM relay_targets ORDER BY name COLLATE "C"'
# A process that is frozen or gone without a word holds the row no longer than it keeps its turn.
_LEND: Final = "/* relays.lend */ SELECT set_config('idle_in_transaction_session_timeout', %s, true)"
_GET: Final = "/* relays.get */ SELECT" + _TARGET + "FROM relay_targets WHERE name = %s FOR UPDATE"
_REPLACE: Final = """/* relays.replace */
    UPDATE relay_targets
    SET url = %s, secret = %s, position = %s, version = %s,
        failures = %s, failing_since = %s, due_at = %s, reason = %s
    WHERE name = %s
"""
_REMOVE: Final = "/* relays.remove */ DELETE FROM relay_targets WHERE name = %s"

_LETTER: Final = " seq, message_id, movie_id, kind, body, due_at, attempts, reason "
_KEEP: Final = (
    "/* relays.keep */ INSERT INTO relay_letters (target,"
    + _LETTER
    + """
    ) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT (target, seq) DO UPDATE
    SET due_at = excluded.due_at, attempts = excluded.attempts, reason = excluded.reason
    """
)
_DROP: Final = "/* relays.drop */ DELETE FROM relay_letters WHERE target = %s AND seq = ANY(%s)"
_DUE: Final = (
    "/* relays.due */ SELECT"
    + _LETTER
    + """
    FROM (
        SELECT DISTINCT ON (movie_id) *
        FROM relay_letters WHERE target = %s AND due_at IS NOT NULL ORDER BY movie_id, seq
    ) AS oldest
    WHERE due_at <= %s ORDER BY due_at, seq LIMIT %s
    """
)
_HEADS: Final = """/* relays.heads */
    SELECT DISTINCT ON (movie_id) movie_id, due_at
    FROM relay_letters WHERE target = %s AND due_at IS NOT NULL ORDER BY movie_id, seq
"""
_DEAD: Final = (
    "/* relays.dead */ SELECT"
    + _LETTER
    + "FROM relay_letters WHERE target = %s AND due_at IS NULL AND seq > %s ORDER BY seq LIMIT %s"
)
_COUNT: Final = """/* relays.count */
    SELECT count(due_at), count(*) - count(due_at) FROM relay_letters WHERE target = %s
"""


class PostgresRelayLedger:
    """Satisfies `ports.RelayLedger` on a connection that is inside a transaction."""

    def __init__(self, connection: HostConnection) -> None:
        self._connection = connection

    async def add(self, target: Target) -> bool:
        """See the port."""
        values = (target.name, *_values(target))
        done = await cursor(self._connection, tuple_row).execute(_ADD, values)
        return done.rowcount == 1

    async def targets(self) -> Sequence[Target]:
        """See the port."""
        async with self._targets() as asked:
            await asked.execute(_TARGETS)
            return await asked.fetchall()

    async def get(self, name: str) -> Target:
        """See the port."""
        await cursor(self._connection, tuple_row).execute(_LEND, (SILENCE,))
        async with self._targets() as asked:
            await asked.execute(_GET, (name,))
            target = await asked.fetchone()
        if target is None:
            raise TargetNotFound(name)
        return target

    async def replace(self, target: Target) -> None:
        """See the port."""
        values = (*_values(target), target.name)
        done = await cursor(self._connection, tuple_row).execute(_REPLACE, values)
        if not done.rowcount:
            raise TargetNotFound(target.name)

    async def remove(self, name: str) -> None:
        """See the port."""
        done = await cursor(self._connection, tuple_row).execute(_REMOVE, (name,))
        if not done.rowcount:
            raise TargetNotFound(name)

    async def keep(self, name: str, *letters: Letter) -> None:
        """See the port."""
        if letters:
            async with cursor(self._connection, tuple_row) as sink:
                await sink.executemany(_KEEP, [(name, *_row(letter)) for letter in letters])

    async def drop(self, name: str, *seqs: int) -> None:
        """See the port."""
        if seqs:
            await cursor(self._connection, tuple_row).execute(_DROP, (name, list(seqs)))

    async def due(self, name: str, now: datetime, limit: int) -> Sequence[Letter]:
        """See the port."""
        async with self._letters() as asked:
            await asked.execute(_DUE, (name, now, limit))
            return await asked.fetchall()

    async def heads(self, name: str) -> Mapping[int, datetime]:
        """See the port."""
        async with cursor(self._connection, args_row(_head), binary=True) as asked:
            await asked.execute(_HEADS, (name,))
            return dict(await asked.fetchall())

    async def dead(self, name: str, limit: int, *, after: int = 0) -> Sequence[Letter]:
        """See the port."""
        async with self._letters() as asked:
            await asked.execute(_DEAD, (name, after, limit))
            return await asked.fetchall()

    async def count(self, name: str) -> LetterCount:
        """See the port."""
        async with cursor(self._connection, args_row(LetterCount), binary=True) as asked:
            await asked.execute(_COUNT, (name,))
            return await asked.fetchone() or LetterCount(0, 0)

    def _targets(self) -> AsyncCursor[Target]:
        return cursor(self._connection, args_row(_target), binary=True)

    def _letters(self) -> AsyncCursor[Letter]:
        return cursor(self._connection, args_row(_letter), binary=True)


def _values(
    target: Target,
) -> tuple[str | None, str | None, int, int, int, datetime | None, datetime | None, str]:
    """All of a row but its name."""
    return (
        target.url,
        target.secret,
        target.position,
        target.version,
        target.failures,
        target.failing_since,
        target.due_at,
        target.reason,
    )


def _target(  # noqa: PLR0913, PLR0917 - a row
    name: str,
    url: str | None,
    secret: str | None,
    position: int,
    version: int,
    failures: int,
    failing_since: datetime | None,
    due_at: datetime | None,
    reason: str,
) -> Target:
    return Target(name, url, secret, position, version, failures, _utc(failing_since), _utc(due_at), reason)


def _row(letter: Letter) -> tuple[int, str, int, str, str, datetime | None, int, str]:
    message = letter.message
    return (
        message.seq,
        message.id,
        message.movie_id,
        message.kind,
        message.body.decode(),
        letter.due_at,
        letter.attempts,
        letter.reason,
    )


def _letter(  # noqa: PLR0913, PLR0917 - a row
    seq: int,
    message_id: str,
    movie_id: int,
    kind: str,
    body: str,
    due_at: datetime | None,
    attempts: int,
    reason: str,
) -> Letter:
    message = Message(message_id, seq, movie_id, kind, body.encode())
    return Letter(message, _utc(due_at), attempts, reason)


def _head(movie_id: int, due_at: datetime) -> tuple[int, datetime]:
    return movie_id, due_at.astimezone(UTC)


def _utc(at: datetime | None) -> datetime | None:
    return None if at is None else at.astimezone(UTC)
