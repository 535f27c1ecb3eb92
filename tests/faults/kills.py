"""Service and database killed again and again under writes: nothing that was answered is lost or half there.

    python -m tests.faults.kills --cycles 500 --seed 7

Each cycle ends one of these at a random moment: a worker, the whole service, the database server (by SIGKILL,
or by SIGQUIT, which is its immediate stop), or service and database server at once. Then it waits until all
writers get on. Each writer has movies of its own, and so knows what every one of them must be.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, NamedTuple

from tests.faults.checker import read_tables, violations
from tests.faults.havoc import Victims, postmaster
from tests.faults.owners import Owner, lost_or_made_up
from tests.faults.runs import SECRET, Outcome, end, options, perform
from tests.faults.wire import Line, send
from tests.gateways import free_port
from tests.services import Service
from tests.services import run as run_command

from watchly_adapters.embedded import EmbeddedPostgres

PROMISE: Final = "a write that was answered is there whole, and one that was not is there whole or not at all"

_WRITERS: Final = 16
_WORKERS: Final = 2
#: The longest time in seconds until a kill, once everybody gets on: it falls anywhere.
_MOMENT: Final = 0.25
#: Seconds in which everybody has to be able to write again.
_PATIENCE: Final = 60.0


class Plan(NamedTuple):
    """A run: how often something is killed, and the seed of all chance."""

    cycles: int
    seed: int


class Site:
    """The service and the database of a run, which are killed."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.home = folder, folder / "home"
        self._port = free_port("127.0.0.1")
        self._logs = 0
        self.counts: Counter[str] = Counter()
        self.service = self._serve()

    @property
    def logs(self) -> Sequence[Path]:
        """Where all services have logged."""
        return [self._folder / f"log-{number}" for number in range(self._logs)]

    def strike(self, seed: int, cycle: int) -> None:
        """Kill something; in every five cycles all there is, in some order."""
        blows = (self._kill_worker, self._kill_service, self._kill_server, self._stop_server, self._kill_all)
        turn, place = divmod(cycle, len(blows))
        order = random.Random(f"kills/{seed}/{turn}")  # noqa: S311 - to be repeated
        order.sample(blows, len(blows))[place]()

    def _kill_worker(self) -> None:
        if self._victims.kill():
            self.counts["kills: a worker"] += 1
        else:
            self._kill_service()

    def _kill_service(self) -> None:
        self.service.kill()
        self.counts["kills: the service"] += 1
        self.service = self._serve()

    def _kill_server(self) -> None:
        self._signal_server(signal.SIGKILL)
        self.counts["kills: the database server"] += 1

    def _stop_server(self) -> None:
        self._signal_server(signal.SIGQUIT)
        self.counts["kills: the database server, by an immediate stop"] += 1

    def _kill_all(self) -> None:
        self._signal_server(signal.SIGKILL)
        self.service.kill()
        self.counts["kills: service and database server"] += 1
        self.service = self._serve()

    def _signal_server(self, number: int) -> None:
        # It may be on its way up from the last time.
        if pid := postmaster(self.home):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def close(self) -> None:
        """Leave nothing behind, whatever came of the run."""
        if self.service.process.poll() is None:
            self.service.kill()

    def _serve(self) -> Service:
        log = self._folder / f"log-{self._logs}"
        self._logs += 1
        words = ("--workers", str(_WORKERS), "--port", str(self._port))
        service = Service(log, *words, WATCHLY_HOME=str(self.home), SECRET_KEY=SECRET, LOG_LEVEL="error")
        self._victims = Victims(service)
        return service


def run(plan: Plan, folder: Path) -> Outcome:
    """Write while everything is killed, then compare what is left with what was answered.

    Args:
        plan: what to do.
        folder: an empty one that the database's user can reach.
    """
    over = threading.Event()
    wrong: list[str] = []
    began = time.monotonic()
    with ExitStack() as stack:
        database_url = stack.enter_context(EmbeddedPostgres(folder / "home"))
        site = Site(folder)
        stack.callback(site.close)
        lines = [Line(site.service.url) for _ in range(_WRITERS)]
        writers = [Owner(number, plan.seed, line, over) for number, line in enumerate(lines)]
        threads = stack.enter_context(ThreadPoolExecutor(_WRITERS, "writer"))
        stack.callback(over.set)
        working = [threads.submit(writer.work) for writer in writers]
        for cycle in range(plan.cycles):
            chance = random.Random(f"kill/{plan.seed}/{cycle}")  # noqa: S311 - to be repeated
            if not _get_on(writers):
                wrong.append(f"not everybody could write again after kill {cycle}")
                break
            over.wait(chance.uniform(0, _MOMENT))
            site.strike(plan.seed, cycle)
        if not _get_on(writers):
            wrong.append("not everybody could write in the end")
        over.set()
        for work in working:
            work.result()
        send("GET", f"{site.service.url}/api/changes")  # so that all have their numbers
        wrong += end(site.service, site.logs)
        tables = read_tables(database_url)
        check = run_command("rebuild", "--check", WATCHLY_HOME=str(folder / "home"), SECRET_KEY=SECRET)
        wrong += [] if check.returncode == 0 else [f"rebuild --check: {check.stdout}{check.stderr}"]
    wrong += violations(tables)
    for writer in writers:
        wrong += writer.wrong
    lost = list(lost_or_made_up(tables, writers))
    wrong += lost
    counts = site.counts + sum((writer.counts for writer in writers), Counter())
    acknowledged = sum(writer.acknowledged for writer in writers)
    kills = sum(site.counts.values())
    counts |= {"acknowledged": acknowledged, "events": len(tables.events)}
    counts["seconds"] = round(time.monotonic() - began)
    held = f"{kills:,} kills, {acknowledged:,} acknowledged writes: {len(lost)} lost, 0 half there"
    return Outcome(plan, counts, wrong, PROMISE, held)


def _get_on(writers: Sequence[Owner]) -> bool:
    """Wait until every writer has got something done from now on."""
    before = [writer.acknowledged for writer in writers]
    deadline = time.monotonic() + _PATIENCE
    while any(writer.acknowledged <= start for writer, start in zip(writers, before, strict=True)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)  # between looks, not in place of one
    return True


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--cycles", type=int, default=500)
    given = parser.parse_args()
    plan = Plan(given.cycles, given.seed)
    return perform("kills", PROMISE, given, lambda folder: run(plan, folder))


if __name__ == "__main__":
    sys.exit(main())
