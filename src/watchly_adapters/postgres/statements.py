"""Constant statements, which go on any connection: pipelined on our own, one by one on that of a host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import starmap
from typing import Final, Generic, LiteralString, ParamSpec, TypeVar

import psycopg
from psycopg.pq.abc import PGresult
from psycopg.rows import args_row, tuple_row

from watchly_adapters.postgres.pipelines import PipelinedConnection, Refused, Sending
from watchly_adapters.postgres.pool import HostConnection, cursor

Columns = ParamSpec("Columns")
OtherColumns = ParamSpec("OtherColumns")
Row = TypeVar("Row")
OtherRow = TypeVar("OtherRow")

_BIGINTS: Final = range(-(2**63), 2**63)


def bigint(number: int) -> int | None:
    """A number that may be too large for the server: None then, which equals nothing that it holds."""
    return number if number in _BIGINTS else None


class Statement:
    """A statement that gives no rows.

    Attributes:
        text: as psycopg takes it, with `%s` for each parameter.
    """

    def __init__(self, text: LiteralString) -> None:
        self.text: Final[LiteralString] = text
        head, *parts = text.split("%s")
        numbered = "".join(f"${number}{part}" for number, part in enumerate(parts, 1))
        self._numbered = (head + numbered).encode()

    def sending(
        self,
        connection: PipelinedConnection,
        parameters: Sequence[object],
        refused: Refused | None = None,
        *,
        binary: bool = False,
    ) -> Sending:
        """It, with these parameters, for a connection of our own."""
        return Sending(self._numbered, connection.dump(parameters), binary, refused)

    async def later(
        self, connection: HostConnection, parameters: Sequence[object] = (), refused: Refused | None = None
    ) -> None:
        """Run it, by the time that anything is asked for, or the transaction ends.

        Raises:
            Exception: what `refused` makes of an error of the server, now or then.
        """
        if isinstance(connection, PipelinedConnection):
            await connection.hold(self.sending(connection, parameters, refused))
            return
        try:
            await cursor(connection, tuple_row).execute(self.text, parameters)
        except psycopg.Error as error:
            raise error if refused is None else refused(error) from None

    async def count(self, connection: HostConnection, parameters: Sequence[object]) -> int:
        """Run it; how many rows it wrote."""
        if isinstance(connection, PipelinedConnection):
            (result,) = await connection.exchange(self.sending(connection, parameters))
            return result.command_tuples or 0
        return (await cursor(connection, tuple_row).execute(self.text, parameters)).rowcount


class Query(Statement, Generic[Columns, Row]):
    """A statement that gives rows.

    Args:
        text: as psycopg takes it, with `%s` for each parameter.
        row: what the columns of a row become.
        binary: whether they come as the server holds them.
    """

    def __init__(self, text: LiteralString, row: Callable[Columns, Row], *, binary: bool = False) -> None:
        super().__init__(text)
        self._row, self._binary = row, binary

    async def rows(self, connection: HostConnection, parameters: Sequence[object] = ()) -> Sequence[Row]:
        """Run it; its rows."""
        if isinstance(connection, PipelinedConnection):
            (result,) = await connection.exchange(self.asking(connection, parameters))
            return self.read(connection, result)
        async with cursor(connection, args_row(self._row), binary=self._binary) as asked:
            await asked.execute(self.text, parameters)
            return await asked.fetchall()

    async def row(self, connection: HostConnection, parameters: Sequence[object] = ()) -> Row | None:
        """Run it; its first row, if there is one."""
        return next(iter(await self.rows(connection, parameters)), None)

    def asking(self, connection: PipelinedConnection, parameters: Sequence[object]) -> Sending:
        """It, with these parameters and its rows as they are wanted."""
        return self.sending(connection, parameters, binary=self._binary)

    def read(self, connection: PipelinedConnection, result: PGresult) -> Sequence[Row]:
        """The rows of its result."""
        return list(starmap(self._row, connection.load(result)))


async def both(
    connection: HostConnection,
    first: Query[Columns, Row],
    second: Query[OtherColumns, OtherRow],
    parameters: tuple[Sequence[object], Sequence[object]],
) -> tuple[Sequence[Row], Sequence[OtherRow]]:
    """Run two statements, the second one after the first; the rows of each."""
    if isinstance(connection, PipelinedConnection):
        asked = first.asking(connection, parameters[0]), second.asking(connection, parameters[1])
        one, other = await connection.exchange(*asked)
        return first.read(connection, one), second.read(connection, other)
    return await first.rows(connection, parameters[0]), await second.rows(connection, parameters[1])
