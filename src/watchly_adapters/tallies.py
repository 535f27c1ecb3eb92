"""Where the workers of a service lay what they count together, so that each of them can show the sums."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from prometheus_client import values

from watchly_core.errors import Misconfigured

#: How the library is told of such a folder. Each service makes one in there, or where temporary files are.
VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
_PREFIX: Final = "watchly-metrics-"

#: The files of a worker, as the library names them, and bytes in each: more than it holds once every address
#: and every statement was asked for, and has failed. One that had to grow would kill where the disk is full.
_ROOM: Final = {"counter": 262_144, "histogram": 2_097_152, "gauge_livesum": 16_384}
#: How the library begins a file that holds nothing.
_EMPTY: Final = bytes(4)

# The library would have each process of whatever kind lay its counts there, and leave them.
values.ValueClass = values.MutexValue


def is_alone() -> bool:
    """Whether this process counts by itself, and not in the folder of a service."""
    return values.ValueClass is values.MutexValue


class Tallies:
    """A folder that is there while the block runs, with a file for each kind of metric and each worker.

    Workers have numbers, and one that replaces another goes on with its files: counts stay when a worker
    dies, and there are never more files than for all workers at once. Folders of services that were killed
    are removed by the next one.

    Attributes:
        path: the folder.

    Raises:
        Misconfigured: it cannot be made.
    """

    path: Path

    def __init__(self) -> None:
        given = os.environ.get(VARIABLE)
        try:
            place = Path(given or tempfile.gettempdir())
            _remove_left(place)
            self.path, self._lock = _made(place)
        except OSError as error:
            raise _misconfigured(given or tempfile.tempdir or "", error) from error

    def join(self, number: int) -> None:
        """Count in this folder from now on, as the worker `number`; metrics from before are not in it.

        Raises:
            Misconfigured: there is no room for that.
        """
        try:
            self.path.mkdir(mode=0o700, exist_ok=True)  # somebody may have tidied it away
            for kind, room in _ROOM.items():
                _reserve(self.path / f"{kind}_{number}.db", room)
        except OSError as error:
            raise _misconfigured(self.path, error) from error
        os.environ[VARIABLE] = str(self.path)
        values.ValueClass = values.MultiProcessValue(lambda: number)  # type: ignore[no-untyped-call]  # as it is

    def forget(self, number: int) -> None:
        """Drop what was true of the worker `number` only while it lived."""
        for file in self.path.glob(f"gauge_live*_{number}.db"):
            # Emptied and not removed, so that its successor needs no room.
            with suppress(FileNotFoundError), file.open("r+b") as gauges:
                gauges.write(_EMPTY)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _misconfigured(place: Path | str, error: OSError) -> Misconfigured:
    return Misconfigured(
        f"{VARIABLE}, TMPDIR: there can be no folder {f'in {place}' if place else 'anywhere'}:"
        f" {error.strerror}; an example: {VARIABLE}=/tmp"
    )


def _reserve(file: Path, room: int) -> None:
    """Have room for a file on the disk: what is written to one through memory, where none is left, kills."""
    with file.open("ab") as new:
        new.write(bytes(max(0, room - new.tell())))


def _made(place: Path) -> tuple[Path, int]:
    """A new folder, and the lock on it, which forked processes hold as well.

    The lock also keeps those away that clean up temporary files.
    """
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        with suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():  # nobody took it, before the lock, for one that was left
                return folder, lock
            os.close(lock)


def _remove_left(place: Path) -> None:
    """Remove the folders that nobody holds any more."""
    for folder in place.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # it is held, or somebody else's, or gone
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)
