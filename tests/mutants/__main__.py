"""Has every fault tried; see the package.

python -m tests.mutants --only postgres/movies memory/users/09 --sample 20 --seed 7
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, NamedTuple

from tests.faults.runs import Outcome, options, perform
from tests.mutants.attempts import Attempt, Copy, preload
from tests.mutants.suites import HERE, SUITES, patches

_FORK = get_context("fork")
#: The folders whose suites need a PostgreSQL, but for those that start one of their own, begin so.
_WITH_POSTGRES = ("postgres/", "cached/")
#: Seconds between two looks at what runs.
_LOOK = 0.01

_PROMISE: Final = "the shipped contract suites catch faults of the adapters"


class Plan(NamedTuple):
    """A run: what the names of faults begin with, how many of them, how many at a time, and the seed."""

    only: Sequence[str]
    sample: int | None
    at_once: int
    seed: int


class Job(NamedTuple):
    """A folder, and the fault that is tried; None for the sources as they are."""

    folder: str
    patch: Path | None

    def __str__(self) -> str:
        return self.folder if self.patch is None else str(self.patch.relative_to(HERE).with_suffix(""))


class Run:
    """Does jobs, some at a time, each in a copy of the sources."""

    def __init__(self, copies: Sequence[Copy], url: str | None) -> None:
        self._free, self._url = list(copies), url
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        #: The folders whose tests pass as they are: those of others would fail for anything.
        self.sound: set[str] = set()

    def do(self, jobs: Sequence[Job]) -> None:
        """Do all of them."""
        left, running = list(jobs), list[tuple[Job, Copy, Attempt]]()
        try:
            while left or running:
                while left and self._free:
                    self._begin(left.pop(0), self._free.pop(), running)
                for one in [one for one in running if one[2].ended]:
                    running.remove(one)
                    self._end(*one)
                time.sleep(_LOOK)  # between looks, not in place of one
        finally:
            for _, _, attempt in running:
                attempt.close()

    def _begin(self, job: Job, copy: Copy, running: list[tuple[Job, Copy, Attempt]]) -> None:
        if job.patch is not None and not copy.break_by(job.patch):
            self._say(job, 0, "does not fit any more", wrong=True)
            self._free.append(copy)
            return
        running.append((job, copy, Attempt(str(job), copy.place, SUITES[job.folder], self._url)))

    def _end(self, job: Job, copy: Copy, attempt: Attempt) -> None:
        seconds, verdict = attempt.seconds, attempt.verdict()
        copy.mend()
        self._free.append(copy)
        words = "\n".join(attempt.log.read_text(errors="replace").splitlines()[-8:])
        if job.patch is None:
            if verdict is None or not verdict.good:
                self._say(job, seconds, f"does not pass as it is:\n{words}", wrong=True)
            else:
                self.sound.add(job.folder)
                self._say(job, seconds, f"passes as it is, {verdict.passed} tests")
            return
        self.counts["tried"] += 1
        if verdict is not None and verdict.caught:
            self.counts["caught"] += 1
            self.counts["late"] += verdict.late
            by = verdict.failed.rpartition("::")[2]
            self._say(job, seconds, f"{'caught late' if verdict.late else 'caught'} by {by}")
        elif verdict is not None and verdict.good:
            self.counts["survived"] += 1
            self._say(job, seconds, f"SURVIVED {verdict.passed} tests", wrong=True)
        else:
            self.counts["broken"] += 1
            self._say(job, seconds, f"BROKEN, for no test has failed:\n{words}", wrong=True)

    def _say(self, job: Job, seconds: float, words: str, *, wrong: bool = False) -> None:
        print(f"{seconds:6.1f} s  {job}: {words}", flush=True)  # noqa: T201 - what it is for
        if wrong:
            self.wrong.append(f"{job}: {words.splitlines()[0]}")


def run(plan: Plan, folder: Path) -> Outcome:
    """Try a plan.

    Args:
        plan: what to do.
        folder: an empty one that the database's user can reach.
    """
    chance = random.Random(plan.seed)  # noqa: S311 - which ones are tried first is no secret
    faults = [Job(name, patch) for name in SUITES for patch in patches(name)]
    faults = [job for job in faults if str(job).startswith(tuple(plan.only))]
    if plan.sample is not None:
        faults = chance.sample(faults, plan.sample)
    whole = [Job(name, None) for name in SUITES if any(job.folder == name for job in faults)]
    preload()
    needed = any(job.folder.startswith(_WITH_POSTGRES) for job in whole)
    with _server(folder / "home", needed=needed) as url:
        places = [folder / str(number) for number in range(plan.at_once)]
        for place in places:
            place.mkdir()
        attempts = Run([Copy(place) for place in places], url)
        attempts.do(whole)
        attempts.do([job for job in faults if job.folder in attempts.sound])
    counts, wrong = attempts.counts, attempts.wrong
    counts["pairs"] = len(whole)
    wrong += [] if faults else ["there is no such fault"]
    late = f", {counts['late']} of them by a test's time limit" if counts["late"] else ""
    caught = f"{counts['caught']:,} of {counts['tried']:,} caught"
    held = f"{caught}, of {len(whole)} pairs of adapter and port{late}"
    return Outcome(plan, counts, wrong, _PROMISE, held)


@contextmanager
def _server(home: Path, *, needed: bool) -> Iterator[str | None]:
    """The URL of a PostgreSQL for all attempts: that of TEST_DATABASE_URL, else one that runs meanwhile."""
    url = os.environ.get("TEST_DATABASE_URL")
    if url or not needed:
        yield url
        return
    # In a process of its own, for this one must not load Watchly.
    ours, theirs = _FORK.Pipe()
    process = _FORK.Process(target=_serve, args=(home, ours, theirs))
    process.start()
    theirs.close()
    try:
        yield str(ours.recv())
    finally:
        ours.close()
        process.join()


def _serve(home: Path, others: Connection, link: Connection) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    others.close()  # or it would never see its end
    from watchly_adapters.embedded import EmbeddedPostgres  # noqa: PLC0415 - only here, see above

    with EmbeddedPostgres(home) as url:
        link.send(url)
        link.poll(None)


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--only", nargs="+", default=[""], metavar="FAULT", help="those that begin so")
    parser.add_argument("--sample", type=int, help="so many faults, by chance")
    parser.add_argument("--at-once", type=int, default=2)
    given = parser.parse_args()
    plan = Plan(given.only, given.sample, given.at_once, given.seed)
    return perform("mutants", _PROMISE, given, lambda folder: run(plan, folder))


if __name__ == "__main__":
    sys.exit(main())
