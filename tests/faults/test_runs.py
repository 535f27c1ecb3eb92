"""The long runs in short: `nox -s soak` is the long form, and writes their figures down."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from tests.faults import kills, outages, receipts, revisions
from tests.services import as_url

from watchly_adapters.embedded import EmbeddedPostgres

SEED: Final = int(os.environ.get("FAULTS_SEED", "5"))


@pytest.fixture
def folder(reachable_directory: Path) -> Iterator[Path]:
    """A folder for a database of its own, which is killed."""
    folder = reachable_directory / f"run-{uuid.uuid4().hex[:8]}"
    folder.mkdir(mode=0o711)
    yield folder
    with EmbeddedPostgres(folder / "home"):
        pass  # the last one to leave stops the server that a failed test left


def test_what_was_answered_is_there_whole_whatever_is_killed(folder: Path) -> None:
    outcome = kills.run(kills.Plan(cycles=5, seed=SEED), folder)
    print(outcome)  # noqa: T201 - the counts, if it fails
    assert not outcome.wrong
    assert sum(times for what, times in outcome.counts.items() if what.startswith("kills: ")) == 5
    assert outcome.counts["acknowledged"] > 100
    assert sum(times for what, times in outcome.counts.items() if what.endswith("no reply")) > 0


def test_a_key_is_done_once_whoever_dies(own_database: str, tmp_path: Path) -> None:
    plan = receipts.Plan(keys=40, sends=20, seed=SEED)
    outcome = receipts.run(plan, tmp_path, own_database)
    print(outcome)  # noqa: T201 - the counts, if it fails
    assert not outcome.wrong
    assert outcome.counts["movies"] == outcome.counts["events"] == plan.keys
    assert outcome.counts["workers killed"] == 4
    assert outcome.counts["sends: 201"] == plan.keys * plan.sends
    assert outcome.counts["sends: no reply"] > 0


def test_no_update_is_lost_among_writers_of_the_same_movie(empty_database: str, tmp_path: Path) -> None:
    plan = revisions.Plan(rows=3, writers=20, seed=SEED)
    outcome = revisions.run(plan, tmp_path, as_url(empty_database))
    print(outcome)  # noqa: T201 - the counts, if it fails
    assert not outcome.wrong
    assert outcome.counts["PUT: 412"] + outcome.counts["PATCH: 412"] > plan.writers


def test_an_outage_of_the_database_is_told_and_leaves_nothing(folder: Path) -> None:
    outcome = outages.run(outages.Plan(outages=4, seed=SEED, long=False), folder)
    print(outcome)  # noqa: T201 - the counts, if it fails
    # How soon it is well is for a machine that does nothing else.
    assert [words for words in outcome.wrong if not words.startswith("all was well")] == []
    assert outcome.counts["outages: stop"] == 2
