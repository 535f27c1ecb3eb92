"""The database away again and again under load: refusals meanwhile and nothing else, and health soon after.

    python -m tests.faults.outages --outages 100 --seed 7

An outage is an immediate stop and a start some seconds later, a server all of whose processes stand still, or
the end of all connections at once. The clients stay on their connections, of which every worker has some:
it is healthy when each of them has read and written again, and is refused nothing any more.
"""

from __future__ import annotations

import os
import random
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, NamedTuple

import psycopg
from tests.faults.checker import read_tables, violations
from tests.faults.havoc import postmaster, server_processes, workers
from tests.faults.owners import Owner, lost_or_made_up
from tests.faults.runs import SECRET, Outcome, end, options, perform
from tests.faults.wire import Broken, Line, Reply, send
from tests.services import Service

from watchly_adapters.embedded import EmbeddedPostgres
from watchly_core.errors import Unavailable

PROMISE: Final = (
    "while the database is away requests are refused by 503 or 504 and by nothing else, "
    "and all is well within 5 s of its return"
)

_WORKERS: Final = 2
_CLIENTS: Final = 12
#: Seconds within which all has to be well again, and those after which the run gives up.
_WANTED: Final = 5.0
_PATIENCE: Final = 60.0
#: What happens in some order of every so many outages.
_KINDS: Final = ("stop", "freeze", "stop", "terminate")
#: Seconds of outages: of most, and of every tenth, in which pools lose their patience.
_SHORT: Final = (0.2, 2.5)
_LONG: Final = (7.5, 12.0)
#: The longest time in seconds from health until the next outage.
_MOMENT: Final = 0.5

_TERMINATE: Final = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
#: Parallel workers are no connections.
_CONNECTIONS: Final = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""

_POOLED: Final = re.compile(r'^watchly_pool_connections\{[^}]*state="(\w+)"[^}]*\} (\d+)', re.MULTILINE)


class Plan(NamedTuple):
    """A run: how many outages, the seed of all chance, and whether some of them are long."""

    outages: int
    seed: int
    long: bool = True


class Watched(Line):
    """A connection to one worker, and how that fares.

    Attributes:
        wrong: what must not be.
        refused: how often it was refused something.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.wrong: list[str] = []
        self.refused = 0
        self._well: dict[bool, float] = {}

    def ask(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        began = time.monotonic()
        try:
            reply = super().ask(method, path, body, headers)
        except Broken:
            self._well = {}
            self.wrong.append(f"{method} {path} was not answered, after {time.monotonic() - began:.1f} s")
            raise
        if reply.status in {503, 504}:
            self._well = {}
            self.refused += 1
            if reply.status == 503 and not reply.headers.get("retry-after", "").isdigit():
                self.wrong.append(f"{method} {path}: {reply.status} without Retry-After")
        elif reply.status < 400:
            self._well.setdefault(method == "GET", time.monotonic())
        return reply

    def forget(self) -> None:
        """Be well only by what is answered from now on."""
        self._well = {}

    @property
    def well_since(self) -> float | None:
        """When both reading and writing had succeeded, if nothing was refused since; None if not yet."""
        well = self._well
        return max(well.values()) if len(well) == 2 else None


class Site:
    """The database of a run, which goes away."""

    def __init__(self, home: Path, database: EmbeddedPostgres, url: str) -> None:
        self._home, self._database, self.url = home, database, url
        self.counts: Counter[str] = Counter()

    def strike(self, kind: str, seconds: float, pause: threading.Event) -> None:
        """Let it be away for so long."""
        self.counts[f"outages: {kind}"] += 1
        match kind:
            case "stop":
                if pid := postmaster(self._home):
                    os.kill(pid, signal.SIGQUIT)
                pause.wait(seconds)
                self._start()
            case "freeze":
                # The postmaster is the lowest one most often, and makes no more when it stands still.
                frozen = sorted(server_processes(self._home), key=lambda pid: pid != postmaster(self._home))
                for number in (signal.SIGSTOP, signal.SIGCONT):
                    for pid in frozen:
                        with suppress(ProcessLookupError):
                            os.kill(pid, number)
                    if number == signal.SIGSTOP:
                        pause.wait(seconds)
            case _:
                with psycopg.connect(self.url, autocommit=True) as connection:
                    connection.execute(_TERMINATE)

    def _start(self) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            with suppress(Unavailable, psycopg.OperationalError):
                self._database.revive()
                psycopg.connect(self.url, connect_timeout=5).close()
                return
            if time.monotonic() > deadline:
                raise TimeoutError("the database does not start")
            time.sleep(0.02)  # between attempts, not in place of one

    def connections(self) -> int:
        """How many the server has, this one's apart."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            ((found,),) = connection.execute(_CONNECTIONS).fetchall()
        return int(found)


