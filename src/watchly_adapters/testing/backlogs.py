"""What every store promises of its backlogs: they are what is still to be done, and counting them ends."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Protocol

import msgspec
import pytest

from watchly_adapters.testing.stores import HEAT, LATER, NOON, Failure, Store, StoreContract
from watchly_core.backlogs import MOST_COUNTED, Backlog, RelayBacklog
from watchly_core.events import ChangeQuery, MovieAdded
from watchly_core.images import Image, ImageRecord, ImageState, new_key
from watchly_core.messages import Letter, Message, Target
from watchly_core.ports import Backlogs, Transaction

__all__ = ["BacklogContract", "BackloggedStore"]

EARLY = NOON - dt.timedelta(minutes=1)


class BackloggedStore(Store, Protocol):
    """A store under test that tells its backlogs, empty at the start of each test."""

    @property
    def backlogs(self) -> Backlogs:
        """What is still to be done."""
        ...


def _letter(seq: int, due_at: dt.datetime | None = NOON) -> Letter:
    return Letter(Message(f"1-{seq}", seq, 1, "movie_revised", b"{}"), due_at, 1, "busy")


async def _note(tx: Transaction, state: ImageState, due_at: dt.datetime | None) -> str:
    image = Image(new_key(), 600, 900, "webp", 7)
    await tx.images.add(ImageRecord(image, state, 1, due_at))
    return image.key


class BacklogContract(StoreContract):
    """Supply `store`: a `BackloggedStore`, empty at the start of each test."""

    @pytest.fixture
    def store(self) -> Iterator[BackloggedStore]:
        """An empty store for each test."""
        raise NotImplementedError("supply a fixture `store`: an empty store for each test")

    async def test_where_nothing_was_done_nothing_is_left_to_do(self, store: BackloggedStore) -> None:
        assert await store.backlogs.backlog(NOON) == Backlog()

    async def test_changes_are_numbered(self, store: BackloggedStore) -> None:
        async with store.transactions() as tx:
            movies = await tx.movies.add_many([HEAT] * 3, NOON)
            await tx.events.append(*(MovieAdded(movie.id, 1, NOON, "system", movie) for movie in movies))
        await store.queries.changes(ChangeQuery())
        assert await store.backlogs.backlog(NOON) == Backlog(numbered_up_to=3)

    async def test_targets_are_told_apart_by_their_kinds_alone(self, store: BackloggedStore) -> None:
        targets = [
            Target("nats", position=2),
            Target("webhook-1", "https://films.example/1", "whsec_", position=1, failures=1),
            Target("webhook-2", "https://films.example/2", "whsec_", position=3, failing_since=NOON),
            # Of a log that was longer than this one.
            Target("webhook-3", "https://films.example/3", "whsec_", position=2**62, failing_since=EARLY),
        ]
        async with store.transactions() as tx:
            for target in targets:
                await tx.relays.add(target)
            await tx.relays.keep("nats", _letter(1), _letter(2, LATER), _letter(3, None))
            await tx.relays.keep("webhook-1", _letter(1, None), _letter(2, None))
            await tx.relays.keep("webhook-2", _letter(1), _letter(2, None))
        # Nobody is behind while there is nothing.
        broker, webhook = RelayBacklog(0, 2, 1, 0), RelayBacklog(0, 1, 3, 2)
        assert await store.backlogs.backlog(NOON) == Backlog(broker=broker, webhook=webhook)
        async with store.transactions() as tx:
            movies = await tx.movies.add_many([HEAT] * 5, NOON)
            await tx.events.append(*(MovieAdded(movie.id, 1, NOON, "system", movie) for movie in movies))
        await store.queries.changes(ChangeQuery())
        assert await store.backlogs.backlog(NOON) == Backlog(
            numbered_up_to=5,
            broker=msgspec.structs.replace(broker, behind=3),
            webhook=msgspec.structs.replace(webhook, behind=4),
        )
        async with store.transactions() as tx:
            for target in targets[1:]:
                await tx.relays.remove(target.name)
        left = await store.backlogs.backlog(NOON)
        assert (left.broker.behind, left.webhook) == (3, RelayBacklog())

    async def test_images_are_due_until_they_are_deleted_or_given_up(self, store: BackloggedStore) -> None:
        async with store.transactions() as tx:
            pending = await _note(tx, ImageState.PENDING, EARLY)
            await _note(tx, ImageState.DISCARDED, NOON)
            await _note(tx, ImageState.DELETING, LATER)
            await _note(tx, ImageState.DELETING, None)
            await _note(tx, ImageState.ATTACHED, None)
        before, now, later = [
            await store.backlogs.backlog(at) for at in (EARLY - dt.timedelta.resolution, NOON, LATER)
        ]
        assert before == Backlog(images_dead=1)
        assert now == Backlog(images_due=2, images_dead=1, overdue=60.0)
        assert later == Backlog(images_due=3, images_dead=1, overdue=(LATER - EARLY).total_seconds())
        async with store.transactions() as tx:
            await tx.images.remove(pending)
        assert await store.backlogs.backlog(NOON) == Backlog(images_due=1, images_dead=1)

    async def test_what_is_not_committed_does_not_count(self, store: BackloggedStore) -> None:
        with pytest.raises(Failure):
            async with store.transactions() as tx:
                await tx.relays.add(Target("nats"))
                await tx.relays.keep("nats", _letter(1))
                await _note(tx, ImageState.PENDING, NOON)
                assert await store.backlogs.backlog(NOON) == Backlog()
                raise Failure
        assert await store.backlogs.backlog(NOON) == Backlog()

    async def test_counting_ends(self, store: BackloggedStore) -> None:
        half = MOST_COUNTED // 2
        async with store.transactions() as tx:
            for number in range(3):
                name = f"webhook-{number}"
                await tx.relays.add(Target(name, "https://films.example", "whsec_"))
                await tx.relays.keep(name, *(_letter(seq) for seq in range(1, half + 1)))
        assert (await store.backlogs.backlog(NOON)).webhook == RelayBacklog(waiting=MOST_COUNTED)
        async with store.transactions() as tx:
            await tx.relays.keep("webhook-0", *(_letter(seq, None) for seq in range(1, half + 1)))
            await tx.relays.drop("webhook-1", 1)
        assert (await store.backlogs.backlog(NOON)).webhook == RelayBacklog(
            waiting=MOST_COUNTED - 1, dead=half
        )
