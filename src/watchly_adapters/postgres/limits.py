"""Limits: how long a server may take, which both sides keep to."""

from __future__ import annotations

from math import inf
from typing import Final

import msgspec

from watchly_adapters.postgres.pipelines import PipelinedConnection, Sending

# By a statement, and not when connecting: poolers in front of a server refuse what they do not know there.
# Times mean UTC, also those that an index is made of where the table of an older system gives them a zone.
_SESSION: Final = Sending(b"""/* limits.session */
    SELECT set_config('statement_timeout', $1, false), set_config('lock_timeout', $2, false),
           set_config('idle_in_transaction_session_timeout', $3, false),
           set_config('TimeZone', 'UTC', false)
""")
_TRANSACTION: Final = Sending(b"""/* limits.transaction */
    SELECT set_config('statement_timeout', $1, true), set_config('lock_timeout', $2, true),
           set_config('idle_in_transaction_session_timeout', $3, true)
""")
#: Seconds that an answer may take beyond what its statement may.
_ON_THE_WAY: Final = 2.0


class Limits(msgspec.Struct, frozen=True):
    """How long the server may take, in seconds; 0 is for ever.

    Attributes:
        statement: over a statement.
        lock: of that, over waiting for a lock.
        idle: over waiting for the next statement of a transaction, before it is undone.
    """

    statement: float = 10.0
    lock: float = 5.0
    idle: float = 60.0

    @classmethod
    def of_requests(cls, seconds: float) -> Limits:
        """Those for requests that take so many seconds at most: a statement ends before its request does."""
        return cls(statement=seconds * 2 / 3, lock=seconds / 3)

    @property
    def answer(self) -> float:
        """Over an answer, as this side sees it: a server that is frozen keeps to none of the others."""
        return self.statement + _ON_THE_WAY if self.statement else inf


#: For what moves many rows at once, for somebody who may send them, or take them, slowly.
BULK: Final = Limits(statement=60.0, lock=30.0, idle=600.0)


async def hold_to(limits: Limits, connection: PipelinedConnection) -> None:
    """Have the server keep to `limits` in the session of a connection."""
    await connection.exchange(_sending(connection, limits, _SESSION))


async def allow_bulk(connection: PipelinedConnection) -> None:
    """Let the transaction that a connection is in take as long as `BULK` says."""
    await connection.hold(_sending(connection, BULK, _TRANSACTION))
    connection.limit = BULK.answer


def _sending(connection: PipelinedConnection, limits: Limits, sending: Sending) -> Sending:
    milliseconds = [str(round(1000 * each)) for each in (limits.statement, limits.lock, limits.idle)]
    return sending._replace(parameters=connection.dump(milliseconds))
