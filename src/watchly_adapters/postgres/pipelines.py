"""Connections on which a statement that nobody waits for travels with the next one.

A round trip costs more than most statements do: the server and this process wake each other. So the beginning
of a transaction, and whatever is written without a question, is held back until something has to be known, or
until the commit, and all of it is sent at once.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from typing import Final, NamedTuple, TypeVar

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


# Where transactions are serializable, looking up words would undo all writers but one.
_BEGIN: Final = Sending(b"BEGIN ISOLATION LEVEL READ COMMITTED")
_COMMIT: Final = Sending(b"COMMIT")
_ROLLBACK: Final = Sending(b"ROLLBACK")


class PipelinedConnection(psycopg.AsyncConnection[TupleRow]):
    """A connection that can hold statements back; whatever else is done on it comes after them."""

    def __init__(self, pgconn: PGconn, row_factory: AsyncRowFactory[TupleRow] = tuple_row) -> None:
        super().__init__(pgconn, row_factory)
        self._held: list[Sending] = []
        self._names: dict[bytes, bytes] = {}
        self._prepared_so_far = 0
        self._transformer = Transformer()
        self._heard = time.monotonic()

    def dump(self, parameters: Sequence[object]) -> Sequence[Buffer | None]:
        """Parameters as text; which type each of them has is for the server to find out."""
        # Without a connection, psycopg would write bytes as servers took them long ago.
        texts = [f"\\x{each.hex()}" if isinstance(each, bytes) else each for each in parameters]
        return self._transformer.dump_sequence(texts, [PyFormat.TEXT] * len(texts))

    def load(self, result: PGresult) -> list[TupleRow]:
        """The rows of a result."""
        self._transformer.set_pgresult(result)
        return self._transformer.load_rows(0, result.ntuples, tuple)

    async def begin(self) -> None:
        """Begin a transaction, when its first statement is sent.

        Raises:
            psycopg.OperationalError: the connection has died since it was used, and nothing was sent.
        """
        # Once for what the server said last, and once for the end.
        for _ in range(2):
            self.pgconn.consume_input()
        self._held.append(_BEGIN)
        if time.monotonic() - self._heard > _FRESH:
            await self.exchange()

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
            await self.begin()
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
        # Older versions of psycopg take no third one, and give none.
        done = await (
            super().wait(gen, interval) if timeout is None else super().wait(gen, interval, timeout)
        )
        self._heard = time.monotonic()
        return done

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
