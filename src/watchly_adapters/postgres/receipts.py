"""The receipts of writes in PostgreSQL."""

from __future__ import annotations

from datetime import datetime
from typing import Final, TypeAlias

import msgspec

from watchly_adapters.postgres.pool import HostConnection
from watchly_adapters.postgres.statements import Query, Statement, both
from watchly_core.errors import KeyReused, RequestInProgress
from watchly_core.receipts import Claim, KeptReply

_Headers: TypeAlias = tuple[tuple[str, str], ...]

_encode_headers = msgspec.json.Encoder().encode
_decode_headers = msgspec.json.Decoder(_Headers).decode


def _row(digest: bytes, status: int, headers: str, body: bytes) -> tuple[bytes, KeptReply]:
    return digest, KeptReply(status, _decode_headers(headers), body)


# A lock of the transaction goes with it, also when its client is killed. No key has a space in it.
_TRY_LOCK: Final = Query(
    """/* receipts.try_lock */
    SELECT pg_try_advisory_xact_lock(hashtextextended('watchly.receipts ' || %s || ' ' || %s, 0))
    """,
    bool,
)
_FIND: Final = Query(
    """/* receipts.find */
    SELECT digest, status, headers::text, body FROM receipts
    WHERE actor = %s AND key = %s AND expires_at > %s
    """,
    _row,
    binary=True,
)
# What stands there is no longer good, or it would have been found.
_KEEP: Final = Statement("""/* receipts.keep */
    INSERT INTO receipts (actor, key, digest, status, headers, body, expires_at)
    VALUES (%s, %s, %s, %s, %s::text::json, %s, %s)
    ON CONFLICT (actor, key) DO UPDATE
    SET digest = excluded.digest, status = excluded.status, headers = excluded.headers,
        body = excluded.body, expires_at = excluded.expires_at
""")
_EXPIRE: Final = Statement("""/* receipts.expire */
    DELETE FROM receipts WHERE (actor, key) IN (
        SELECT actor, key FROM receipts WHERE expires_at <= %s
        ORDER BY expires_at LIMIT %s FOR UPDATE SKIP LOCKED
    )
""")


class PostgresReceipts:
    """Satisfies `ports.Receipts` on a connection that is inside a transaction."""

    def __init__(self, connection: HostConnection) -> None:
        self._connection = connection

    async def claim(self, claim: Claim, now: datetime) -> KeptReply | None:
        """See the port."""
        # Found in a statement of its own: whoever held the lock before has committed what this one sees.
        asked = (claim.key, claim.actor), (claim.actor, claim.key, now)
        (mine,), kept = await both(self._connection, _TRY_LOCK, _FIND, asked)
        if kept:
            digest, reply = kept[0]
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
        await _KEEP.later(self._connection, row)

    async def expire(self, now: datetime, limit: int) -> int:
        """See the port."""
        return await _EXPIRE.count(self._connection, (now, limit))
