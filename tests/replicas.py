"""A PostgreSQL from the wheel with a real streaming replica, which tests may pause, kill and start again."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import psycopg

from tests.services import wait_until
from watchly_adapters.binaries import find_binaries
from watchly_adapters.embedded import EmbeddedPostgres
from watchly_adapters.homes import Account, account_for, make_private


class Replica:
    """A streaming replica of the server whose home it is given.

    Attributes:
        primary_url: that of the server's database `watchly`.
        url: its own.
    """

    def __init__(self, home: Path, primary_url: str) -> None:
        self.primary_url = primary_url
        self._conf = home / "postgres" / "conf"
        self._account: Account = account_for(home / "postgres" / "data")
        self._binaries = find_binaries(home / "postgres" / "binaries", self._account)
        self._data = home / "replica"
        self.url = f"postgresql://watchly@/watchly?host={quote(str(self._data))}&port=5432"
        make_private(self._data, self._account)
        self._run("pg_basebackup", "-d", primary_url, "-R", "-X", "stream", "-c", "fast")

    def start(self) -> None:
        """Run it, and wait until it answers."""
        options = {
            "listen_addresses": "",
            "unix_socket_directories": self._data,
            "hba_file": self._conf / "pg_hba.conf",
            "ident_file": self._conf / "pg_ident.conf",
            "max_connections": 200,
            "shared_buffers": "16MB",
        }
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]

        def started() -> bool:
            # Backends of one that was killed may still be leaving.
            arguments = ("-l", self._data / "log", "-o", shlex.join(words), "-s", "-w", "start")
            return self._account.run(self._binaries / "pg_ctl", "-D", self._data, *arguments).returncode == 0

        wait_until(started, "the replica started")

    def stop(self) -> None:
        """End it, hung or not; one that has ended already stays so."""
        with suppress(ProcessLookupError, FileNotFoundError):
            self.signal(signal.SIGCONT)
            self._run("pg_ctl", "-m", "immediate", "-s", "-w", "stop")

    def kill(self) -> None:
        """Kill it as a crash of its machine would."""
        self.signal(signal.SIGKILL)
        wait_until(lambda: not self._runs(), "the replica was gone")

    def signal(self, number: int) -> None:
        """Send a signal to all of its processes."""
        postmaster = self._postmaster()
        for pid in [*_children(postmaster), postmaster]:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let it replay nothing during the block."""
        self.replay(on=False)
        try:
            yield
        finally:
            self.replay(on=True)

    def replay(self, *, on: bool) -> None:
        """Go on replaying, or stop that, and wait until it is so."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            if on:
                connection.execute("SELECT pg_wal_replay_resume()")
                return
            connection.execute("SELECT pg_wal_replay_pause()")
            state = "SELECT pg_get_wal_replay_pause_state()"
            wait_until(lambda: connection.execute(state).fetchone() == ("paused",), "the replay paused")

    def catch_up(self) -> None:
        """Wait until it has replayed all that the primary has done."""
        with psycopg.connect(self.primary_url, autocommit=True) as primary:
            row = primary.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone()
        assert row is not None
        with psycopg.connect(self.url, autocommit=True) as connection:
            there = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
            wait_until(lambda: connection.execute(there, row).fetchone() == (True,), "the replica caught up")

    def _postmaster(self) -> int:
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def _runs(self) -> bool:
        with suppress(FileNotFoundError):
            state = Path(f"/proc/{self._postmaster()}/stat").read_text().rpartition(")")[2].split()[0]
            return state != "Z"
        return False

    def _run(self, program: str, *arguments: str | Path) -> None:
        done = self._account.run(self._binaries / program, "-D", self._data, *arguments, cwd=self._data)
        assert done.returncode == 0, done.stderr


def _children(pid: int) -> list[int]:
    with suppress(FileNotFoundError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


@contextmanager
def replicated(home: Path) -> Iterator[Replica]:
    """A server of its own in `home`, and a replica of it that runs."""
    with EmbeddedPostgres(home) as url:
        # The rules are written anew at each start, and `all` does not take in replication.
        with (home / "postgres" / "conf" / "pg_hba.conf").open("a") as rules:
            rules.write("local replication all peer map=watchly\n")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("SELECT pg_reload_conf()")
        replica = Replica(home, url)
        replica.start()
        try:
            yield replica
        finally:
            replica.stop()
