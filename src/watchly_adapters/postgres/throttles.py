"""The ledger of attempts in PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from psycopg.rows import scalar_row, tuple_row

from watchly_adapters.postgres.pool import HostConnection, cursor

# One statement, so that of several at once each counts by what the one before has left. The row is locked
# also where nothing is counted.
_TAKE: Final = """/* throttles.take */
    INSERT INTO watchly_throttles AS t (bucket, count, until) VALUES (%(bucket)s, 1, %(until)s)
    ON CONFLICT (bucket) DO UPDATE
    SET count = CASE WHEN t.until <= %(now)s THEN 1 ELSE t.count + 1 END,
        until = CASE WHEN t.until <= %(now)s THEN excluded.until ELSE t.until END
    WHERE t.until <= %(now)s OR t.count < %(limit)s
"""
_UNTIL: Final = "/* throttles.until */ SELECT until FROM watchly_throttles WHERE bucket = %s"
_GIVE_BACK: Final = """/* throttles.give_back */
    UPDATE watchly_throttles SET count = count - 1 WHERE bucket = %s AND count > 0
"""
_FIND: Final = """/* throttles.find */
    SELECT EXISTS (SELECT FROM watchly_throttles WHERE bucket = %s AND until > %s)
"""
_EXPIRE: Final = """/* throttles.expire */
    DELETE FROM watchly_throttles WHERE bucket IN (
        SELECT bucket FROM watchly_throttles WHERE until <= %s
        ORDER BY until LIMIT %s FOR UPDATE SKIP LOCKED
    )
"""


class PostgresThrottles:
    """Satisfies `ports.ThrottleLedger` on a connection that is inside a transaction."""

    def __init__(self, connection: HostConnection) -> None:
        self._connection = connection

    async def take(self, bucket: str, limit: int, now: datetime, until: datetime) -> datetime | None:
        """See the port."""
        async with cursor(self._connection, scalar_row, binary=True) as sink:
            await sink.execute(_TAKE, {"bucket": bucket, "limit": limit, "now": now, "until": until})
            if sink.rowcount:
                return None
            await sink.execute(_UNTIL, (bucket,))
            again: datetime | None = await sink.fetchone()
        return until if again is None else again.astimezone(UTC)

    async def give_back(self, bucket: str) -> None:
        """See the port."""
        await cursor(self._connection, tuple_row).execute(_GIVE_BACK, (bucket,))

    async def find(self, bucket: str, now: datetime) -> bool:
        """See the port."""
        async with cursor(self._connection, scalar_row) as asked:
            await asked.execute(_FIND, (bucket, now))
            return bool(await asked.fetchone())

    async def expire(self, now: datetime, limit: int) -> int:
        """See the port."""
        done = await cursor(self._connection, tuple_row).execute(_EXPIRE, (now, limit))
        return done.rowcount
