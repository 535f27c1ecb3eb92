"""Keys sent many times at once to workers that are killed, in short: `nox -s soak` is the long form."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from tests.conftest import new_database
from tests.faults.receipts import Plan, run
from tests.faults.test_images import as_url

from watchly_adapters.postgres import migrate

PLAN: Final = Plan(keys=40, sends=20, seed=int(os.environ.get("FAULTS_SEED", "5")))


@pytest.fixture
def database_url(server_url: str) -> Iterator[str]:
    """A database of its own: all that is in it is counted."""
    with new_database(server_url) as url:
        asyncio.run(migrate(url))
        yield as_url(url)


def test_a_key_is_done_once_whoever_dies(database_url: str, tmp_path: Path) -> None:
    outcome = run(PLAN, tmp_path, database_url)
    print(outcome)  # noqa: T201 - the counts, if it fails
    assert not outcome.wrong
    assert outcome.counts["movies"] == outcome.counts["events"] == PLAN.keys
    assert outcome.counts["workers killed"] == 4
    assert outcome.counts["sends: 201"] == PLAN.keys * PLAN.sends
    assert outcome.counts["sends: no reply"] > 0
