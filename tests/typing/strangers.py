"""What people write who have the documentation alone: adapters of their own, checked by shape.

Where a line says `ignore`, the checkers have to find a fault: both refuse one that is not needed.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from watchly_adapters.memory import MemoryDatabase
from watchly_core import Catalogue, Movie, MovieDraft, MovieQuery
from watchly_core.errors import PublishRejected
from watchly_core.messages import Message
from watchly_core.ports import Cache, Publisher, Transactions


class DictCache:
    """A cache for tests, which forgets nothing."""

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}

    async def get(self, key: str) -> bytes | None:
        return self._kept.get(key)

    async def put(self, key: str, value: bytes, keep: timedelta) -> None:
        if keep:
            self._kept[key] = value

    async def close(self) -> None:
        self._kept.clear()


class PrintingPublisher:
    """Tells whoever looks at the terminal."""

    async def publish(self, message: Message) -> None:
        if not message.body:
            raise PublishRejected("nothing to print")

    async def close(self) -> None:
        pass


class TextCache(DictCache):
    """Gives texts, which no port asks for."""

    async def get(self, key: str) -> str | None:  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride]
        return key


class BlockingPublisher:
    """Has the right names, and cannot be awaited."""

    def publish(self, message: Message) -> None: ...

    def close(self) -> None: ...


class HastyCache:
    """Takes no time to keep its values for."""

    async def get(self, key: str) -> bytes | None: ...

    async def put(self, key: str, value: bytes) -> None: ...

    async def close(self) -> None: ...


class MutePublisher:
    """Cannot be told that it is over."""

    async def publish(self, message: Message) -> None: ...


CACHES: Final[Sequence[type[Cache]]] = (DictCache,)
PUBLISHERS: Final[Sequence[type[Publisher]]] = (PrintingPublisher,)

NO_TEXTS: type[Cache] = TextCache  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]
NO_TIME: type[Cache] = HastyCache  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]
NO_COROUTINES: type[Publisher] = BlockingPublisher  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]
NO_END: type[Publisher] = MutePublisher  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]


async def embed(database: MemoryDatabase) -> Sequence[str]:
    """Right use: what is given and returned has the types that it says."""
    catalogue = Catalogue(database.queries, database.transactions)
    heat: Movie = await catalogue.add(MovieDraft(title="Heat", release_year=1995))
    heat = await catalogue.revise(heat.id, {"genre": "Crime"}, version=heat.version)
    return [movie.title for movie in (await catalogue.find(MovieQuery(q="heat"))).data]


async def misuse(catalogue: Catalogue, transactions: Transactions, heat: Movie) -> None:
    """Wrong use; nobody runs it."""
    from watchly_core import Director  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]  # noqa: PLC0415 - as nobody runs it

    Catalogue(transactions, transactions)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await catalogue.get("7")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await catalogue.revise(heat.id, {}, heat.version)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    await catalogue.add(MovieDraft("Heat"))  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    heat.title = "Ronin"  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue]
    movie: Movie = catalogue.get(7)  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]
    del movie, Director
    async with transactions() as tx:
        await tx.films.add(MovieDraft(title="Heat"))  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
