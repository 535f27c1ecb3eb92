"""The scripts that make a primary and a replica of it, as the images of the compose file run them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg
from tests.gateways import DEPLOY, free_port
from tests.services import wait_until

from watchly_adapters.binaries import find_binaries
from watchly_adapters.homes import account_for, make_private

PASSWORD = "p" * 64
COUNT = "SELECT count(*) FROM pg_largeobject_metadata"


class Machine:
    """A folder of PostgreSQL's own user, with its programs on the path."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o711)
        self.account = account_for(folder / "data")
        self.binaries = find_binaries(folder / "binaries", self.account)
        self.data, self.sockets = folder / "data", folder / "sockets"
        for private in (self.data, self.sockets):
            make_private(private, self.account)

    def popen(self, *command: str | Path, **variables: str) -> subprocess.Popen[bytes]:
        root = os.geteuid() == 0
        path = f"{self.binaries}:{os.environ['PATH']}"
        return subprocess.Popen(
            command,
            env={"PATH": path, "LC_ALL": "C", **variables},
            user=self.account.uid if root else None,
            group=self.account.gid if root else None,
            extra_groups=[] if root else None,
            cwd="/",
            stdin=subprocess.DEVNULL,
        )

    def run(self, *command: str | Path, **variables: str) -> None:
        assert self.popen(*command, **variables).wait(60) == 0

    def server(self, data: Path, port: int) -> tuple[str, ...]:
        """What runs a server as the images do."""
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": str(self.sockets),
            "fsync": "off",
        }
        return ("postgres", f"-D{data}", *(f"-c{name}={value}" for name, value in options.items()))

    @contextmanager
    def running(self, *command: str | Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
        process = self.popen(*command, **variables)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(60)


def asked(port: int, query: str) -> object:
    """The one value of an answer; None as long as there is none."""
    url = f"postgresql://watchly:{PASSWORD}@127.0.0.1:{port}/watchly"
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            row = connection.execute(query.encode()).fetchone()
    except psycopg.OperationalError:
        return None
    return row and row[0]


def test_a_replica_copies_the_primary_and_follows_it(reachable_directory: Path) -> None:
    machine = Machine(reachable_directory / "made-by-scripts")
    primary, replica = machine.data / "primary", machine.data / "replica"
    script, copied = (open_to(machine, DEPLOY / "postgres" / name) for name in ("primary.sh", "replica.sh"))
    given: Mapping[str, str] = {
        "PGDATA": str(primary),
        "PGHOST": str(machine.sockets),
        "POSTGRES_USER": "watchly",
        "POSTGRES_DB": "watchly",
        "REPLICATION_PASSWORD": PASSWORD,
    }
    at, follows_at = free_port("127.0.0.1"), free_port("127.0.0.1")
    secret = open_to(machine, machine.sockets / "password", PASSWORD)
    auth = ("-A", "scram-sha-256", "--auth-local=trust", "--pwfile", secret)
    machine.run("initdb", "-D", primary, "-U", "watchly", "-N", *auth)
    with machine.running(*machine.server(primary, at)):
        wait_until(lambda: ready(machine, at), "the primary ran")
        machine.run("createdb", "-h", machine.sockets, "-p", str(at), "-U", "watchly", "watchly")
        machine.run("sh", script, PGPORT=str(at), **given)
        machine.run("pg_ctl", "-D", primary, "reload")
        replicating = {
            "PGDATA": str(replica),
            "PGHOST": "127.0.0.1",
            "PGPORT": str(at),
            "PGPASSWORD": PASSWORD,
        }
        command = ("sh", str(copied), *machine.server(replica, follows_at))
        for number in (1, 2):  # a new copy, and then the one that is there
            with machine.running(*command, **replicating):
                wait_until(lambda: asked(follows_at, "SELECT pg_is_in_recovery()") is True, "it followed")
                assert asked(at, f"SELECT lo_from_bytea({number}, 'x')") == number
                wait_until(lambda: asked(follows_at, COUNT) == asked(at, COUNT), "it had what is new")
        assert asked(at, "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'replica'") == 1


def ready(machine: Machine, port: int) -> bool:
    return machine.popen("pg_isready", "-q", "-h", machine.sockets, "-p", str(port)).wait(60) == 0


def open_to(machine: Machine, path: Path, text: str | None = None) -> Path:
    """A file where PostgreSQL's user can read it."""
    copy = machine.sockets / path.name
    copy.write_text(path.read_text() if text is None else text)
    copy.chmod(0o644)
    return copy
