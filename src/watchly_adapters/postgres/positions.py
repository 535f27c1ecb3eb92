"""Positions: how far the server's log had got when a write was done, for a replica to be asked for it.

Two writes may end when it has got equally far, and one of them be told of before the other can be seen. So
each position has a mark of its own: whoever hears of one knows that its write, and no less, can be seen.
"""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import psycopg
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

from watchly_adapters.postgres.pipelines import PipelinedConnection, Sending
from watchly_core.errors import InvalidPosition, WatchlyError

# What is flushed is on its way to the replicas. What is inserted may wait for somebody else's commit, or for
# the next record; but where commits do not wait for the disk, only that holds them.
_NEWEST: Final = Sending(b"""/* positions.newest */
    SELECT CASE current_setting('synchronous_commit')
        WHEN 'off' THEN pg_current_wal_insert_lsn() ELSE pg_current_wal_flush_lsn()
    END
""")

_POSITION: Final = re.compile(r"([0-9A-F]{1,8})/([0-9A-F]{1,8})(?:-[0-9a-f]{1,32})?")
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
        self._name, self._marks = secrets.token_hex(4), itertools.count()

    @asynccontextmanager
    async def transaction(self, connection: PipelinedConnection) -> AsyncIterator[None]:
        """Run the block inside a transaction, which commits when it ends normally.

        It begins with the first statement, and the last ones travel with the commit.
        """
        try:
            connection.begin()
            yield
            (newest,) = await connection.end(_NEWEST)
        except BaseException as error:
            with suppress(psycopg.Error):
                if isinstance(error, WatchlyError):
                    # It tells of what somebody else did: a version, or a reply that was given before.
                    self._note(*await connection.undo(_NEWEST))
                else:
                    await connection.undo()
            raise
        # It is done, whatever became of the question that travelled with it.
        self._note(newest)

    def _note(self, newest: PGresult) -> None:
        if newest.status == ExecStatus.FATAL_ERROR:
            return
        text = (newest.get_value(0, 0) or b"").decode()
        # Two transactions may end at the same time, and their answers come in any order.
        if (place := read_position(text)) >= self._place:
            self._place, self.newest = place, f"{text}-{self._name}{next(self._marks):x}"
