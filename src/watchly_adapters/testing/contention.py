"""The suite of transactions that another one is in the way of: they are begun anew, and done once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeAlias

import pytest

from watchly_adapters.testing.stores import BARE, HEAT, LATER, NOON, Store, StoreContract, events_of
from watchly_core.catalogue import Catalogue
from watchly_core.contention import TRIES
from watchly_core.errors import Contended, Replayed, Undone
from watchly_core.imports import Row
from watchly_core.movies import Movie
from watchly_core.ports import Transaction, Transactions
from watchly_core.queries import MovieQuery
from watchly_core.receipts import Claim, KeptReply, KeyedReceipt

__all__ = ["ContendedTransactions", "ContentionContract"]

#: What is done to a movie that is there.
Write: TypeAlias = Callable[[Catalogue, Movie], Awaitable[object]]


class ContendedTransactions:
    """The write side of a store, where something is in the way of the next few transactions as they end.

    Attributes:
        contended: how many of them are to be undone still.
        begun: how many were begun.
    """

    def __init__(self, real: Transactions, contended: int = 0) -> None:
        self._real = real
        self.contended: int = contended
        self.begun: int = 0

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Transaction]:
        """See the port."""
        self.begun += 1
        async with self._real() as tx:
            yield tx
            if self.contended:
                self.contended -= 1
                raise Contended("database", "another transaction was in the way")


def _receipt() -> KeyedReceipt[object]:
    reply = KeptReply(201, (), b"{}")
    return KeyedReceipt(Claim("user:7", "a key", b"digest"), lambda _: reply, lambda: LATER)


async def _add(catalogue: Catalogue, _: Movie) -> object:
    return await catalogue.add(BARE, receipt=_receipt())


async def _revise(catalogue: Catalogue, movie: Movie) -> object:
    return await catalogue.revise(movie.id, {"genre": "Drama"}, version=movie.version)


async def _remove(catalogue: Catalogue, movie: Movie) -> None:
    await catalogue.remove(movie.id, version=movie.version)


async def _revert(catalogue: Catalogue, movie: Movie) -> object:
    return await catalogue.revert(movie.id, 1, receipt=_receipt())


#: Each with how many transactions it takes at most: writes that may share one are tried in that first.
_WRITES: Final = (
    pytest.param(_add, TRIES, id="add"),
    pytest.param(_revise, TRIES + 1, id="revise"),
    pytest.param(_remove, TRIES, id="remove"),
    pytest.param(_revert, TRIES, id="revert"),
)


class ContentionContract(StoreContract):
    """What a store undid for the sake of another transaction, and how the use cases go on from there."""

    @pytest.mark.parametrize(("write", "tries"), _WRITES)
    async def test_it_is_begun_anew_and_done_once(self, store: Store, write: Write, tries: int) -> None:
        """Each try reads what it goes by anew, and leaves nothing to the next one, its receipt neither."""
        transactions = ContendedTransactions(store.transactions)
        catalogue = Catalogue(store.queries, transactions, clock=lambda: NOON)
        movie = await _revised(catalogue)
        before = await _seen(store, movie)
        transactions.contended, transactions.begun = tries - 1, 0
        await write(catalogue, movie)
        assert transactions.begun == tries
        assert await _seen(store, movie) == before + 1

    @pytest.mark.parametrize(("write", "tries"), _WRITES)
    async def test_it_is_given_up_when_that_does_not_help(
        self, store: Store, write: Write, tries: int
    ) -> None:
        """Then nothing was done, and whoever asked may do so again."""
        transactions = ContendedTransactions(store.transactions)
        catalogue = Catalogue(store.queries, transactions, clock=lambda: NOON)
        movie = await _revised(catalogue)
        before = await _seen(store, movie)
        transactions.contended, transactions.begun = tries, 0
        with pytest.raises(Contended) as caught:
            await write(catalogue, movie)
        assert isinstance(caught.value, Undone)
        assert transactions.begun == tries
        assert await _seen(store, movie) == before
        await write(catalogue, movie)

    async def test_a_receipt_is_kept_by_the_try_that_was_done(self, store: Store) -> None:
        """So what is sent again is answered, and not done."""
        transactions = ContendedTransactions(store.transactions, contended=TRIES - 1)
        catalogue = Catalogue(store.queries, transactions, clock=lambda: NOON)
        await catalogue.add(HEAT, receipt=_receipt())
        with pytest.raises(Replayed):
            await catalogue.add(HEAT, receipt=_receipt())
        assert len((await store.queries.find(MovieQuery())).data) == 1

    async def test_what_cannot_be_read_again_is_not_begun_anew(self, store: Store) -> None:
        """The rows of an import are gone: it is undone, and told so."""
        transactions = ContendedTransactions(store.transactions, contended=1)

        async def rows() -> AsyncIterator[Row]:
            yield Row(1, {"title": "Heat"})

        with pytest.raises(Contended):
            await Catalogue(store.queries, transactions).add_many(rows())
        assert transactions.begun == 1
        assert not (await store.queries.find(MovieQuery())).data


async def _revised(catalogue: Catalogue) -> Movie:
    """A movie with a version that it can go back to."""
    movie = await catalogue.add(HEAT)
    return await catalogue.revise(movie.id, {"description": "Two men."})


async def _seen(store: Store, movie: Movie) -> int:
    """How many events there are of this movie, and of those that were added."""
    others = [found.id for found in (await store.queries.find(MovieQuery())).data if found.id != movie.id]
    return sum([len(await events_of(store.queries, movie_id)) for movie_id in (movie.id, *others)])
