"""The servers that are compared: what each needs, and its processes while it runs."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final, NamedTuple

WATCHLY: Final = "Watchly"
CACHED: Final = "Watchly, local cache"
EXPRESS: Final = "Express + Sequelize"
FASTIFY: Final = "Fastify + pg"
FASTAPI: Final = "FastAPI + SQLAlchemy"
BARE: Final = "bare ASGI + asyncpg"

PROCESSES: Final = 2
#: The name of the image in the folder of the peers.
IMAGE_FILE: Final = "poster.jpg"
PEERS: Final = Path(__file__).parents[1] / "peers"
BINARIES: Final = Path(sys.executable).parent
#: Those that are Watchly, and what sets them apart; the peers keep no log of their requests either.
OWN: Final = {
    WATCHLY: {"LOG_LEVEL": "warning"},
    CACHED: {"LOG_LEVEL": "warning", "CACHE": "local"},
}

_INSTALL_SECONDS: Final = 300
_START_SECONDS: Final = 60
_STOP_SECONDS: Final = 20
_PAUSE: Final = 0.05


class Missing(Exception):
    """Something that a server needs is not there."""


class Contestant(NamedTuple):
    """A server that is ready to be started; `{port}` in its command is where it is to listen."""

    name: str
    command: tuple[str, ...]
    folder: Path


class Running:
    """A server that answers.

    Attributes:
        image: where it has the image; the peers all have it in the same folder.
    """

    def __init__(self, name: str, port: int, pid: int) -> None:
        self.name = name
        self.image = f"/images/{IMAGE_FILE}"
        self.host = f"127.0.0.1:{port}"
        self._pid = pid

    def processor_seconds(self) -> float:
        """What its processes have used of the processors."""
        return processor_seconds(self._pid)

    def memory(self) -> int:
        """Bytes of its processes; what they share is counted once."""
        return sum(map(_memory, family(self._pid)))

    def get(self, path: str, headers: Mapping[str, str] = {}) -> tuple[int, str, bytes]:
        """The status, the entity tag and the body of a reply."""
        return self._ask("GET", path, None, headers)

    def put(self, path: str, content: bytes, headers: Mapping[str, str]) -> tuple[int, str, bytes]:
        """The same of a reply to this content."""
        return self._ask("PUT", path, content, headers)

    def post(self, path: str, content: bytes, headers: Mapping[str, str]) -> tuple[int, str, bytes]:
        """The same."""
        return self._ask("POST", path, content, headers)

    def _ask(
        self, method: str, path: str, content: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, str, bytes]:
        connection = HTTPConnection(self.host, timeout=30)
        connection.request(method, path, content, dict(headers))
        reply = connection.getresponse()
        return reply.status, reply.getheader("ETag", ""), reply.read()


def install(name: str, folder: Path) -> Contestant:
    """Make a server ready to start below `folder`.

    Raises:
        Missing: its runtime is not there, or its packages are not to be had.
    """
    if name in OWN:
        command = ("watchly", "serve", "--workers", str(PROCESSES), "--port", "{port}")
        return Contestant(name, (str(BINARIES / command[0]), *command[1:]), folder)
    of_node, source = {
        EXPRESS: (True, "express-sequelize"),
        FASTIFY: (True, "fastify-pg"),
        FASTAPI: (False, "fastapi-sqlalchemy"),
        BARE: (False, "asgi-asyncpg"),
    }[name]
    place = folder / source
    shutil.copytree(PEERS / source, place)
    if of_node:
        for needed in ("node", "npm"):
            if shutil.which(needed) is None:
                raise Missing(f"{needed} is not on the PATH")
        quiet = ("--no-audit", "--no-fund", "--loglevel=error")
        _run("npm", "install", "--no-package-lock", *quiet, folder=place)
        return Contestant(name, ("node", "server.js"), place)
    binaries = place / "venv" / "bin"
    _run(sys.executable, "-m", "venv", "venv", folder=place)
    _run(str(binaries / "pip"), "install", "--quiet", "-r", "requirements.txt", folder=place)
    workers = ("--workers", str(PROCESSES), "--host", "127.0.0.1", "--port", "{port}", "--no-access-log")
    if name == FASTAPI:
        return Contestant(name, (str(binaries / "uvicorn"), *workers, "server:app"), place)
    asgi = ("--interface", "asgi", "--loop", "uvloop")
    return Contestant(name, (str(binaries / "granian"), *asgi, *workers, "server:app"), place)


def _run(*command: str, folder: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise Missing(f"{Path(command[0]).name} took longer than {_INSTALL_SECONDS} s") from None
    if done.returncode:
        # What it said may name hosts and folders, which do not belong on the page.
        print(done.stderr, file=sys.stderr)
        raise Missing(f"{Path(command[0]).name} failed")


@contextmanager
def running(contestant: Contestant, environment: Mapping[str, str]) -> Iterator[Running]:
    """The server while it runs; all of its processes have ended afterwards.

    Raises:
        Missing: it does not start here.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = contestant.folder / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [word.format(port=port) for word in contestant.command],
            cwd=contestant.folder,
            env={
                **os.environ,
                "PORT": str(port),
                "NODE_ENV": "production",
                "TZ": "UTC",
                **OWN.get(contestant.name, {}),
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        server = Running(contestant.name, port, process.pid)
        deadline = time.monotonic() + _START_SECONDS
        while not _answers(server):
            if process.poll() is not None or time.monotonic() > deadline:
                print(log.read_text(errors="replace")[-2_000:], file=sys.stderr)
                raise Missing("it did not start")
            time.sleep(_PAUSE)
        yield server
    finally:
        _end(process)


def _answers(server: Running) -> bool:
    with suppress(OSError, HTTPException):
        status, _, _ = server.get("/api/movies/1")
        return status == 200  # noqa: PLR2004 - OK
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the server to leave, then end those of its processes that are left, by file descriptor."""
    left = []
    for pid in family(process.pid):
        with suppress(ProcessLookupError):
            left.append(os.pidfd_open(pid))
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for descriptor in left:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        os.close(descriptor)


def family(pid: int) -> list[int]:
    """A process and all that it has started, as far as they are there."""
    found = [pid]
    for parent in found:
        with suppress(OSError):
            for thread in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (thread / "children").read_text().split())
    return found


def processor_seconds(pid: int) -> float:
    """What a process and all that it has started have used of the processors, also those that have ended."""
    return sum(map(_processor_seconds, family(pid)))


def _processor_seconds(pid: int) -> float:
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        # Its own, and that of the children that it has waited for, which are not listed any more.
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _memory(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
