"""Scripts: what befalls the calls of parts in a test, and what was called.

Any part can be put under a script, a fake as well as a real adapter, and stays what it was otherwise::

    script = Script()
    database = script.on_database(MemoryDatabase())
    catalogue = Catalogue(database.queries, database.transactions)

    script.fail_next("movies.add", after_commit=True)
    with pytest.raises(Unavailable):
        await catalogue.add({"title": "Heat"})  # it is in the catalogue, and nobody knows
    assert script.called("transactions.commit")

A call is named after its part and its method: ``movies.add``, ``image_store.put``. Those of a database are
``queries``, ``reads`` where that is another one, ``people``, ``backlogs``, ``database`` itself,
and ``transactions``, with the calls ``begin`` and ``commit``; inside a transaction they are named as in
`ports.Transaction`: ``movies``, ``events``, ``images``, ``receipts``, ``relays``, ``users``, ``sessions``,
``api_keys``, ``signing_keys``, ``throttles``. The method alone stands for that of every part.

Calls are methods that are awaited, iterated or entered. Those that answer at once, such as `ImageStore.url`,
wait for nobody and are left alone; so is what a part calls of itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from inspect import getmembers, iscoroutinefunction, isfunction
from typing import Concatenate, Final, ParamSpec, TypeAlias, TypeVar

from watchly_adapters.databases import Database
from watchly_adapters.testing.holds import Hold
from watchly_adapters.watching import class_with
from watchly_core.errors import Unavailable
from watchly_core.ports import (
    ApiKeyRepository,
    EventLog,
    ImageLedger,
    MovieRepository,
    Receipts,
    RelayLedger,
    SessionRepository,
    SigningKeyRepository,
    ThrottleLedger,
    Transaction,
    UserRepository,
)

__all__ = ["MOST_CALLS", "Call", "Script"]

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
D = TypeVar("D", bound=Database)

#: Calls that are remembered; those before them are forgotten.
MOST_CALLS: Final = 1_000

#: The stores inside a transaction.
_STORES: Final[Mapping[str, type[object]]] = {
    "movies": MovieRepository,
    "events": EventLog,
    "images": ImageLedger,
    "receipts": Receipts,
    "relays": RelayLedger,
    "users": UserRepository,
    "sessions": SessionRepository,
    "api_keys": ApiKeyRepository,
    "signing_keys": SigningKeyRepository,
    "throttles": ThrottleLedger,
}
_BEGIN: Final = "transactions.begin"
_COMMIT: Final = "transactions.commit"

#: The part whose call is under way: what it calls of itself is no call of others.
_inside: ContextVar[object] = ContextVar("_inside", default=None)


@dataclass(slots=True, eq=False)
class Call:
    """A call that was made.

    Attributes:
        name: of the part and the method, as ``movies.add``.
        args: what was given by place.
        kwargs: what was given by name.
        result: what it returned; None also while it has not ended, and of what is iterated.
        error: what it raised. Where that came after the commit of its transaction, that is the error of
            ``transactions.commit``, for the call itself had gone well.
        ended: whether it is over.
    """

    name: str
    args: tuple[object, ...] = ()
    kwargs: Mapping[str, object] = field(default_factory=dict)
    result: object = None
    error: BaseException | None = None
    ended: bool = False


@dataclass(slots=True, eq=False)
class _Turn:
    """What befalls the next calls of a name."""

    name: str
    after: bool
    error: Exception | None
    hold: Hold | None
    left: int

    def is_for(self, name: str) -> bool:
        return self.name in {name, name.rpartition(".")[2]}


#: What is to happen when a transaction is committed, and to which call.
_Later: TypeAlias = list[tuple[_Turn, str]]


class Script:
    """Remembers the calls of parts, has them fail, and holds them up.

    What is scripted for a name befalls its calls in turn, one each. All may be asked of any thread.

    Args:
        most: calls that are remembered; the oldest are forgotten.
    """

    def __init__(self, most: int = MOST_CALLS) -> None:
        self._calls: deque[Call] = deque(maxlen=most)
        self._turns: list[_Turn] = []
        self._dependencies: dict[str, str] = {}
        self._known: set[str] = set()
        self._classes: dict[tuple[type[object], str], type[object]] = {}
        self._later: dict[int, _Later] = {}

    @property
    def calls(self) -> Sequence[Call]:
        """The calls that are remembered, in the order in which they began."""
        return tuple(self._calls)

    def called(self, name: str) -> Sequence[Call]:
        """Those of the calls that have this name.

        Raises:
            LookupError: no part has such a call.
        """
        self._require(name)
        return [call for call in self.calls if name in {call.name, call.name.rpartition(".")[2]}]

    def forget(self) -> None:
        """Forget all calls, and what was to befall those to come; what is held stays so."""
        self._calls.clear()
        self._turns.clear()

    def fail_next(
        self, name: str, error: Exception | None = None, *, after_commit: bool = False, times: int = 1
    ) -> None:
        """Have the next calls of a name fail.

        A use case may try once more what failed, and succeed: writes of movies do, on each error but that
        of `Unavailable`, after which it is not known what was done. With `times` those tries fail as well.

        Args:
            name: of the calls, as ``movies.add``, or of all that end so, as ``add``.
            error: what they raise; by itself, that what is behind the part is `Unavailable`.
            after_commit: whether they do what they are asked for, so that the caller cannot know it was done.
                Inside a transaction the error comes out of it once it is committed; if it never is, it goes.
            times: how many calls.

        Raises:
            LookupError: no part has such a call.
            ValueError: `times` is less than one.
        """
        self._require(name)
        if times < 1:
            raise ValueError(f"{times} calls cannot fail")
        self._turns.append(_Turn(name, after_commit, error, None, times))

    def hold_next(self, name: str, *, after_commit: bool = False) -> Hold:
        """Have the next call of a name wait until it is released: before it does anything, or once done.

        Raises:
            LookupError: no part has such a call.
        """
        self._require(name)
        hold = Hold(name)
        self._turns.append(_Turn(name, after_commit, None, hold, 1))
        return hold

    def on(self, part: T, noun: str, *, dependency: str | None = None) -> T:
        """`part`, whose calls follow this script from now on, named after `noun`.

        It is still of its class, and all else about it is as it was.

        Args:
            part: anything; no base class is asked for.
            noun: what its calls are named after, as ``image_store``.
            dependency: what `Unavailable` says does not answer; `noun` by itself.
        """
        self._dependencies[noun] = dependency or noun
        names = {call: f"{noun}.{call}" for call in _calls_of(type(part))}
        self._known.update(names.values())
        self._put(part, noun, names)
        return part

    def on_database(self, database: D) -> D:
        """`database`, whose parts follow this script from now on, as do the stores of its transactions."""
        if self._has(database):
            return database
        for noun in ("queries", "reads", "people", "backlogs"):
            part: object = getattr(database, noun)
            if not self._has(part):
                self.on(part, noun, dependency="database")
        self.on(database, "database")
        for noun, port in _STORES.items():
            self._dependencies[noun] = "database"
            self._known.update(f"{noun}.{call}" for call in _calls_of(port))
        self._dependencies["transactions"] = "database"
        self._known.update({_BEGIN, _COMMIT})
        transactions: object = database.transactions
        base = type(transactions)
        transactions.__class__ = class_with(base, {"__call__": self._beginning(base.__call__)}, "Scripted")
        return database

    def _has(self, part: object) -> bool:
        return type(part) in self._classes.values()

    def _put(self, part: object, noun: str, names: Mapping[str, str]) -> None:
        base = type(part)
        if (base, noun) not in self._classes:
            members = {call: self._around(getattr(base, call), name) for call, name in names.items()}
            self._classes[base, noun] = class_with(base, members, "Scripted")
        part.__class__ = self._classes[base, noun]

    def _around(
        self, method: Callable[Concatenate[object, P], object], name: str
    ) -> Callable[Concatenate[object, P], object]:
        return self._awaited(method, name) if iscoroutinefunction(method) else self._made(method, name)

    def _awaited(
        self, method: Callable[Concatenate[object, P], Awaitable[R]], name: str
    ) -> Callable[Concatenate[object, P], Awaitable[R]]:
        @wraps(method)
        async def call(part: object, /, *args: P.args, **kwargs: P.kwargs) -> R:
            if _inside.get() is part:
                return await method(part, *args, **kwargs)
            async with self._calling(part, Call(name, args, kwargs)) as noted:
                token = _inside.set(part)
                try:
                    result = await method(part, *args, **kwargs)
                finally:
                    _inside.reset(token)
                noted.result = result
            return result

        return call

    def _made(
        self, method: Callable[Concatenate[object, P], object], name: str
    ) -> Callable[Concatenate[object, P], object]:
        """What is iterated or entered: its call begins when that does."""

        @wraps(method)
        def call(part: object, /, *args: P.args, **kwargs: P.kwargs) -> object:
            made = method(part, *args, **kwargs)
            if _inside.get() is part:
                return made
            if isinstance(made, AbstractAsyncContextManager):
                return self._entered(made, part, Call(name, args, kwargs))
            if isinstance(made, AsyncGenerator):
                return self._iterated(made, part, Call(name, args, kwargs))
            return made

        return call

    @asynccontextmanager
    async def _entered(
        self, made: AbstractAsyncContextManager[R], part: object, call: Call
    ) -> AsyncIterator[R]:
        async with self._calling(part, call), made as entered:
            call.result = entered
            yield entered

    async def _iterated(
        self, made: AsyncGenerator[R, None], part: object, call: Call
    ) -> AsyncGenerator[R, None]:
        async with aclosing(made), self._calling(part, call):
            async for each in made:
                yield each

    def _beginning(
        self, method: Callable[[object], AbstractAsyncContextManager[Transaction]]
    ) -> Callable[[object], AbstractAsyncContextManager[Transaction]]:
        @asynccontextmanager
        async def begin(part: object) -> AsyncIterator[Transaction]:
            async with self._calling(part, Call(_BEGIN)):
                pass
            later: _Later = []
            commit: Call | None = None
            stores: list[object] = []
            try:
                async with method(part) as tx:
                    stores = self._stores(tx)
                    self._later.update(dict.fromkeys(map(id, stores), later))
                    yield tx
                    commit, turn = self._begun(Call(_COMMIT))
                    if turn is not None and not turn.after:
                        await self._befall(turn, _COMMIT)
                    elif turn is not None:
                        later.append((turn, _COMMIT))
                for each, name in later:
                    await self._befall(each, name)
            except BaseException as error:
                if commit is not None:
                    commit.error = error
                raise
            finally:
                if commit is not None:
                    commit.ended = True
                for store in stores:
                    self._later.pop(id(store), None)

        return begin

    def _stores(self, tx: Transaction) -> list[object]:
        stores: list[object] = []
        for noun, port in _STORES.items():
            store: object = getattr(tx, noun)
            self._put(store, noun, {call: f"{noun}.{call}" for call in _calls_of(port)})
            stores.append(store)
        return stores

    @asynccontextmanager
    async def _calling(self, part: object, call: Call) -> AsyncIterator[Call]:
        _, turn = self._begun(call)
        try:
            if turn is not None and not turn.after:
                await self._befall(turn, call.name)
            yield call
            if turn is not None and turn.after:
                later = self._later.get(id(part))
                if later is None:
                    await self._befall(turn, call.name)
                else:
                    later.append((turn, call.name))
        except BaseException as error:
            call.error = error
            raise
        finally:
            call.ended = True

    def _begun(self, call: Call) -> tuple[Call, _Turn | None]:
        """A call that begins, and what befalls it."""
        self._calls.append(call)
        turn = next((turn for turn in self._turns if turn.is_for(call.name)), None)
        if turn is not None:
            turn.left -= 1
            if turn.left <= 0:
                self._turns.remove(turn)
        return call, turn

    async def _befall(self, turn: _Turn, name: str) -> None:
        if turn.hold is not None:
            await turn.hold.stay()
        elif turn.error is not None:
            raise turn.error
        else:
            dependency = self._dependencies[name.partition(".")[0]]
            how = "was asked to, and lost its answer" if turn.after else "does not answer"
            raise Unavailable(dependency, f"it {how}: the script of the test has {name} fail")

    def _require(self, name: str) -> None:
        if name not in self._known and not any(known.endswith(f".{name}") for known in self._known):
            there = ", ".join(sorted(self._known)) or "none: no part follows this script"
            raise LookupError(f"no call is named {name!r}; there are {there}")


def _calls_of(base: type[object]) -> Sequence[str]:
    """The names of the methods of a class that are awaited, iterated or entered."""
    return [
        name
        for name, method in getmembers(base, isfunction)
        if not name.startswith("_")
        and (iscoroutinefunction(method) or "Async" in str(method.__annotations__.get("return")))
    ]
