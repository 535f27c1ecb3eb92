"""What the transactions of a store promise: all of it or nothing, in every store at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec
import pytest

from watchly_adapters.testing.stores import (
    AT_ONCE,
    BARE,
    HASH,
    HEAT,
    LATER,
    NOON,
    Failure,
    Store,
    StoreContract,
    events_of,
)
from watchly_core.api_keys import ApiKey
from watchly_core.errors import (
    ApiKeyNotFound,
    EmailTaken,
    ImageNotFound,
    MovieNotFound,
    TargetNotFound,
    Undone,
    UserNotFound,
    VersionConflict,
)
from watchly_core.events import MovieAdded
from watchly_core.images import Image, ImageRecord, ImageState, new_key
from watchly_core.messages import Target
from watchly_core.movies import Movie
from watchly_core.people import Role, User
from watchly_core.ports import Transaction
from watchly_core.receipts import Claim, KeptReply
from watchly_core.sessions import Session
from watchly_core.signing_keys import SigningKey

__all__ = ["TransactionContract"]

_CLAIM: Final = Claim("user:7", "one", b"digest")
_REPLY: Final = KeptReply(201, (("ETag", '"v1"'),), b"{}")
#: More of them than a pool has connections by default.
_MANY: Final = 24


class Gone(BaseException):
    """An exception that nothing catches by accident."""


class _Written(NamedTuple):
    """What one block has written into every store."""

    movie: Movie
    user: User
    api_key: ApiKey
    image: ImageRecord
    session: Session


async def _write(tx: Transaction) -> _Written:
    """Write into every store."""
    movie = await tx.movies.add(HEAT, NOON)
    await tx.events.append(MovieAdded(movie.id, 1, NOON, "system", movie))
    image = ImageRecord(Image(new_key(), 600, 900, "webp", 7), ImageState.PENDING, movie.id, NOON)
    await tx.images.add(image)
    assert await tx.receipts.claim(_CLAIM, NOON) is None
    await tx.receipts.keep(_CLAIM, _REPLY, LATER)
    await tx.relays.add(Target("nats"))
    user = await tx.users.add("ada@films.example", Role.EDITOR, HASH, NOON)
    session = Session("one", user.id, b"handle", b"secret", NOON, NOON, LATER)
    await tx.sessions.add(session)
    api_key = await tx.api_keys.add(ApiKey(0, "key", Role.VIEWER, "prefix", b"digest", user.id, NOON))
    await tx.signing_keys.add(SigningKey("kid", b"sealed", NOON, NOON))
    assert await tx.throttles.take("bucket", 1, NOON, LATER) is None
    return _Written(movie, user, api_key, image, session)


async def _require_all(store: Store, written: _Written) -> None:
    movie, user, api_key, image, session = written
    assert await store.queries.get(movie.id) == movie
    assert await events_of(store.queries, movie.id) == [MovieAdded(movie.id, 1, NOON, "system", movie)]
    assert await store.people.user(user.id) == user
    assert await store.people.session_user(session.id) == user
    assert await store.people.api_key(api_key.prefix) == (api_key, user)
    assert [key.kid for key in await store.people.signing_keys()] == ["kid"]
    async with store.transactions() as tx:
        assert await tx.images.get(image.image.key) == image
        assert await tx.receipts.claim(_CLAIM, NOON) == _REPLY
        assert await tx.relays.get("nats") == Target("nats")
        assert await tx.sessions.get(session.handle) == (session, user)
        assert await tx.throttles.take("bucket", 1, NOON, LATER) == LATER


async def _require_nothing(store: Store, written: _Written) -> None:
    movie, user, api_key, image, session = written
    with pytest.raises(MovieNotFound):
        await store.queries.get(movie.id)
    assert await events_of(store.queries, movie.id) == []
    assert await store.queries.last_change() == 0
    with pytest.raises(UserNotFound):
        await store.people.user(user.id)
    assert await store.people.session_user(session.id) is None
    assert await store.people.api_key(api_key.prefix) is None
    assert list(await store.people.signing_keys()) == []
    async with store.transactions() as tx:
        for missing, lookup in (
            (ImageNotFound, tx.images.get(image.image.key)),
            (TargetNotFound, tx.relays.get("nats")),
            (ApiKeyNotFound, tx.api_keys.get(api_key.id)),
        ):
            with pytest.raises(missing):
                await lookup
        assert await tx.receipts.claim(_CLAIM, NOON) is None
        assert await tx.throttles.take("bucket", 1, NOON, LATER) is None


class TransactionContract(StoreContract):
    """Transactions over all stores. Supply `store`."""

    async def test_a_block_that_ends_is_there_as_a_whole(self, store: Store) -> None:
        async with store.transactions() as tx:
            written = await _write(tx)
        await _require_all(store, written)

    @pytest.mark.parametrize(
        "error",
        [Failure, Gone, asyncio.CancelledError, lambda: VersionConflict(1, 1, 2), lambda: Undone("x", "y")],
        ids=["an error", "no error", "cancelled", "an error of the core", "one that is told of often"],
    )
    async def test_a_block_that_fails_leaves_nothing_and_says_why(
        self, store: Store, error: Callable[[], BaseException]
    ) -> None:
        raised = error()
        with pytest.raises(type(raised)) as told:
            async with store.transactions() as tx:
                written = await _write(tx)
                raise raised
        assert told.value is raised
        await _require_nothing(store, written)
        async with store.transactions() as tx:
            await tx.relays.add(Target("webhook-1"))

    async def test_nothing_of_a_block_is_seen_before_it_ends(self, store: Store) -> None:
        async with store.transactions() as tx, asyncio.timeout(AT_ONCE):
            movie, user, api_key, _, session = await _write(tx)
            with pytest.raises(MovieNotFound):
                await store.queries.get(movie.id)
            assert await events_of(store.queries, movie.id) == []
            with pytest.raises(UserNotFound):
                await store.people.user(user.id)
            assert await store.people.session_user(session.id) is None
            assert await store.people.api_key(api_key.prefix) is None

    async def test_what_a_store_refuses_undoes_the_others(self, store: Store) -> None:
        async with store.transactions() as tx:
            await tx.users.add("grace@films.example", Role.EDITOR, HASH, NOON)
        with pytest.raises(EmailTaken):
            async with store.transactions() as tx:
                written = await _write(tx)
                await tx.users.add("grace@films.example", Role.EDITOR, HASH, NOON)
        await _require_nothing(store, written)

    async def test_a_version_that_is_taken_undoes_the_whole_block(self, store: Store) -> None:
        """Also where the store tells of it only when it commits."""
        async with store.transactions() as tx:
            movie = await tx.movies.add(BARE, NOON)
            await tx.events.append(MovieAdded(movie.id, 1, NOON, "system", movie))
        with pytest.raises(VersionConflict):
            async with store.transactions() as tx:
                await tx.relays.add(Target("nats"))
                await tx.movies.replace(msgspec.structs.replace(movie, title="Changed"))
                await tx.events.append(MovieAdded(movie.id, 1, NOON, "system", movie))
        assert await store.queries.get(movie.id) == movie
        async with store.transactions() as tx:
            assert list(await tx.relays.targets()) == []

    async def test_blocks_that_end_at_once_are_all_there(self, store: Store) -> None:
        async def write(number: int) -> Movie:
            async with store.transactions() as tx:
                movie = await tx.movies.add(msgspec.structs.replace(HEAT, title=f"Heat {number}"), NOON)
                await tx.events.append(MovieAdded(movie.id, 1, NOON, "system", movie))
            # Whoever goes on does so after the commit.
            assert await store.queries.get(movie.id) == movie
            return movie

        movies = await asyncio.gather(*map(write, range(_MANY)))
        assert len({movie.id for movie in movies}) == _MANY
        assert await store.queries.last_change() == _MANY

    async def test_an_empty_block_does_nothing(self, store: Store) -> None:
        async with store.transactions():
            pass
        with pytest.raises(Failure):
            async with store.transactions():
                raise Failure
        assert await store.queries.last_change() == 0

    async def test_who_is_in_a_hurry_waits_a_moment_at_most(self, store: Store) -> None:
        """Or for its turn, where all take turns."""
        async with store.transactions() as tx:
            movie = await tx.movies.add(BARE, NOON)

        async def get(*, hurry: bool) -> Movie:
            async with store.transactions() as tx:
                if hurry:
                    await tx.hurry()
                return await tx.movies.get(movie.id)

        # Whoever comes after them is in no hurry for that.
        assert await asyncio.gather(*(get(hurry=True) for _ in range(4))) == [movie] * 4
        async with store.transactions() as holder:
            await holder.movies.get(movie.id)
            hurrying = [asyncio.create_task(get(hurry=True)) for _ in range(4)]
            if not self.in_turn:
                async with asyncio.timeout(AT_ONCE):
                    found = await asyncio.gather(*hurrying, return_exceptions=True)
                assert {type(each) for each in found} == {Undone}
            patient = [asyncio.create_task(get(hurry=False)) for _ in range(4)]
            done, _ = await asyncio.wait(patient, timeout=0.5)
            assert not done
        assert await asyncio.wait_for(asyncio.gather(*patient), AT_ONCE) == [movie] * 4
        if self.in_turn:
            assert await asyncio.wait_for(asyncio.gather(*hurrying), AT_ONCE) == [movie] * 4
        assert await get(hurry=True) == movie
