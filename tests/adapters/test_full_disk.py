"""A disk that is full when the embedded database starts: said in one line, and nothing is left half done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.adapters.test_embedded import ask, processes
from tests.disks import fill, mount, small_disk

from watchly_adapters.embedded import EmbeddedPostgres
from watchly_core.errors import Unavailable

FULL = r"No space left on device[^\n]*$"


@pytest.fixture
def disk(reachable_directory: Path) -> Iterator[Path]:
    """A small disk of its own: 20 MB, where a cluster takes some 40."""
    with small_disk(reachable_directory / "disk", "20m") as folder:
        yield folder


def test_a_full_disk_is_named_and_nothing_is_left_half_done(disk: Path) -> None:
    home = disk / "home"
    for _ in range(2):
        with pytest.raises(Unavailable, match=FULL):
            EmbeddedPostgres(home).start()
        assert not list((home / "postgres").glob("data*"))
        assert processes(home) == []

    assert mount(disk, "remount,size=100m")
    with EmbeddedPostgres(home) as url:
        assert ask(url, "SELECT 1") == 1

    filling = disk / "fill"
    fill(filling)
    with pytest.raises(Unavailable, match=FULL):
        EmbeddedPostgres(home).start()
    assert processes(home) == []

    filling.unlink()
    with EmbeddedPostgres(home) as url:
        assert ask(url, "SELECT 1") == 1
