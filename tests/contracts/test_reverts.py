"""Reverts: a movie becomes what it was, by a new version that continues the old ones."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import msgspec
import pytest
from tests.houses import ADA, PNG, House, chunks

from watchly_adapters.testing.stores import events_of
from watchly_core.catalogue import IMAGE_GRACE
from watchly_core.errors import InvalidMovie, MovieNotFound, VersionConflict
from watchly_core.events import ImageAttached, MovieAdded, MovieRevised
from watchly_core.movies import Movie, client_fields

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("house", ["memory", "postgres", "cached", "shared", "blocking"], indirect=True),
]

DEADLINE = 30.0


async def test_a_movie_becomes_what_it_was(house: House) -> None:
    catalogue = house.catalogue()
    first = await catalogue.add({"title": "Heat", "release_year": 1995})
    house.wait()
    await catalogue.replace(first.id, {"title": "Cold", "genre": "Crime"})
    at = house.wait()
    reverted = await catalogue.revert(first.id, 1, version=2, actor=ADA)
    assert not reverted.image_lost
    movie = reverted.movie
    assert client_fields(movie) == client_fields(first)
    assert (movie.version, movie.created_at, movie.updated_at) == (3, first.created_at, at)
    assert await catalogue.get(first.id) == movie
    assert (await events_of(catalogue, first.id))[0] == MovieRevised(first.id, 3, at, "user:7", movie)


async def test_a_removed_movie_comes_back_and_its_version_goes_on(house: House) -> None:
    catalogue = house.catalogue()
    first = await catalogue.add({"title": "Heat"})
    second = await catalogue.revise(first.id, {"genre": "Crime"})
    await catalogue.remove(first.id)
    at = house.wait()
    movie = (await catalogue.revert(first.id, 2, version=3)).movie
    assert client_fields(movie) == client_fields(second)
    assert (movie.id, movie.version, movie.created_at, movie.updated_at) == (
        first.id,
        4,
        first.created_at,
        at,
    )
    assert await catalogue.get(first.id) == movie
    assert (await events_of(catalogue, first.id))[0] == MovieAdded(first.id, 4, at, "system", movie)


async def test_the_times_of_a_movie_ascend_though_clocks_differ(house: House) -> None:
    """As where several machines write, one of which is fast."""
    catalogue, gallery = house.catalogue(), house.gallery()
    movie = await catalogue.add({"title": "Heat"})
    behind = -timedelta(minutes=10)
    house.wait(behind)
    revised = await catalogue.revise(movie.id, {"genre": "Crime"})
    await asyncio.gather(*(catalogue.revise(movie.id, {"title": f"Heat {number}"}) for number in range(3)))
    await gallery.attach(movie.id, chunks(PNG), "image/png")
    await gallery.detach(movie.id)
    await catalogue.revert(movie.id, 1)
    await catalogue.remove(movie.id)
    house.wait(behind)
    back = (await catalogue.revert(movie.id, 1)).movie
    assert revised.updated_at == back.updated_at == movie.updated_at
    assert {event.at for event in await events_of(catalogue, movie.id)} == {movie.updated_at}
    at = house.wait(timedelta(hours=1))
    assert (await catalogue.revise(movie.id, {"genre": "Drama"})).updated_at == at


async def test_a_revert_to_what_a_movie_is_changes_nothing(house: House) -> None:
    catalogue = house.catalogue()
    first = await catalogue.add({"title": "Heat"})
    await catalogue.revise(first.id, {"title": "Cold"})
    third = await catalogue.revise(first.id, {"title": "Heat"})
    for version in (1, 3):
        assert (await catalogue.revert(first.id, version)).movie == third
    assert len(await events_of(catalogue, first.id)) == 3


async def test_the_image_of_that_time_comes_back_and_the_later_one_goes(house: House) -> None:
    shown = await house.with_image()
    later = await house.gallery().attach(shown.id, chunks(PNG), "image/png")
    assert shown.image is not None
    assert later.image is not None
    reverted = await house.catalogue().revert(shown.id, 2)
    assert not reverted.image_lost
    assert reverted.movie.image == shown.image
    assert reverted.movie.image_url == shown.image_url
    assert await house.states() == ["attached", "discarded"]
    assert await house.disagreements() == []
    house.wait(IMAGE_GRACE)
    await house.gallery().sweep()
    assert set(await house.kept()) == {shown.image.key}
    assert isinstance((await events_of(house.catalogue(), shown.id))[1], ImageAttached)


async def test_a_movie_without_image_is_what_it_was(house: House) -> None:
    shown = await house.with_image()
    reverted = await house.catalogue().revert(shown.id, 1)
    assert (reverted.movie.image, reverted.image_lost) == (None, False)
    assert await house.states() == ["discarded"]
    assert await house.disagreements() == []


async def test_the_url_of_an_older_systems_image_comes_back(house: House) -> None:
    old = Movie(7, "Heat", None, None, None, "http://old.example/x.jpg", None, 1, house.now, house.now)
    async with house.store.transactions() as tx:
        await tx.movies.restore(old)
        await tx.events.append(MovieAdded(old.id, 1, house.now, "system", old))
    await house.gallery().detach(old.id)
    reverted = (await house.catalogue().revert(old.id, 1)).movie
    assert (reverted.version, reverted.image_url) == (3, old.image_url)
    assert await house.catalogue().get(old.id) == reverted


async def test_a_removed_movie_comes_back_with_its_image(house: House) -> None:
    shown = await house.with_image()
    await house.catalogue().remove(shown.id)
    reverted = await house.catalogue().revert(shown.id, 2)
    assert (reverted.movie.image, reverted.image_lost) == (shown.image, False)
    assert await house.states() == ["attached"]
    assert await house.disagreements() == []


@pytest.mark.parametrize("removed", [True, False])
async def test_an_image_that_was_swept_does_not_come_back(house: House, *, removed: bool) -> None:
    shown = await house.with_image()
    if removed:
        await house.catalogue().remove(shown.id)
    else:
        await house.gallery().detach(shown.id)
    house.wait(IMAGE_GRACE)
    await house.gallery().sweep()
    reverted = await house.catalogue().revert(shown.id, 2)
    assert reverted.image_lost
    assert (reverted.movie.image, reverted.movie.image_url) == (None, None)
    assert await house.catalogue().get(shown.id) == reverted.movie
    assert await house.disagreements() == []


@pytest.mark.parametrize("removed", [True, False])
@pytest.mark.parametrize("version", [0, -1, 9, 2**31, 2**70])
async def test_a_version_that_never_was_is_refused(house: House, version: int, *, removed: bool) -> None:
    catalogue = house.catalogue()
    movie = await catalogue.add({"title": "Heat"})
    if removed:
        await catalogue.remove(movie.id)
    with pytest.raises(InvalidMovie) as refused:
        await catalogue.revert(movie.id, version)
    assert [fault.pointer for fault in refused.value.faults] == ["#/version"]
    assert len(await events_of(catalogue, movie.id)) == 1 + removed


async def test_a_removal_is_no_version_to_go_back_to(house: House) -> None:
    catalogue = house.catalogue()
    movie = await catalogue.add({"title": "Heat"})
    await catalogue.remove(movie.id)
    with pytest.raises(InvalidMovie, match="removed"):
        await catalogue.revert(movie.id, 2)


async def test_what_never_was_cannot_be_reverted(house: House) -> None:
    with pytest.raises(MovieNotFound):
        await house.catalogue().revert(1, 1)


async def test_a_revert_that_was_based_on_another_version_is_refused(house: House) -> None:
    catalogue = house.catalogue()
    movie = await catalogue.add({"title": "Heat"})
    await catalogue.revise(movie.id, {"genre": "Crime"})
    with pytest.raises(VersionConflict):
        await catalogue.revert(movie.id, 1, version=1)
    await catalogue.remove(movie.id)
    for version in (1, 2, 4):
        with pytest.raises(VersionConflict):
            await catalogue.revert(movie.id, 1, version=version)
    assert len(await events_of(catalogue, movie.id)) == 3


async def test_of_reverts_at_once_of_a_removed_movie_one_brings_it_back(house: House) -> None:
    catalogue = house.catalogue()
    movie = await catalogue.add({"title": "Heat"})
    await catalogue.remove(movie.id)
    done = await asyncio.gather(
        *(catalogue.revert(movie.id, 1, version=2) for _ in range(8)), return_exceptions=True
    )
    assert sum(isinstance(each, VersionConflict) for each in done) == 7
    assert [event.version for event in await events_of(catalogue, movie.id)] == [3, 2, 1]


async def test_reverts_at_once_that_are_for_any_version_all_succeed(house: House) -> None:
    catalogue = house.catalogue()
    movie = await catalogue.add({"title": "Heat"})
    for removal in (2, 4, 6):
        await catalogue.remove(movie.id)
        done = await asyncio.gather(*(catalogue.revert(movie.id, 1) for _ in range(8)))
        assert {each.movie.version for each in done} == {removal + 1}


async def test_a_revert_of_a_row_that_is_behind_its_log_is_refused(house: House) -> None:
    """As after a restore of the table alone, from a copy that is older than the log."""
    catalogue = house.catalogue()
    first = await catalogue.add({"title": "Heat"})
    for genre in ("Crime", "Drama"):
        await catalogue.revise(first.id, {"genre": genre})
    async with house.store.transactions() as tx:
        await tx.movies.remove(first.id)
        await tx.movies.restore(msgspec.structs.replace(first, title="Cold"))
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(VersionConflict):
            await catalogue.revert(first.id, 1)
