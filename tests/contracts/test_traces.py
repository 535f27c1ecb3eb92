"""Traces: every event has that of whoever made it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.contracts.test_uploads import issued, send
from tests.houses import PNG, House, chunks

from watchly_adapters.testing.stores import events_of
from watchly_core.imports import Row
from watchly_core.receipts import Receipt
from watchly_core.traces import traced_by

pytestmark = pytest.mark.anyio


def trace(number: int) -> str:
    return f"00-{number:032x}-{1:016x}-01"


async def test_every_use_case_that_writes_leaves_its_trace(house: House) -> None:
    catalogue, gallery = house.catalogue(), house.gallery()
    with traced_by(trace(1)):
        movie = await catalogue.add({"title": "Heat"})
    with traced_by(trace(2)):
        await catalogue.replace(movie.id, {"title": "Cold"})
    with traced_by(trace(3)):
        await catalogue.revise(movie.id, {"genre": "Crime"})
    with traced_by(trace(4)):
        await gallery.attach(movie.id, chunks(PNG), "image/png")
    with traced_by(trace(5)):
        await gallery.detach(movie.id)
    with traced_by(trace(6)):
        await catalogue.revert(movie.id, 1)
    with traced_by(trace(7)):
        await catalogue.remove(movie.id)
    with traced_by(trace(8)):
        await catalogue.revert(movie.id, 3)
    await catalogue.revise(movie.id, {"genre": None})
    assert [event.trace for event in await events_of(catalogue, movie.id)] == [
        None,
        *(trace(number) for number in range(8, 0, -1)),
    ]


async def test_so_do_those_that_add_a_movie_otherwise(house: House) -> None:
    with traced_by(trace(1)):
        once = await house.catalogue().add({"title": "Heat"}, receipt=Receipt())
    with traced_by(trace(2)):
        shown = await house.gallery().add({"title": "Heat"}, chunks(PNG), "image/png")
    assert [event.trace for event in await events_of(house.catalogue(), once.id)] == [trace(1)]
    assert [event.trace for event in await events_of(house.catalogue(), shown.id)] == [trace(2)] * 2


async def test_an_upload_is_traced_by_its_completion(house: House) -> None:
    with traced_by(trace(1)):
        movie, uploads, ticket = await issued(house)
    with traced_by(trace(2)):
        await send(uploads, ticket)
    with traced_by(trace(3)):
        await uploads.complete(movie.id, ticket.key)
    assert [event.trace for event in await events_of(house.catalogue(), movie.id)] == [trace(3), trace(1)]


async def test_all_movies_of_an_import_have_its_trace(house: House) -> None:
    async def rows() -> AsyncIterator[Row]:
        for number in range(1_200):
            yield Row(number, {"title": f"Film {number}"})

    with traced_by(trace(1)):
        await house.catalogue().add_many(rows())
    found = [
        event for movie in await house.movies() for event in await events_of(house.catalogue(), movie.id)
    ]
    assert [event.trace for event in found] == [trace(1)] * 1_200
