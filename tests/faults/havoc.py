"""What befalls the service from outside while it is at work."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psycopg
from tests.faults.told import Told
from tests.services import Service

_END_BACKENDS: Final = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() ORDER BY random() LIMIT %s
"""
#: Younger workers are left alone but once: the supervisor takes some early deaths in a row for the end.
_GROWN_UP: Final = 6.0
#: The longest that a blow is put off, so that it falls somewhere in the middle of an operation.
_DELAY: Final = 0.15
_BRIEF: Final = 0.2


class Havoc:
    """Strikes the service of a run, from threads of its own, while it is entered.

    Args:
        service: what is struck.
        database_url: its database.
        told: counts the blows.
        rate: how likely an operation is struck, from 0 to 1.
        seed: of all chance.
        break_store: makes the store fail, or work again.
        home: of the embedded database, whose server may be killed as well.
        outage: seconds of a long outage of the store.
    """

    def __init__(  # noqa: PLR0913 - each with its name
        self,
        service: Service,
        database_url: str,
        told: Told,
        *,
        rate: float,
        seed: int,
        break_store: Callable[[bool], None],
        home: Path | None = None,
        outage: float = 0.0,
    ) -> None:
        self._service, self._database_url, self._told = service, database_url, told
        self._rate, self._seed, self._outage = rate, seed, outage
        self._break_store, self._home = break_store, home
        self._over = threading.Event()
        self._store, self._killing = threading.Lock(), threading.Lock()
        self._victims = Victims(service)
        self._threads = ThreadPoolExecutor(4, "havoc")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._threads.shutdown()

    def strike(self, number: int) -> None:
        """Perhaps strike while the operation of this number goes on, which begins now."""
        chance = random.Random(f"havoc/{self._seed}/{number}")  # noqa: S311 - to be repeated
        blows: Mapping[Callable[[], None], int] = {
            self._end_one: 40,
            self._end_all: 40,
            self._kill_worker: 10,
            self._trouble_store: 10,
        }
        if number % 250 == 125 and self._outage:
            self._threads.submit(self._long_outage)
        elif number % 50 == 25:
            self._threads.submit(self._later, chance.uniform(0, _DELAY), self._kill_worker)
        elif number % 200 == 100 and self._home:
            self._threads.submit(self._kill_server)
        elif chance.random() < self._rate:
            (blow,) = chance.choices(list(blows), list(blows.values()))
            self._threads.submit(self._later, chance.uniform(0, _DELAY), blow)

    def _later(self, delay: float, blow: Callable[[], None]) -> None:
        if not self._over.wait(delay):
            blow()

    def _end_one(self) -> None:
        self._end_backends(1)
        self._told.count("fault: one connection of the database ended")

    def _end_all(self) -> None:
        self._end_backends(None)
        self._told.count("fault: all connections of the database ended")

    def _end_backends(self, most: int | None) -> None:
        # The server itself may be down at present.
        with suppress(psycopg.OperationalError), psycopg.connect(self._database_url, autocommit=True) as own:
            own.execute(_END_BACKENDS, (most,))

    def _kill_worker(self) -> None:
        with self._killing:
            if self._victims.kill():
                self._told.count("fault: a worker killed")
            else:
                self._end_all()

    def _kill_server(self) -> None:
        # It may be down from the last time, or just on its way up.
        if self._home and (pid := postmaster(self._home)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self._told.count("fault: the database server killed")

    def _trouble_store(self) -> None:
        self._store_fails(_BRIEF)
        self._told.count("fault: the store down for a moment")

    def _long_outage(self) -> None:
        self._store_fails(self._outage)
        self._told.count(f"fault: the store down for {self._outage:g} s")

    def _store_fails(self, seconds: float) -> None:
        with self._store:
            self._break_store(True)  # noqa: FBT003 - its only parameter
            self._over.wait(seconds)
            self._break_store(False)  # noqa: FBT003 - as above


class Victims:
    """Workers that may be killed: several early deaths in a row are the end for their supervisor.

    They are those that were there at first, and whoever took a place long enough ago.
    """

    def __init__(self, *services: Service) -> None:
        self._services = services
        self._first = {pid for service in services for pid in workers(service)}
        self._doomed: set[int] = set()

    def choose(self, chance: random.Random | None = None) -> int | None:
        """One of them, who is left out from now on; None where nobody may die yet."""
        found = [pid for service in self._services for pid in workers(service)]
        found = [pid for pid in found if pid not in self._doomed and (pid in self._first or grown_up(pid))]
        if not found:
            return None
        victim = chance.choice(found) if chance else found[0]
        self._doomed.add(victim)
        return victim

    def kill(self, chance: random.Random | None = None) -> bool:
        """Kill one of them; False where nobody may die yet."""
        victim = self.choose(chance)
        if victim is not None:
            # It may be dying already.
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        return victim is not None


def workers(service: Service) -> list[int]:
    """The processes of a service that answer requests."""
    pid = service.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    # A worker is a fork of the supervisor; whatever else that has started is another program.
    same = _command(pid)
    return [int(child) for child in children.split() if same and _command(int(child)) == same]


def postmaster(home: Path) -> int | None:
    """The first process of a home's database server; None if none runs there."""
    data = home / "postgres/data"
    try:
        pid = int((data / "postmaster.pid").read_text().split()[0])
        return pid if Path(f"/proc/{pid}/cwd").samefile(data) else None
    except (OSError, IndexError):
        return None


def server_processes(home: Path) -> list[int]:
    """All processes of a home's database server."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").samefile(home / "postgres/data"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def grown_up(pid: int) -> bool:
    """Whether a worker has lived so long that its supervisor takes its death for an accident."""
    return _age(pid) > _GROWN_UP


def _command(pid: int) -> bytes:
    """What a process was started as; nothing if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _age(pid: int) -> float:
    """Seconds since a process was started; 0 if it is gone."""
    try:
        started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        up = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return 0.0
    return up - started / os.sysconf("SC_CLK_TCK")
