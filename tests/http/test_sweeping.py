"""Sweeping while the service runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta

import msgspec
import pytest
from dependency_injector import providers
from tests.http.conftest import Client, Configure
from tests.http.test_images import PNG, with_image

from watchly_adapters.container import Container
from watchly_adapters.databases import Database
from watchly_adapters.memory import MemoryImages
from watchly_core.clocks import utc_now
from watchly_core.errors import Unavailable
from watchly_core.images import ImageState
from watchly_core.people import Role
from watchly_core.sessions import Session
from watchly_core.signing_keys import SigningKey
from watchly_http.sweeping import sweeping, turn_to_sweep

pytestmark = pytest.mark.anyio

OFTEN = timedelta(milliseconds=5)


def often(container: Container) -> AbstractAsyncContextManager[None]:
    """The service sweeping again and again."""
    settings = msgspec.structs.replace(container.settings(), sweep_interval=OFTEN)
    return sweeping(container.database(), container.gallery(), container.catalogue(), settings)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await condition():  # noqa: ASYNC110 - what is waited for is in a database
            await asyncio.sleep(0.005)  # between looks, not in place of one


async def records(container: Container, movie_id: int) -> list[ImageState]:
    async with container.database().transactions() as tx:
        return [record.state for record in await tx.images.of_movie(movie_id)]


async def discarded(client: Client) -> int:
    """A movie that is gone, whose image is due."""
    movie, _ = await with_image(client)
    assert (await client.delete(f"/api/movies/{movie.id}?purge=true")).status_code == 204
    assert list(client.ledger(movie.id)) != []
    return movie.id


async def test_what_is_due_goes_by_itself(configure: Configure) -> None:
    container = configure(SWEEP_INTERVAL="0")
    async with Client(container) as client:
        movie_id = await discarded(client)

        async def sweep() -> None:
            async with often(container):
                await until(lambda: _gone(container, movie_id))

        client.call(sweep)
        assert client.ledger(movie_id) == {}


async def test_one_worker_sweeps_at_a_time(configure: Configure) -> None:
    container = configure(SWEEP_INTERVAL="0")
    async with Client(container) as client:
        movie_id = await discarded(client)
        database = container.database()

        async def sweep() -> None:
            async with database.alone("sweep") as alone, database.alone("other") as other:
                assert (alone, other) == (True, True)
                async with database.alone("sweep") as another:
                    assert not another
                async with often(container):
                    for _ in range(20):
                        await asyncio.sleep(0.01)  # time in which it would have swept
                        assert await records(container, movie_id) == [ImageState.DISCARDED]
            async with database.alone("sweep") as alone:
                assert alone

        client.call(sweep)


async def test_a_command_waits_for_its_turn_to_sweep(configure: Configure) -> None:
    container = configure(SWEEP_INTERVAL="0")
    async with Client(container) as client:
        database = container.database()

        async def wait() -> None:
            async with database.alone("sweep") as alone:
                assert alone
                with pytest.raises(
                    Unavailable, match=r"others have been sweeping, or backing up, for 0\.1 s"
                ):
                    async with turn_to_sweep(database, patience=0.1):
                        raise AssertionError("two have the turn")
                waiting = asyncio.create_task(_turn(database))
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(waiting), 0.05)
            await waiting

        client.call(wait)


async def _turn(database: Database) -> None:
    async with turn_to_sweep(database), database.alone("sweep") as another:
        assert not another


async def test_a_service_sweeps_unless_it_is_told_not_to(configure_fakes: Configure) -> None:
    async with Client(configure_fakes(SWEEP_INTERVAL="1 s")) as client:
        movie_id = await discarded(client)

        async def gone() -> bool:
            return not client.ledger(movie_id)

        await until(gone)


async def test_a_sweep_that_fails_is_followed_by_another(configure_fakes: Configure) -> None:
    container = configure_fakes(SWEEP_INTERVAL="0")
    images = Stubborn()
    container.images.override(providers.Object(images))
    async with Client(container) as client:
        movie_id = await discarded(client)

        async def sweep() -> None:
            async def failed() -> bool:
                return images.tries > 0

            async with often(container):
                await until(failed)
                other = await discarded_by_itself(container)
                images.broken = False
                await until(lambda: _gone(container, other))

        client.call(sweep)
        assert [record.state for record in client.ledger(movie_id).values()] == [ImageState.DELETING]


async def discarded_by_itself(container: Container) -> int:
    """Another movie whose image is due, without the API."""
    movie = await container.catalogue().add({"title": "Ran"})
    await container.gallery().attach(movie.id, _chunks(), "image/png")
    await container.catalogue().remove(movie.id, purge=True)
    return movie.id


async def _chunks() -> AsyncIterator[bytes]:
    yield PNG


async def _gone(container: Container, movie_id: int) -> bool:
    return not await records(container, movie_id)


class Stubborn(MemoryImages):
    """Dies of deletions while it is broken."""

    def __init__(self) -> None:
        super().__init__()
        self.broken, self.tries = True, 0

    async def delete(self, key: str) -> None:
        self.tries += 1
        if self.broken:
            raise RuntimeError("it is broken")
        await super().delete(key)


async def test_old_events_go_by_themselves_where_that_is_wanted(configure: Configure) -> None:
    container = configure(SWEEP_INTERVAL="0", LOG_RETENTION="0")
    async with Client(container) as client:
        movie = await client.added(title="Heat")
        assert (await client.patch(f"/api/movies/{movie.id}", json={"title": "Cold"})).status_code == 200

        async def sweep() -> list[int]:
            catalogue = container.catalogue()

            async def pruned() -> bool:
                return len(await catalogue.history(movie.id)) == 1

            async with often(container):
                await until(pruned)
            return [change.seq for change in await catalogue.history(movie.id)]

        assert client.call(sweep) == [2]


async def test_events_stay_for_ever_by_default(configure: Configure) -> None:
    assert configure().settings().log_retention is None


async def test_what_of_people_is_over_goes_by_itself(configure: Configure) -> None:
    container = configure(SWEEP_INTERVAL="0")
    async with Client(container) as client:
        now = utc_now()
        ago, soon = now - timedelta(seconds=1), now + timedelta(hours=1)

        async def sweep() -> None:
            database = container.database()
            async with database.transactions() as tx:
                user = await tx.users.add("ada@films.example", Role.VIEWER, "hash", now)
                for name, ends_at in (("over", ago), ("good", soon)):
                    handle = name.encode()
                    await tx.sessions.add(Session(name, user.id, handle, b"", ago, ago, ends_at))
                    await tx.throttles.take(name, 1, ago - timedelta(hours=1), ends_at)
                    await tx.signing_keys.add(SigningKey(name, b"", ago, ago, ends_at))

            async def gone() -> bool:
                return "over" not in {key.kid for key in await database.people.signing_keys()}

            async with often(container):
                await until(gone)
            assert "good" in {key.kid for key in await database.people.signing_keys()}
            assert await database.people.session_user("over") is None
            assert await database.people.session_user("good") == user
            async with database.transactions() as tx:
                assert not await tx.throttles.find("over", ago - timedelta(hours=1))
                assert await tx.throttles.find("good", now)

        client.call(sweep)
