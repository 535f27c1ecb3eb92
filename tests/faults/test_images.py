"""Images through all kinds of trouble, in short: `nox -s soak` is the long form."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import httpx
import psycopg
import pytest
from tests.faults.images import Plan, run
from tests.services import Service, wait_until

from watchly_adapters.testing import samples
from watchly_adapters.testing.cloudinary import CloudinaryEmulator

OPERATIONS: Final = 80
#: Another one can be tried: what it finds is found again with it, most often.
SEED: Final = int(os.environ.get("FAULTS_SEED", "5"))

SOON: Final = "UPDATE images SET due_at = now() WHERE due_at < now() + interval '2 minutes'"


@pytest.mark.parametrize("store", ["cloudinary", "files"])
def test_no_trouble_parts_store_table_and_movies(own_database: str, tmp_path: Path, store: str) -> None:
    outcome = run(Plan(SEED, OPERATIONS, store), tmp_path, own_database)
    print(outcome)  # noqa: T201 - the counts, if it fails
    assert not outcome.wrong
    assert (
        sum(number for what, number in outcome.counts.items() if what.startswith("fault: ")) > OPERATIONS / 3
    )
    assert outcome.counts["acknowledged images"] > OPERATIONS / 14


def test_a_movie_is_purged_while_its_store_is_down_and_the_image_goes_later(
    own_database: str, tmp_path: Path
) -> None:
    with (
        CloudinaryEmulator() as cloudinary,
        Service(
            tmp_path / "log",
            DATABASE_URL=own_database,
            SECRET_KEY="0123456789abcdef" * 4,
            CLOUDINARY_URL=cloudinary.url,
            SWEEP_INTERVAL="1 s",
            LOG_LEVEL="error",
        ) as service,
        httpx.Client(base_url=service.url, timeout=30) as client,
        psycopg.connect(own_database, autocommit=True) as database,
    ):
        movie = client.post("/api/movies", json={"title": "Heat"}).headers["location"]
        content, headers = samples.UPRIGHT["png"], {"Content-Type": "image/png"}
        assert client.put(f"{movie}/image", content=content, headers=headers).status_code == 200
        assert len(cloudinary.assets) == 1

        cloudinary.faults.down()
        deletion = client.delete(movie, params={"purge": "true"})
        assert deletion.status_code == 204
        assert deletion.elapsed.total_seconds() < 2
        wait_until(lambda: _attempts(database) == 1, "the store was asked in vain")
        assert len(cloudinary.assets) == 1

        cloudinary.faults.up()
        assert database.execute(SOON).rowcount == 1  # within the time until the next attempt
        wait_until(lambda: not cloudinary.assets, "the image is gone")
        wait_until(lambda: _attempts(database) is None, "nothing is left of it")


def _attempts(database: psycopg.Connection[tuple[object, ...]]) -> object:
    """How often the store was asked to drop the only image; None if there is none."""
    found = database.execute("SELECT attempts FROM images").fetchone()
    return found and found[0]
