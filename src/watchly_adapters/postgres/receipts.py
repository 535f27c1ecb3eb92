"""The receipts of writes in PostgreSQL."""

from __future__ import annotations

from datetime import datetime
from typing import Final, TypeAlias

import msgspec
from psycopg.rows import args_row, tuple_row

from watchly_adapters.postgres.pool import HostConnection, cursor
from watchly_core.errors import KeyReused, RequestInProgress
from watchly_core.receipts import Claim, KeptReply

# A lock of the transaction goes with it, also when its client is killed. No key has a space in it.
_TRY_LOCK: Final = """
    SELECT pg_try_advisory_xact_lock(hashtextextended('watchly.receipts ' || %s || ' ' || %s, 0))
"""
_FIND: Final = """
    SELECT digest, status, headers::text, body FROM receipts
    WHERE actor = %s AND key = %s AND expires_at > %s
"""
# What stands there is no longer good, or it would have been found.
_KEEP: Final = """
    INSERT INTO receipts (actor, key, digest, status, headers, body, expires_at)
    VALUES (%s, %s, %s, %s, %s::text::json, %s, %s)
    ON CONFLICT (actor, key) DO UPDATE
    SET digest = excluded.digest, status = excluded.status, headers = excluded.headers,
        body = excluded.body, expires_at = excluded.expires_at
"""
_EXPIRE: Final = """
    DELETE FROM receipts WHERE (actor, key) IN (
        SELECT actor, key FROM receipts WHERE expires_at <= %s
        ORDER BY expires_at LIMIT %s FOR UPDATE SKIP LOCKED
    )
"""

_Headers: TypeAlias = tuple[tuple[str, str], ...]

_encode_headers = msgspec.json.Encoder().encode
_decode_headers = msgspec.json.Decoder(_Headers).decode


class PostgresReceipts:
    """Satisfies `ports.Receipts` on a connection that is inside a transaction."""

    def __init__(self, connection: HostConnection) -> None:
        self._connection = connection

    async def claim(self, claim: Claim, now: datetime) -> KeptReply | None:
        """See the port."""
        async with cursor(self._connection, tuple_row) as asked:
            await asked.execute(_TRY_LOCK, (claim.key, claim.actor))
            mine = await asked.fetchone() == (True,)
        # After the lock, in a statement of its own: whoever held it before has committed what this one sees.
        async with cursor(self._connection, args_row(_row), binary=True) as found:
            await found.execute(_FIND, (claim.actor, claim.key, now))
            kept = await found.fetchone()
        if kept is not None:
            digest, reply = kept
            if digest != claim.digest:
                raise KeyReused
            return reply
        if not mine:
            raise RequestInProgress
        return None

    async def keep(self, claim: Claim, reply: KeptReply, until: datetime) -> None:
        """See the port."""
        headers = _encode_headers(reply.headers).decode()
        row = (claim.actor, claim.key, claim.digest, reply.status, headers, reply.body, until)
        await cursor(self._connection, tuple_row).execute(_KEEP, row)

    async def expire(self, now: datetime, limit: int) -> int:
        """See the port."""
        done = await cursor(self._connection, tuple_row).execute(_EXPIRE, (now, limit))
        return done.rowcount


def _row(digest: bytes, status: int, headers: str, body: bytes) -> tuple[bytes, KeptReply]:
    return digest, KeptReply(status, _decode_headers(headers), body)
