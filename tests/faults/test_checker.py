"""The checker tells of everything that must not be: each of its promises, broken on its own."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import pytest
from tests.faults.checker import Event, Receipt, Row, Tables, violations
from tests.faults.told import Heard, Shown, Told

NOON: Final = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
ADDED: Final = Event("movie_added", 1, 1, "Heat", None, 1, NOON)
ATTACHED: Final = Event("image_attached", 1, 2, "Heat", "k", 2, NOON)
REMOVED: Final = Event("movie_removed", 2, 2, "Ran", None, 4, NOON)


class Scene(NamedTuple):
    """What the checker is given."""

    tables: Tables
    told: Told
    assets: Sequence[str]
    uploads: Sequence[str]
    consumed: Sequence[Heard]


def scene() -> Scene:
    """One in which nothing is wrong."""
    tables = Tables(
        images={"k": Row("k", "attached", 1)},
        movies={1: Shown(1, 2, "k")},
        unlike=[],
        events=[ADDED, ATTACHED, Event("movie_added", 2, 1, "Ran", None, 3, NOON), REMOVED],
        receipts=[Receipt("a", 201, 1, 1), Receipt("import", 200, None, None)],
        horizon=0,
        last_seq=4,
        stuck=[],
    )
    told = Told()
    told.shown |= {Shown(1, 1, None), Shown(1, 2, "k")}
    told.attached["k"] = 1
    told.keep("a", Shown(1, 1, None))
    for deed, whose in (("add", "Heat"), ("attach", 1), ("add", "Ran"), ("remove", 2)):
        told.done(deed, whose, surely=True)
    consumed = [Heard(event.seq or 0, *event[:3]) for event in tables.events]
    return Scene(tables, told, ["k"], [], consumed)


def found(scene: Scene) -> list[str]:
    """The violations of a scene."""
    tables, told, assets, uploads, consumed = scene
    return list(violations(tables, told=told, assets=assets, uploads=uploads, consumed=consumed))


def test_nothing_is_wrong_where_nothing_is() -> None:
    assert found(scene()) == []
    assert list(violations(scene().tables)) == []


BREAKS: Final[dict[str, Callable[[Scene], Scene]]] = {
    "asset k2 has no row": lambda it: it._replace(assets=["k", "k2"]),
    "has no asset": lambda it: it._replace(assets=[]),
    "what was uploaded for k2": lambda it: it._replace(uploads=["k2"]),
    "is not what its log says": lambda it: _tables(it, movies={1: Shown(1, 1, "k")}),
    "the words of movie 1": lambda it: _tables(it, unlike=[1]),
    "in the table, or not": lambda it: _tables(it, movies={}),
    "is kept": lambda it: _tables(it, receipts=[*it.tables.receipts, Receipt("b", 422, None, None)]),
    "the log does not have": lambda it: _tables(it, receipts=[*it.tables.receipts, Receipt("b", 201, 7, 1)]),
    "its receipt is None": lambda it: _tables(it, receipts=[]),
    "the numbers above 0 up to 5": lambda it: _tables(it, last_seq=5),
    "is numbered before": lambda it: _events(it, ADDED._replace(seq=2), ATTACHED._replace(seq=1)),
    "was before": lambda it: _events(it, ADDED, ATTACHED._replace(at=NOON - dt.timedelta(seconds=1))),
    "stays in its transaction": lambda it: _tables(it, stuck=["7: SELECT 1"]),
    "was never heard of": lambda it: it._replace(consumed=it.consumed[:-1]),
    "was made up": lambda it: it._replace(consumed=[*it.consumed, Heard(5, "movie_added", 3, 1)]),
    "came after": lambda it: it._replace(consumed=[*it.consumed, it.consumed[-1]]),
    "has no number": lambda it: _tables(
        it, events=[*list(it.tables.events)[:3], REMOVED._replace(seq=None)], last_seq=3
    ),
}


def _tables(it: Scene, **parts: object) -> Scene:
    return it._replace(tables=Tables(**{**it.tables._asdict(), **parts}))


def _events(it: Scene, *first: Event) -> Scene:
    return _tables(it, events=[*first, *list(it.tables.events)[len(first) :]])


@pytest.mark.parametrize("words", BREAKS)
def test_what_must_not_be_is_told(words: str) -> None:
    assert any(words in line for line in found(BREAKS[words](scene())))


def _lost(told: Told) -> None:
    told.shown.add(Shown(3, 1, None))


def _twice(told: Told) -> None:
    told.done("add", "Heat", surely=True)


def _two_ways(told: Told) -> None:
    told.keep("a", Shown(2, 1, None))


@pytest.mark.parametrize(
    ("say", "words"),
    [
        (_lost, "movie 3 was told to be at version 1"),
        (_twice, "('add', 'Heat'): 1 times, and 2 to 2 were told"),
        (_two_ways, "the key a was answered with"),
    ],
)
def test_what_clients_were_told_is_held_against_it(say: Callable[[Told], None], words: str) -> None:
    it = scene()
    say(it.told)
    assert any(words in line for line in found(it))
