"""What is still to be done, as PostgreSQL knows it."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from psycopg.rows import args_row

from watchly_adapters.postgres.pool import Connection, Pool, cursor
from watchly_core.backlogs import MOST_COUNTED, Backlog, RelayBacklog

# Each count walks along an index that has nothing else in it, and no further than it counts.
_STORES: Final = """/* backlogs.stores */
    SELECT
        last_seq,
        (SELECT count(*) FROM (SELECT FROM events WHERE seq IS NULL LIMIT %(most)s) AS unnumbered),
        (SELECT count(*) FROM (SELECT FROM images WHERE due_at <= %(now)s LIMIT %(most)s) AS due),
        (SELECT count(*) FROM (
            SELECT FROM images WHERE state = 'deleting' AND due_at IS NULL LIMIT %(most)s
        ) AS dead),
        (SELECT min(due_at) FROM images WHERE due_at <= %(now)s)
    FROM change_log
"""
_RELAYS: Final = """/* backlogs.relays */
    SELECT
        (
            SELECT greatest(max(last_seq - position), 0)
            FROM relay_targets, change_log WHERE (url IS NULL) = is_broker
        ),
        (SELECT count(*) FROM (
            SELECT FROM relay_targets, LATERAL (
                SELECT FROM relay_letters l WHERE l.target = name AND l.due_at IS NOT NULL LIMIT %(most)s
            ) AS letters
            WHERE (url IS NULL) = is_broker LIMIT %(most)s
        ) AS waiting),
        (SELECT count(*) FROM (
            SELECT FROM relay_targets, LATERAL (
                SELECT FROM relay_letters l WHERE l.target = name AND l.due_at IS NULL LIMIT %(most)s
            ) AS letters
            WHERE (url IS NULL) = is_broker LIMIT %(most)s
        ) AS dead),
        (SELECT count(failing_since) FROM relay_targets WHERE (url IS NULL) = is_broker)
    FROM (VALUES (true), (false)) AS kinds (is_broker)
    ORDER BY is_broker DESC
"""


class PostgresBacklogs:
    """Satisfies `ports.Backlogs`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def backlog(self, now: datetime) -> Backlog:
        """See the port."""

        async def read(connection: Connection) -> Backlog:
            async with cursor(connection, args_row(RelayBacklog), binary=True) as asked:
                await asked.execute(_RELAYS, {"most": MOST_COUNTED})
                broker, webhook = await asked.fetchall()
            async with cursor(connection, args_row(_stores), binary=True) as asked_stores:
                await asked_stores.execute(_STORES, {"most": MOST_COUNTED, "now": now})
                last, unnumbered, due, dead, since = await asked_stores.fetchone() or (0, 0, 0, 0, None)
            return Backlog(
                numbered_up_to=last,
                unnumbered=unnumbered,
                broker=broker,
                webhook=webhook,
                images_due=due,
                images_dead=dead,
                overdue=0.0 if since is None else (now - since).total_seconds(),
            )

        return await self._pool.read(read)


def _stores(
    last: int, unnumbered: int, due: int, dead: int, since: datetime | None
) -> tuple[int, int, int, int, datetime | None]:
    return last, unnumbered, due, dead, since
