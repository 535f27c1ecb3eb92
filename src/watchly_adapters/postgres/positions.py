"""Positions: how far the server's log had got when a write was done, for a replica to be asked for it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

import psycopg
from psycopg import generators
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

from watchly_adapters.postgres.pool import Connection
from watchly_core.errors import InvalidPosition, WatchlyError

_BEGIN: Final = b"BEGIN ISOLATION LEVEL READ COMMITTED"
# What is flushed is on its way to the replicas. What is inserted may wait for somebody else's commit, or for
# the next record; but where commits do not wait for the disk, only that holds them.
_NEWEST: Final = b"""
    SELECT CASE current_setting('synchronous_commit')
        WHEN 'off' THEN pg_current_wal_insert_lsn() ELSE pg_current_wal_flush_lsn()
    END
"""
# Both statements travel together, and the second one begins when the first is done.
_COMMIT: Final = b"COMMIT;" + _NEWEST

_POSITION: Final = re.compile(r"([0-9A-F]{1,8})/([0-9A-F]{1,8})")
_HALF: Final = 32


def read_position(text: str) -> int:
    """The place in the server's log that a position names.

    Raises:
        InvalidPosition: it names none.
    """
    found = _POSITION.fullmatch(text)
    if found is None:
        raise InvalidPosition("no write has returned such a position")
    return (int(found[1], 16) << _HALF) + int(found[2], 16)


class Positions:
    """The transactions of one process, and the newest position that they tell of.

    Attributes:
        newest: whatever they did can be seen from there on; None before the first of them has ended.
    """

    def __init__(self) -> None:
        self.newest: str | None = None
        self._place = 0

    @asynccontextmanager
    async def transaction(self, connection: Connection) -> AsyncIterator[None]:
        """Run the block inside a transaction, which commits when it ends normally."""
        await _send(connection, _BEGIN)
        try:
            yield
        except BaseException as error:
            with suppress(psycopg.Error):
                await connection.rollback()
                if isinstance(error, WatchlyError):
                    # It tells of what somebody else did: a version, or a reply that was given before.
                    self._note(await _send(connection, _NEWEST))
            raise
        results = await _send(connection, _COMMIT)
        if results[0].command_status != b"COMMIT":
            raise psycopg.errors.InFailedSqlTransaction(
                "it went on after a statement had failed, and was undone"
            )
        # It is done, whatever became of the question that travelled with it.
        self._note(results)

    def _note(self, results: Sequence[PGresult]) -> None:
        if results[-1].status == ExecStatus.FATAL_ERROR:
            return
        text = (results[-1].get_value(0, 0) or b"").decode()
        # Two transactions may end at the same time, and their answers come in any order.
        if (place := read_position(text)) > self._place:
            self._place, self.newest = place, text


async def _send(connection: Connection, statements: bytes) -> Sequence[PGresult]:
    """The results of some statements, of which the first has not failed.

    They are sent as psycopg sends those that it begins and ends transactions with.

    A cursor of its own for each of them would cost every write a tenth of its time.
    """
    async with connection.lock:
        connection.pgconn.send_query(statements)
        results: list[PGresult] = await connection.wait(generators.execute(connection.pgconn))
    if results[0].status == ExecStatus.FATAL_ERROR:
        raise error_from_result(results[0])
    return results
