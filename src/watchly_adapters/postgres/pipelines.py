"""Connections on which a statement that nobody waits for travels with the next one.

A round trip costs more than most statements do: the server and this process wake each other. So the beginning
of a transaction, and whatever is written without a question, is held back until something has to be known, or
until the commit, and all of it is sent at once.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from hashlib import sha256
from math import inf
from traceback import clear_frames
from typing import Final, NamedTuple, Self, TypeVar

import psycopg
from psycopg import generators
from psycopg.abc import Buffer, PQGen
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import (
    FeatureNotSupported,
    InFailedSqlTransaction,
    InvalidSqlStatementName,
    error_from_result,
)
from psycopg.pq import ConnStatus, ExecStatus, Format, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult
from psycopg.rows import AsyncRowFactory, TupleRow, tuple_row

T = TypeVar("T")

#: What is raised in place of an error of the server.
Refused = Callable[[psycopg.Error], Exception]

#: Statements that are held back at most.
_MOST: Final = 100
#: Seconds after which a connection may have died without a word.
_FRESH: Final = 10.0
#: Seconds that the server gets for taking a connection.
CONNECT_TIMEOUT: Final = 5
#: Seconds that the server gets to say that what nobody wants any more has ended.
LEAVE: Final = 1.0
#: Digits of a statement's digest in its name.
_DIGITS: Final = 16
#: psycopg's own: seconds between looks at whether a wait was interrupted.
_INTERVAL: Final = 0.1

_FAILED: Final = frozenset({ExecStatus.FATAL_ERROR, ExecStatus.PIPELINE_ABORTED})
#: What says that a prepared statement is no longer good: a table has changed, or a pooler has dropped it.
_STALE: Final = (FeatureNotSupported, InvalidSqlStatementName)


class Sending(NamedTuple):
    """A statement with its parameters as text, in whose place there is `$1` and so on."""

    statement: bytes
    parameters: Sequence[Buffer | None] = ()
    binary: bool = False
    refused: Refused | None = None


class Overdue(psycopg.OperationalError):
    """The server gave no answer in time, and the connection was cut."""


# Where transactions are serializable, looking up words would undo all writers but one.
_BEGIN: Final = Sending(b"BEGIN ISOLATION LEVEL READ COMMITTED")
_COMMIT: Final = Sending(b"COMMIT")
_ROLLBACK: Final = Sending(b"ROLLBACK")


class OwnConnection(psycopg.AsyncConnection[TupleRow]):
    """A connection as all of Watchly's are made."""

    @classmethod
    async def connect(cls, conninfo: str = "") -> Self:  # type: ignore[override]  # nobody asks for more
        """One in autocommit mode."""
        try:
            return await super().connect(
                conninfo,
                autocommit=True,
                application_name="watchly",
                client_encoding="utf8",
                connect_timeout=CONNECT_TIMEOUT,
            )
        except BaseException as error:
            # They hold the socket, and the error itself: until somebody looked for garbage.
            clear_frames(error.__traceback__)
            raise


