"""The blocking use cases over PostgreSQL: what they do to its connections."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from watchly_adapters.postgres import PostgresDatabase
from watchly_core import Catalogue, MovieQuery, blocking
from watchly_core.blocking import Loop
from watchly_core.errors import Unavailable
from watchly_core.imports import Row


@pytest.fixture
def loop() -> Iterator[Loop]:
    with Loop() as loop:
        yield loop


@pytest.fixture
def catalogue(loop: Loop, database_url: str) -> blocking.Catalogue:
    database = loop.enter(PostgresDatabase(database_url, max_size=2))
    return blocking.Catalogue(loop, Catalogue(database.queries, database.transactions))


def test_threads_share_few_connections(catalogue: blocking.Catalogue) -> None:
    def write(number: int) -> int:
        movie = catalogue.add({"title": f"Film {number}"})
        return catalogue.revise(movie.id, {"genre": "Drama"}, version=1).version

    with ThreadPoolExecutor(16) as threads:
        assert set(threads.map(write, range(64))) == {2}
    assert catalogue.count(MovieQuery(genre="Drama")) == 64


def test_exports_that_end_early_give_their_connections_back(catalogue: blocking.Catalogue) -> None:
    report = catalogue.add_many(Row(line, {"title": f"Film {line}"}) for line in range(3_000))
    assert report.added == 3_000
    for _ in range(5):
        for batch in catalogue.export():
            assert batch
            break
    assert sum(len(batch) for batch in catalogue.export()) == 3_000


def test_a_write_that_takes_too_long_is_undone(
    loop: Loop, catalogue: blocking.Catalogue, database_url: str
) -> None:
    heat = catalogue.add({"title": "Heat"})
    with psycopg.connect(database_url) as other:
        other.execute("SELECT FROM movies FOR UPDATE")
        with loop.within(0.3), pytest.raises(Unavailable, match="longer than"):
            catalogue.revise(heat.id, {"genre": "Crime"})
    assert catalogue.get(heat.id) == heat
    assert catalogue.revise(heat.id, {"genre": "Drama"}, version=1).version == 2