def run(plan: Plan, folder: Path) -> Outcome:
    """Let clients read and write while the database goes away and returns.

    Args:
        plan: what to do.
        folder: an empty one that the database's user can reach.
    """
    began = time.monotonic()
    over = threading.Event()
    wrong: list[str] = []
    with ExitStack() as stack:
        database = EmbeddedPostgres(folder / "home")
        site = Site(folder / "home", database, stack.enter_context(database))
        words = ("--workers", str(_WORKERS))
        variables = {"DATABASE_URL": site.url, "SECRET_KEY": SECRET, "REQUEST_TIMEOUT": "3 s"}
        service = stack.enter_context(
            Service(folder / "log", *words, **variables, LOG_LEVEL="error", WATCHLY_HOME=str(folder / "own"))
        )
        lines = [_line_to(pid, service) for pid in sorted(workers(service)) * (_CLIENTS // _WORKERS)]
        first = site.connections()
        apart, _ = _settled(site, service, 0)
        writers = [Owner(number, plan.seed, line, over) for number, line in enumerate(lines)]
        threads = stack.enter_context(ThreadPoolExecutor(_CLIENTS, "client"))
        stack.callback(over.set)
        working = [threads.submit(writer.work) for writer in writers]
        _wait_for_health(lines, time.monotonic())
        took = list(_make_outages(plan, site, lines, over))
        over.set()
        for work in working:
            work.result()
        more, lent = _settled(site, service, apart)
        # Not their sum: one that a pool has lost counts as lent, and is none of the server's any more.
        leaked = max(0, more - apart) + lent
        last = site.connections()
        send("GET", f"{service.url}/api/changes")  # so that all have their numbers
        tables = read_tables(site.url)
        wrong += end(service)
    late = [(number, seconds) for number, seconds in enumerate(took) if seconds > _WANTED]
    wrong += [f"all was well {seconds:.1f} s after outage {number}" for number, seconds in late]
    if leaked:
        wrong.append(f"{more} connections are no pool's, and {apart} were at first; {lent} are lent")
    wrong += violations(tables)
    wrong += [words for line in lines for words in line.wrong]
    wrong += [words for writer in writers for words in writer.wrong]
    wrong += lost_or_made_up(tables, writers)
    counts = site.counts + sum((writer.counts for writer in writers), Counter())
    acknowledged, refused = (
        sum(writer.acknowledged for writer in writers),
        sum(line.refused for line in lines),
    )
    outages = sum(site.counts.values())
    counts |= {"acknowledged": acknowledged, "connections at first": first, "connections at last": last}
    counts["milliseconds until all was well, at the longest"] = round(max(took) * 1000)
    counts["seconds"] = round(time.monotonic() - began)
    held = (
        f"{outages} outages: all well within {max(took):.1f} s of each return, {refused:,} requests refused "
        f"by 503 or 504, {acknowledged:,} acknowledged writes, 0 lost, {leaked} connections leaked"
    )
    return Outcome(plan, counts, wrong, PROMISE, held)


def _make_outages(plan: Plan, site: Site, lines: Sequence[Watched], over: threading.Event) -> Iterator[float]:
    """Let the database be away and return; the seconds until all was well after each."""
    for number in range(plan.outages):
        turn, place = divmod(number, len(_KINDS))
        order = random.Random(f"outages/{plan.seed}/{turn}")  # noqa: S311 - to be repeated
        kind = order.sample(_KINDS, len(_KINDS))[place]
        chance = random.Random(f"outage/{plan.seed}/{number}")  # noqa: S311 - to be repeated
        over.wait(chance.uniform(0, _MOMENT))
        is_long = plan.long and number % 10 == 9
        site.strike(kind, chance.uniform(*(_LONG if is_long else _SHORT)), over)
        returned = time.monotonic()
        for line in lines:
            line.forget()
        took = _wait_for_health(lines, returned)
        yield took
        if took > _PATIENCE:
            return


def _line_to(pid: int, service: Service) -> Watched:
    """A connection to this worker: which one takes it is up to the kernel."""
    while True:
        line = Watched(service.url)
        line.ask("GET", "/health/live")
        if _is_held_by(pid, line.port):
            line.forget()
            return line
        line.close()


def _is_held_by(pid: int, port: int) -> bool:
    """Whether the other end of the connection from this port is a process's."""
    remote = f":{port:04X}"
    held = {str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, _, other, *_, inode = line.split()[:10]
        if other.endswith(remote) and f"socket:[{inode}]" in held:
            return True
    return False


def _wait_for_health(lines: Sequence[Watched], since: float) -> float:
    """Wait until all is well on all lines; after how many seconds it was."""
    while time.monotonic() - since < _PATIENCE:
        found = [line.well_since for line in lines]
        if None not in found:
            return max(when - since for when in found if when is not None)
        time.sleep(0.005)  # between looks, not in place of one
    return time.monotonic() - since


def _settled(site: Site, service: Service, apart: int) -> tuple[int, int]:
    """The server's connections that are none of a pool, and those of pools that are lent, once all is quiet.

    A pool grows with what it has to do, and shrinks after ten minutes, so its size says nothing.
    """
    deadline = time.monotonic() + _WANTED
    while True:
        page = send("GET", f"{service.url}/metrics").body.decode()
        shown = {state: int(number) for state, number in _POOLED.findall(page)}
        found = site.connections() - shown["open"], shown["open"] - shown["idle"]
        if found == (apart, 0) or time.monotonic() > deadline:
            return found
        time.sleep(0.1)  # between looks, not in place of one


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--outages", type=int, default=100)
    given = parser.parse_args()
    plan = Plan(given.outages, given.seed)
    return perform("outages", PROMISE, given, lambda folder: run(plan, folder))


if __name__ == "__main__":
    sys.exit(main())