class PipelinedConnection(OwnConnection):
    """A connection that can hold statements back; whatever else is done on it comes after them.

    Attributes:
        limit: seconds that the server gets for an answer, whatever is asked: one that is frozen keeps to no
            limit of its own. A connection whose server takes longer is cut.
    """

    def __init__(self, pgconn: PGconn, row_factory: AsyncRowFactory[TupleRow] = tuple_row) -> None:
        super().__init__(pgconn, row_factory)
        self.limit: float = inf
        self._held: list[Sending] = []
        self._names: dict[bytes, bytes] = {}
        self._prepared_so_far = 0
        self._transformer = Transformer()
        self._heard = time.monotonic()
        #: When the answer that is waited for is overdue, and the one timer that looks after that.
        self._due = inf
        self._alarm: asyncio.TimerHandle | None = None
        self._rings_at = inf
        self._overdue = self._given_up = False

    def dump(self, parameters: Sequence[object]) -> Sequence[Buffer | None]:
        """Parameters as text; which type each of them has is for the server to find out."""
        # Without a connection, psycopg would write bytes as servers took them long ago.
        texts = [f"\\x{each.hex()}" if isinstance(each, bytes) else each for each in parameters]
        return self._transformer.dump_sequence(texts, [PyFormat.TEXT] * len(texts))

    def load(self, result: PGresult) -> list[TupleRow]:
        """The rows of a result."""
        self._transformer.set_pgresult(result)
        return self._transformer.load_rows(0, result.ntuples, tuple)

    async def look(self, doubted: float) -> None:
        """Find out whether the connection is still good; the server is asked if it said nothing since a time.

        Raises:
            psycopg.OperationalError: it is not.
        """
        # Once for what the server said last, and once for the end.
        for _ in range(2):
            self.pgconn.consume_input()
        if self._heard < max(doubted, time.monotonic() - _FRESH):
            await self.exchange()

    def begin(self) -> None:
        """Begin a transaction, when its first statement is sent."""
        self._held.append(_BEGIN)

    async def hold(self, sending: Sending) -> None:
        """Send a statement with whatever comes next; if it fails, that raises."""
        if len(self._held) >= _MOST:
            await self.exchange()
        self._held.append(sending)

    async def end(self, *riding: Sending) -> Sequence[PGresult]:
        """Commit; the results of these statements, which begin when that is done.

        Raises:
            psycopg.Error: what was held back has failed, or the commit has, or something before them.
        """
        committed, *results = await self.exchange(_COMMIT, riding=riding)
        if committed.command_status != b"COMMIT":
            raise InFailedSqlTransaction("it went on after a statement had failed, and was undone")
        return results

    async def undo(self, *riding: Sending) -> Sequence[PGresult]:
        """Undo the transaction, if it has begun; the results of these statements."""
        self._held.clear()
        with self._within(LEAVE):
            if self.pgconn.transaction_status != TransactionStatus.IDLE:
                _, *results = await self.exchange(_ROLLBACK, riding=riding)
                return results
            return await self.exchange(riding=riding) if riding else ()

    async def rollback(self) -> None:
        """See psycopg, which would drop all prepared statements, those made here as well."""
        await self.undo()

    @asynccontextmanager
    async def transacting(self) -> AsyncIterator[None]:
        """Run the block inside a transaction, which commits when it ends normally."""
        try:
            self.begin()
            yield
            await self.end()
        except BaseException:
            with suppress(psycopg.Error):
                await self.undo()
            raise

    async def exchange(self, *asked: Sending, riding: Sequence[Sending] = ()) -> Sequence[PGresult]:
        """The results of these statements; all travel together.

        Those that are `riding` come last, and may fail: that is for who looks at their results.

        Raises:
            psycopg.Error: another one has failed, or what was held back has, and nothing after it was done.
        """
        async with self.lock:
            return await self._exchange(asked, riding)

    async def wait(
        self,
        gen: PQGen[T],
        interval: float = _INTERVAL,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> T:
        """Whatever psycopg does itself comes here: what is held back goes first."""
        if self._held:
            await self._exchange(())
        self._given_up = False
        self._expect(self.limit if timeout is None else self.limit + timeout)
        try:
            # Older versions of psycopg take no third one, and give none.
            done = await (
                super().wait(gen, interval) if timeout is None else super().wait(gen, interval, timeout)
            )
        except psycopg.OperationalError as error:
            if self._given_up:
                # Older ones have this take the place of what interrupted them.
                raise asyncio.CancelledError from error
            if self._overdue:
                raise Overdue("the server gave no answer in time") from error
            raise
        finally:
            self._due = inf
        self._heard = time.monotonic()
        return done

    async def cancel_safe(self, *, timeout: float = LEAVE) -> None:  # noqa: ASYNC109 - as psycopg has it
        """See psycopg, which does this when a wait is cancelled; and then waits for the server to agree."""
        self._given_up = True
        self._expect(LEAVE)
        await super().cancel_safe(timeout=min(timeout, LEAVE))

    def cut(self) -> None:
        """Cut the line: what waits for an answer fails at once, and so does all that comes later."""
        with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(self.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def _within(self, seconds: float) -> Iterator[None]:
        """Give the server no more than so long for an answer."""
        before, self.limit = self.limit, min(self.limit, seconds)
        try:
            yield
        finally:
            self.limit = before

    def _expect(self, seconds: float) -> None:
        """Have the connection cut unless the wait that begins ends within so many seconds."""
        if seconds == inf:
            return
        self._due = time.monotonic() + seconds
        # A timer for each wait would cost more than most waits: one that rings too early is set anew.
        if self._due < self._rings_at:
            if self._alarm is not None:
                self._alarm.cancel()
            self._set_alarm(seconds)

    def _set_alarm(self, seconds: float) -> None:
        self._rings_at = time.monotonic() + seconds
        self._alarm = asyncio.get_running_loop().call_later(seconds, self._ring)

    def _ring(self) -> None:
        self._alarm, self._rings_at = None, inf
        left = self._due - time.monotonic()
        if left <= 0:
            self._overdue = True
            self.cut()
        elif left < inf:
            self._set_alarm(left)

    async def _exchange(self, asked: Sequence[Sending], riding: Sequence[Sending] = ()) -> Sequence[PGresult]:
        held, self._held = self._held, []
        sent = [*held, *asked]
        results = await self.wait(self._communicate([*sent, *riding]))
        for sending, result in zip(sent, results, strict=False):
            self._check(result, sending.refused)
        return results[len(held) :]

    def _communicate(self, sent: Sequence[Sending]) -> PQGen[list[PGresult]]:
        """Send statements and a sync; the result of each."""
        pgconn = self.pgconn
        pgconn.enter_pipeline_mode()
        try:
            new = [self._send(sending) for sending in sent]
            pgconn.pipeline_sync()
            yield from generators.send(pgconn)
            results = []
            for sending, is_new in zip(sent, new, strict=True):
                prepared = (yield from self._fetch()) if is_new else None
                result = yield from self._fetch()
                if prepared is not None and prepared.status in _FAILED:
                    del self._names[sending.statement]
                    # The other one says no more than that it came later.
                    result = prepared
                results.append(result)
            yield from self._fetch()  # the sync
        finally:
            # With the answers of all, also where a caller has left; a lost connection is left as it is.
            if pgconn.status == ConnStatus.OK:
                pgconn.exit_pipeline_mode()
        return results

    def _send(self, sending: Sending) -> bool:
        """Send one statement; whether it has to be prepared first, so that there are two results."""
        statement, parameters, binary, _ = sending
        name = self._names.get(statement)
        new = name is None
        if name is None:
            self._prepared_so_far += 1
            # With what it is: behind some poolers, others have prepared theirs on the same connection.
            digest = sha256(statement).hexdigest()[:_DIGITS].encode()
            name = self._names[statement] = b"watchly_%d_%b" % (self._prepared_so_far, digest)
            self.pgconn.send_prepare(name, statement)
        self.pgconn.send_query_prepared(
            name, parameters or None, result_format=Format.BINARY if binary else Format.TEXT
        )
        return new

    def _fetch(self) -> PQGen[PGresult]:
        """The next result of those that are on their way."""
        results: list[PGresult] = yield from generators.fetch_many(self.pgconn)
        if not results:
            raise psycopg.OperationalError("the connection was lost")
        return results[0]

    def _check(self, result: PGresult, refused: Refused | None) -> None:
        if result.status not in _FAILED:
            return
        error = error_from_result(result)
        if isinstance(error, _STALE):
            self._names.clear()
        raise error if refused is None else refused(error)
