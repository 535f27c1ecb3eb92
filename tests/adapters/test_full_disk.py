"""A disk that is full when the embedded database starts: said in one line, and nothing is left half done."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.adapters.test_embedded import ask, processes

from watchly_adapters.embedded import EmbeddedPostgres
from watchly_core.errors import Unavailable

FULL = r"No space left on device[^\n]*$"


def _mount(folder: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "watchly-test", str(folder)]
    return subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 0


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1_000))


@pytest.fixture
def disk(reachable_directory: Path) -> Iterator[Path]:
    """A small disk of its own: 20 MB, where a cluster takes some 40."""
    folder = reachable_directory / "disk"
    folder.mkdir(mode=0o711)
    if not _mount(folder, "size=20m,mode=0711"):
        pytest.skip("whoever runs this may mount nothing")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_named_and_nothing_is_left_half_done(disk: Path) -> None:
    home = disk / "home"
    for _ in range(2):
        with pytest.raises(Unavailable, match=FULL):
            EmbeddedPostgres(home).start()
        assert not list((home / "postgres").glob("data*"))
        assert processes(home) == []

    assert _mount(disk, "remount,size=100m")
    with EmbeddedPostgres(home) as url:
        assert ask(url, "SELECT 1") == 1

    fill = disk / "fill"
    _fill(fill)
    with pytest.raises(Unavailable, match=FULL):
        EmbeddedPostgres(home).start()
    assert processes(home) == []

    fill.unlink()
    with EmbeddedPostgres(home) as url:
        assert ask(url, "SELECT 1") == 1
