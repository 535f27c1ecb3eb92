"""Two stores driven through the same random histories, every answer of one compared with the other's.

The suites in `stores` say what is promised one sentence at a time; this finds what no sentence thought
of. The fake stands for what is right. For an adapter of your own, in a test module::

    @asynccontextmanager
    async def my_store():  # an empty store for each history
        async with MyDatabase(URL) as database:
            await database.clear()
            yield database


    def test_my_store_answers_as_the_fake_does():
        assert compare(MemoryDatabase, my_store, settings(max_examples=200)) > 0

A difference fails with the shortest history that shows it, printed as the calls that make it.

A history is one transaction after another, committed or failed: movies are added singly and in bulk,
replaced and removed, events appended, images noted, moved, found due and forgotten, under ids and keys
that are there and that are not. Titles and descriptions are made of a few words in many spellings, so
that searches, exact and mistyped, find some of them. Lists, whatever they search, filter and sort by,
counts, genres, exports and histories of movies are read at any moment, in the middle of transactions as
well; lists that were left half-way are taken up again later, from forged cursors too; and everything is
read after each transaction. What no caller may do does not occur: a movie replaced at its own version,
events of a movie out of the order of their versions, text that UTF-8 cannot hold, the character NUL.

Ids are compared like all else: they start at 1 and leave out only those of transactions that failed.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import ClassVar, Final, TypeAlias, TypeVar

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from watchly_adapters.testing.stores import Failure, Store
from watchly_core.errors import IllegalTransition, ImageNotFound, MovieNotFound, Unavailable, WatchlyError
from watchly_core.events import Event, ImageAttached, ImageDetached, MovieAdded, MovieRemoved, MovieRevised
from watchly_core.images import Image, ImageRecord, ImageState
from watchly_core.movies import MAX_ID, Movie, MovieDraft
from watchly_core.ports import Transaction
from watchly_core.queries import SORT_FIELDS, Column, Cursor, MovieQuery, Page, Sort
from watchly_core.text import title_key

__all__ = ["Histories", "StoreFactory", "compare"]

#: Makes a store that is empty and usable inside the context.
StoreFactory: TypeAlias = Callable[[], AbstractAsyncContextManager[Store]]

#: A store that has not answered after this many seconds hangs.
_PATIENCE: Final = 30

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_DOOMSDAY: Final = dt.datetime(2200, 1, 1, tzinfo=dt.UTC)

_T = TypeVar("_T")


def _mostly(usual: st.SearchStrategy[_T], seldom: st.SearchStrategy[_T]) -> st.SearchStrategy[_T]:
    return st.integers(0, 3).flatmap(lambda number: usual if number < 3 else seldom)


# Adopted rows break rules, so what is drawn does too.
_letters = st.sampled_from("aZ é\n\r\t\\'\"%,\x01\x7f\u2028\U0001f3ac") | st.characters(
    exclude_categories=["Cs"], exclude_characters="\0"
)
_texts = st.text(_letters, max_size=8) | st.sampled_from(["\U0001f3ac" * 255, "\\N", "\\.", "NULL"])
_some_text = st.none() | _texts
_integers = st.integers(1, 3) | st.integers(-MAX_ID - 1, MAX_ID)
_sizes = st.integers(0, 2**63 - 1)

# Few, so that the same movies, images and moments are met again and again.
_KEYS: Final = [digit * 32 for digit in "f0e"]
_keys = st.sampled_from(_KEYS)
_few = st.sampled_from([1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 5, 0, MAX_ID])
_ids = _mostly(_few, st.integers())
_microseconds = _mostly(st.sampled_from([0, 1, 2, 3, 999_999]), st.integers(-(10**15), 4 * 10**15))
_moments = _microseconds.map(lambda microseconds: _EPOCH + dt.timedelta(microseconds=microseconds))
_some_moment = st.none() | _moments

# A few words, near enough to each other to be mistaken, as they are written and as they are searched.
_WORDS: Final = ["heat", "heath", "heats", "haet", "amelie", "matrix", "matirx", "spider", "man", "de"]
_SPELLINGS: Final = [
    *("Heat", "HEAT", "h\xe9at", "he\u0301at", "Heat's", "H.E.A.T.", "he_at", "\uff28eat", "\u1e9eheat"),
    *("Am\xe9lie", "AME\u0301LIE", "Spider-Man", "spiderman"),
    *("\ufdfa", "8\xbd", "\u039c\u03b1\u03c2", "\u6771\u4eac"),
]
_MISTYPED: Final = [
    "heta",
    "hea",
    "heaths",
    "heatt",
    "amleie",
    "amely",
    "matri",
    "mtarix",
    "spidre",
    "mna",
    "ed",
]
_ODD: Final = [
    *("h", "d", "heat man", "heat & man", "heat:*", "!heat", "'heat'", "spdier-man", "e.t", "8 1", "xyzzy"),
    *("%", "_", "\\", " ", "\0", "he\0at"),
]
_spellings = st.sampled_from(_WORDS) | st.sampled_from(_SPELLINGS)
_phrases = st.lists(_spellings, min_size=1, max_size=2).map(" ".join)
_titles = _mostly(_phrases, _texts)
_descriptions = _mostly(st.none() | _phrases, _texts)
_genres = _mostly(
    st.sampled_from(["Crime", "crime", "O'Neil"]),
    st.sampled_from(["Cr\xefme", "%", ""]) | st.text(_letters, max_size=8),
)
_years = _mostly(st.integers(1, 3), st.integers(-MAX_ID - 1, MAX_ID))
_some_year = _mostly(st.none(), st.none() | _mostly(st.integers(1, 3), st.integers(-(2**63), 2**63 - 1)))

_searched = _mostly(_spellings | st.sampled_from(_MISTYPED), st.sampled_from(_ODD))
_searches = _mostly(_searched, st.lists(_searched, min_size=2, max_size=3).map(" ".join))
_sorts = st.lists(
    st.builds(Sort, st.sampled_from(SORT_FIELDS), st.booleans()),
    max_size=3,
    unique_by=lambda sort: sort.field,
).map(tuple[Sort, ...])
_queries = st.builds(
    MovieQuery,
    q=_mostly(st.none() | _searches, _searches | _texts),
    genre=_mostly(st.none(), st.none() | _genres | _texts),
    release_year=_mostly(st.none(), _some_year),
    min_release_year=_some_year,
    max_release_year=_some_year,
    sort=_sorts,
    limit=st.integers(1, 5) | st.integers(1, 1_000),
)
# Where a forged cursor says that a page ended.
_positions: st.SearchStrategy[Mapping[Column, int | str | None]] = st.fixed_dictionaries(
    {
        "tier": st.integers(0, 25) | st.integers(0, MAX_ID),
        "id": st.integers(0, 9) | st.integers(-MAX_ID - 1, MAX_ID),
        "title_key": st.none() | _titles.map(title_key) | _texts,
        "title": _titles,
        "release_year": st.none() | _years,
        "created_at": st.none() | _microseconds,
        "updated_at": st.none() | _microseconds,
    }
)
_drafts = st.builds(
    MovieDraft,
    title=_titles,
    description=_descriptions,
    release_year=_mostly(_years, st.none()),
    genre=_mostly(_genres, st.none()),
)
_many_drafts = st.lists(_drafts, max_size=3) | st.builds(
    lambda draft, count: [draft] * count, _drafts, st.integers(0, 30)
)
_images = st.builds(
    Image, _keys, _integers, _integers, _texts, _sizes, st.dictionaries(_texts, _texts, max_size=2)
)
_movies = st.builds(
    lambda movie_id, draft, *rest: Movie(
        movie_id, draft.title, draft.description, draft.release_year, draft.genre, *rest
    ),
    _ids,
    _drafts,
    _some_text,
    st.none() | _images,
    _integers,
    _some_moment,
    _some_moment,
)
# The ledger keeps no variants: they follow from the key.
_records = st.builds(
    lambda image, state, movie_id, due_at, attempts: ImageRecord(
        image, state, movie_id, None if state is ImageState.ATTACHED else due_at, attempts
    ),
    st.builds(Image, _keys, _integers, _integers, _texts, _sizes),
    st.sampled_from(ImageState),
    st.sampled_from([1, 2, 1, 2, MAX_ID]),
    _moments,
    st.integers(0, 9),
)
_kinds: st.SearchStrategy[type[Event]] = st.sampled_from(
    [MovieAdded, MovieRevised, MovieRemoved, ImageAttached, ImageDetached]
)
_ends = st.sampled_from(
    [None, None, None, None, Failure(), MovieNotFound(1), Unavailable("anything", "is down")]
)


class _Side:
    """One of the two stores, and the transaction that is open on it."""

    def __init__(self, store: Store) -> None:
        self.queries = store.queries
        self.transactions = store.transactions
        self._block: AbstractAsyncContextManager[Transaction] | None = None
        self._tx: Transaction | None = None

    @property
    def tx(self) -> Transaction:
        assert self._tx is not None
        return self._tx

    async def enter(self) -> None:
        self._block = self.transactions()
        self._tx = await self._block.__aenter__()

    async def leave(self, error: Exception | None) -> None:
        block, self._block, self._tx = self._block, None, None
        if block is not None:
            kind = None if error is None else type(error)
            swallowed = await block.__aexit__(kind, error, None)
            assert not swallowed or error is None, "the block swallowed the error that it was left by"


_Call: TypeAlias = Callable[[_Side], Awaitable[object]]
_TxCall: TypeAlias = Callable[[Transaction], Awaitable[object]]


class _Driver:
    """Runs calls on one store in a task of its own: some libraries tie a transaction to its task."""

    def __init__(self, make: StoreFactory) -> None:
        self._calls: asyncio.Queue[tuple[_Call, asyncio.Future[object]] | None] = asyncio.Queue()
        self._task: asyncio.Task[object] = asyncio.create_task(self._serve(make))

    async def ask(self, call: _Call) -> object:
        """What `call` gives, or the type of the expected error that it raises."""
        answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._calls.put_nowait((call, answer))
        ends: set[asyncio.Future[object]] = {answer, self._task}
        await asyncio.wait(ends, timeout=_PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            if self._task.done():
                self._task.result()
            raise AssertionError(f"the store has not answered within {_PATIENCE} s")
        try:
            return answer.result()
        except (WatchlyError, Failure) as error:
            return type(error)

    async def close(self) -> None:
        self._calls.put_nowait(None)
        await self._task

    async def _serve(self, make: StoreFactory) -> None:
        async with make() as store:
            side = _Side(store)
            while asked := await self._calls.get():
                call, answer = asked
                try:
                    answer.set_result(await call(side))
                except Exception as error:  # noqa: BLE001 - it is the answer
                    answer.set_exception(error)
            with suppress(Failure):
                await side.leave(Failure())


class Histories(RuleBasedStateMachine):
    """Random histories; `compare` runs them.

    Attributes:
        stores: what makes the store that is right, and the one that is compared with it.
        answers: how many answers were compared so far.
    """

    _lists = Bundle[MovieQuery]("lists")

    stores: ClassVar[tuple[StoreFactory, StoreFactory]]
    answers: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self._open = self._differ = False
        self._versions: dict[int, int] = {}
        self._version = 1
        self._runner = asyncio.Runner()
        self._runner.run(self._start())

    async def _start(self) -> None:
        self._drivers = [_Driver(make) for make in self.stores]

    def teardown(self) -> None:
        """End what is open, and let both stores go."""
        try:
            if self._open and not self._differ:
                self.end(None)
        finally:
            with self._runner:
                for driver in self._drivers:
                    self._runner.run(driver.close())

    def _same(self, call: _Call) -> object:
        """The answer of both to `call`."""
        self._differ = True
        expected, got = (self._runner.run(driver.ask(call)) for driver in self._drivers)
        assert got == expected, f"the store answers\n    {got!r}\nwhere\n    {expected!r}\nis right"
        self._differ = False
        type(self).answers += 1
        return got

    @initialize(drafts=_mostly(st.lists(_drafts, min_size=4, max_size=20), st.just([])), at=_moments)
    def stock(self, drafts: list[MovieDraft], at: dt.datetime) -> None:
        """Begin with something to find."""
        self.add_many(drafts, at)
        self.end(None)

    # Reading

    @rule(movie_id=_ids)
    def get(self, movie_id: int) -> None:
        self._same(lambda side: side.queries.get(movie_id))

    @rule(target=_lists, query=_queries)
    def find(self, query: MovieQuery) -> MovieQuery | MultipleResults[MovieQuery]:
        page = self._same(lambda side: side.queries.find(query))
        text = page.next_cursor if isinstance(page, Page) else None
        if text is None:
            return multiple()
        return msgspec.structs.replace(query, cursor=Cursor.decode(text))

    @rule(target=_lists, query=_lists)
    def go_on(self, query: MovieQuery) -> MovieQuery | MultipleResults[MovieQuery]:
        return self.find(query)

    @rule(target=_lists, query=_queries, position=_positions, similar=st.booleans())
    def find_from(
        self, query: MovieQuery, position: Mapping[Column, int | str | None], similar: bool
    ) -> MovieQuery | MultipleResults[MovieQuery]:
        cursor = query.cursor_after(tuple(position[order.column] for order in query.order), similar=similar)
        return self.find(msgspec.structs.replace(query, cursor=cursor))

    @rule(query=_queries, limit=st.integers(1, 5))
    def find_page_by_page(self, query: MovieQuery, limit: int) -> None:
        async def pages(side: _Side) -> list[Page]:
            read = [await side.queries.find(msgspec.structs.replace(query, limit=limit))]
            while text := read[-1].next_cursor:
                following = msgspec.structs.replace(query, limit=limit, cursor=Cursor.decode(text))
                read.append(await side.queries.find(following))
            return read

        self._same(pages)

    @rule(query=_queries | _lists)
    def count(self, query: MovieQuery) -> None:
        self._same(lambda side: side.queries.count(query))

    @rule(query=_queries | _lists)
    def genres(self, query: MovieQuery) -> None:
        self._same(lambda side: _listed(side.queries.genres(query)))

    @rule(query=_queries)
    def export(self, query: MovieQuery) -> None:
        self._same(lambda side: _exported(side, query))

    @rule(movie_id=_ids)
    def history(self, movie_id: int) -> None:
        self._same(lambda side: _listed(side.queries.history(movie_id)))

    # Ending

    @precondition(lambda self: self._open)
    @rule(error=_ends)
    def end(self, error: Exception | None) -> None:
        self._same(lambda side: side.leave(error))
        self._open = False
        self._same(lambda side: side.queries.find(MovieQuery(limit=MAX_ID)))
        for movie_id in self._versions:
            self.history(movie_id)
        self._same(_ledger)

    def _write(self, call: _TxCall) -> object:
        """The answer of both to `call` in a transaction, which goes on until `end`."""
        if not self._open:
            self._same(lambda side: side.enter())
            self._open = True
        return self._same(lambda side: call(side.tx))

    # Movies

    @rule(draft=_drafts, at=_moments)
    def add(self, draft: MovieDraft, at: dt.datetime) -> None:
        self._write(lambda tx: tx.movies.add(draft, at))

    @rule(drafts=_many_drafts, at=_moments)
    def add_many(self, drafts: list[MovieDraft], at: dt.datetime) -> None:
        self._write(lambda tx: _listed(tx.movies.add_many(drafts, at)))

    @rule(movie_id=_ids)
    def get_held(self, movie_id: int) -> None:
        self._write(lambda tx: tx.movies.get(movie_id))

    @rule(movie=_movies, step=st.integers(1, 3))
    def replace(self, movie: Movie, step: int) -> None:
        # One that no movie had so far is another one, whichever movie is there.
        self._version += step
        revised = msgspec.structs.replace(movie, version=self._version)
        self._write(lambda tx: tx.movies.replace(revised))

    @rule(movie_id=_ids)
    def remove(self, movie_id: int) -> None:
        self._write(lambda tx: tx.movies.remove(movie_id))

    # Events

    @rule(
        kinds=st.lists(_kinds, max_size=30),
        movie_id=_few,
        step=st.integers(1, 3),
        at=_moments,
        actor=_texts,
        movie=_movies,
        trace=_some_text,
    )
    def append(  # noqa: PLR0913 - an event
        self,
        *,
        kinds: list[type[Event]],
        movie_id: int,
        step: int,
        at: dt.datetime,
        actor: str,
        movie: Movie,
        trace: str | None,
    ) -> None:
        events: list[Event] = []
        for kind in kinds:
            self._versions[movie_id] = self._versions.get(movie_id, 0) + step
            events.append(kind(movie_id, self._versions[movie_id], at, actor, movie, trace))
        self._write(lambda tx: tx.events.append(*events))

    # Images

    @rule(record=_records)
    def note_image(self, record: ImageRecord) -> None:
        if self._write(lambda tx: tx.images.add(record)) is IllegalTransition:
            self.end(Failure())

    @rule(record=_records)
    def replace_image(self, record: ImageRecord) -> None:
        self._write(lambda tx: tx.images.replace(record))

    @rule(key=_keys)
    def forget_image(self, key: str) -> None:
        self._write(lambda tx: tx.images.remove(key))

    @rule(movie_id=_ids)
    def images_of(self, movie_id: int) -> None:
        self._write(lambda tx: _listed(tx.images.of_movie(movie_id)))

    @rule(now=_moments, limit=st.integers(0, 9))
    def images_due(self, now: dt.datetime, limit: int) -> None:
        self._write(lambda tx: _listed(tx.images.due(now, limit)))


def compare(reference: StoreFactory, store: StoreFactory, options: settings | None = None) -> int:
    """Drive both through the same histories, as many and as long as `options` say.

    Returns:
        The number of answers that were compared.

    Raises:
        AssertionError: an answer of `store` is not that of `reference`.
    """

    class Compared(Histories):
        stores = (reference, store)

    # How long a history takes is the stores' affair.
    unhurried = settings(options, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    run_state_machine_as_test(Compared, settings=unhurried)
    return Compared.answers


async def _listed(answer: Awaitable[Sequence[object]]) -> list[object]:
    return list(await answer)


async def _exported(side: _Side, query: MovieQuery) -> list[MovieDraft]:
    return [movie async for batch in side.queries.export(query) for movie in batch]


async def _ledger(side: _Side) -> tuple[list[ImageRecord], list[ImageRecord | None]]:
    async with side.transactions() as tx:
        due = list(await tx.images.due(_DOOMSDAY, 100))
        return due, [await _found(tx, key) for key in _KEYS]


async def _found(tx: Transaction, key: str) -> ImageRecord | None:
    try:
        return await tx.images.get(key)
    except ImageNotFound:
        return None
