"""The folder of what workers count: where it is, and that none is left for good."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import pytest

from watchly_adapters.tallies import VARIABLE, Tallies
from watchly_core.errors import Misconfigured

#: Makes a folder, and dies with it.
_KILLED: Final = """
import os, signal
from watchly_adapters.tallies import Tallies
with Tallies() as tallies:
    print(tallies.path, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""

#: Would count where there is no room.
_CROWDED: Final = """
import resource
from watchly_adapters.tallies import Tallies
from watchly_core.errors import Misconfigured
with Tallies() as tallies:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        tallies.join(0)
    except Misconfigured as error:
        print(error)
"""

#: Counts as a process does that is no worker.
_BY_ITSELF: Final = """
import asyncio
from watchly_adapters.metrics import Metrics
metrics = Metrics()
metrics.cache.miss()
print(asyncio.run(metrics.page()).decode())
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    return tmp_path


def test_each_service_has_a_folder_of_its_own_while_it_runs(place: Path) -> None:
    with Tallies() as one, Tallies() as other:
        assert {one.path, other.path} == set(place.iterdir())
        assert one.path != other.path
        assert one.path.stat().st_mode & 0o077 == 0

    assert list(place.iterdir()) == []


def test_without_the_variable_it_is_where_temporary_files_are(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(tempfile, "tempdir", str(place))

    with Tallies() as tallies:
        assert tallies.path.parent == place


def test_what_a_killed_service_left_is_removed_by_the_next(place: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", _KILLED], stdout=subprocess.PIPE, text=True, check=False)
    left = Path(killed.stdout.strip())
    assert left.is_dir()
    other = place / "watchly-metrics"
    other.mkdir()

    with Tallies() as tallies:
        assert set(place.iterdir()) == {tallies.path, other}


def test_a_folder_that_cannot_be_is_told_in_one_line(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(place / "nowhere"))

    with pytest.raises(
        Misconfigured, match=rf"^{VARIABLE}, TMPDIR: .*nowhere: No such file.*an example: .*$"
    ):
        Tallies()


def test_that_there_is_nowhere_for_a_folder_is_told_in_one_line(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(place / "nowhere")])

    with pytest.raises(Misconfigured, match=rf"^{VARIABLE}, TMPDIR: .*anywhere: No usable .*an example: .*$"):
        Tallies()


def test_a_worker_that_has_no_room_is_told_in_one_line() -> None:
    done = subprocess.run([sys.executable, "-c", _CROWDED], stdout=subprocess.PIPE, text=True, check=True)

    assert re.fullmatch(rf"{VARIABLE}, TMPDIR: .*: File too large; an example: .*\n", done.stdout)


def test_who_is_no_worker_counts_by_itself_and_leaves_nothing(place: Path) -> None:
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", _BY_ITSELF], stdout=subprocess.PIPE, text=True, check=True
        )
        assert re.search(r'^watchly_cache_reads_total{.*"miss".*} 1.0$', done.stdout, re.MULTILINE)

    assert list(place.iterdir()) == []
