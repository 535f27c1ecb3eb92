"""The core itself refuses who may not read or write, before it looks at anything."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing

import pytest
from tests.houses import ADA, PNG, House, chunks, discarded

from watchly_adapters.memory import MemoryMovieQueries
from watchly_core.catalogue import Catalogue
from watchly_core.errors import ImageNotFound, NotAllowed, NotSignedIn, WatchlyError
from watchly_core.images import new_key
from watchly_core.imports import Row
from watchly_core.people import Actor, Permission, Role, stranger
from watchly_core.queries import MovieQuery

pytestmark = pytest.mark.anyio

VIEWER = Actor("user:3", Role.VIEWER, 3)
READER = stranger(frozenset({Permission.READ}))
NOBODY = 999


async def _rows() -> AsyncIterator[Row]:
    yield Row(1, {"title": ""})


WRITES: dict[str, Callable[[House, Actor], Awaitable[object]]] = {
    "add": lambda house, actor: house.catalogue().add({}, actor=actor),
    "replace": lambda house, actor: house.catalogue().replace(NOBODY, {}, actor=actor),
    "revise": lambda house, actor: house.catalogue().revise(NOBODY, {"title": 7}, actor=actor),
    "remove": lambda house, actor: house.catalogue().remove(NOBODY, actor=actor),
    "revert": lambda house, actor: house.catalogue().revert(NOBODY, 1, actor=actor),
    "import": lambda house, actor: house.catalogue().add_many(_rows(), actor=actor),
    "attach": lambda house, actor: house.gallery().attach(NOBODY, chunks(PNG), "image/tiff", actor=actor),
    "add with image": lambda house, actor: house.gallery().add({}, chunks(PNG), "image/tiff", actor=actor),
    "detach": lambda house, actor: house.gallery().detach(NOBODY, actor=actor),
    "ticket": lambda house, actor: house.gallery().uploads.issue(NOBODY, "image/tiff", 5, actor=actor),
    "complete": lambda house, actor: house.gallery().uploads.complete(NOBODY, "k" * 22, actor=actor),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
@pytest.mark.parametrize(
    ("actor", "refusal"), [(stranger(), NotSignedIn), (READER, NotSignedIn), (VIEWER, NotAllowed)]
)
async def test_who_may_not_write_learns_nothing_else(
    house: House,
    write: Callable[[House, Actor], Awaitable[object]],
    actor: Actor,
    refusal: type[WatchlyError],
) -> None:
    with pytest.raises(refusal):
        await write(house, actor)
    # For who may, there is something wrong with each of them.
    with pytest.raises(WatchlyError) as wrong:
        await write(house, ADA)
    assert not isinstance(wrong.value, NotSignedIn | NotAllowed)


SWEEPS: dict[str, Callable[[House, Actor], Awaitable[object]]] = {
    "sweep": lambda house, actor: house.gallery().sweep(actor=actor),
    "revive": lambda house, actor: house.gallery().revive(actor=actor),
    "prune": lambda house, actor: house.catalogue().prune(dt.timedelta(), actor=actor),
}


@pytest.mark.parametrize("sweep", SWEEPS.values(), ids=SWEEPS.keys())
async def test_what_is_due_goes_for_administrators_only(
    house: House, sweep: Callable[[House, Actor], Awaitable[object]]
) -> None:
    await discarded(house, 1)
    for actor, refusal in ((READER, NotSignedIn), (VIEWER, NotAllowed), (ADA, NotAllowed)):
        with pytest.raises(refusal):
            await sweep(house, actor)
    assert len(await house.states()) == 1
    await sweep(house, Actor("user:9", Role.ADMIN, 9))


async def _exported(catalogue: Catalogue, actor: Actor) -> list[object]:
    async with aclosing(catalogue.export(actor=actor)) as batches:
        return [batch async for batch in batches]


READS: dict[str, Callable[[Catalogue, Actor], Awaitable[object]]] = {
    "get": lambda catalogue, actor: catalogue.get(NOBODY, actor=actor),
    "find": lambda catalogue, actor: catalogue.find(MovieQuery(), actor=actor),
    "count": lambda catalogue, actor: catalogue.count(MovieQuery(), actor=actor),
    "genres": lambda catalogue, actor: catalogue.genres(actor=actor),
    "export": _exported,
    "history": lambda catalogue, actor: catalogue.history(NOBODY, actor=actor),
    "changes": lambda catalogue, actor: catalogue.changes(actor=actor),
    "last change": lambda catalogue, actor: catalogue.last_change(actor=actor),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
async def test_who_may_not_read_is_refused_before_anything_is_looked_at(
    house: House, read: Callable[[Catalogue, Actor], Awaitable[object]]
) -> None:
    # A read side that was never made: whoever looks at anything finds out.
    nothing = MemoryMovieQueries.__new__(MemoryMovieQueries)
    catalogue = house.catalogue().over(nothing)
    with pytest.raises(NotSignedIn):
        await read(catalogue, stranger())
    for actor in (READER, VIEWER, ADA):
        with pytest.raises(AttributeError, match="_tables"):
            await read(catalogue, actor)


async def test_who_may_not_read_gets_no_image_nor_learns_whether_it_is_there(house: House) -> None:
    await house.with_image()
    (key,) = house.keys
    for each in (key, new_key()):
        with pytest.raises(NotSignedIn):
            async with house.gallery().load(each, actor=stranger()):
                pytest.fail("an image was given to a stranger")
        with pytest.raises(NotSignedIn):
            await house.gallery().content(each, at_most=10_000, actor=stranger())
    for actor in (READER, VIEWER):
        async with house.gallery().load(key, actor=actor) as file:
            assert b"".join([chunk async for chunk in file.chunks()])
        with pytest.raises(ImageNotFound):
            async with house.gallery().load(new_key(), actor=actor):
                pytest.fail("there is no such image")
        assert await house.gallery().content(key, at_most=10_000, actor=actor)
        with pytest.raises(ImageNotFound):
            await house.gallery().content(new_key(), at_most=10_000, actor=actor)
