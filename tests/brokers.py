"""A real NATS server on this machine, which can be stopped and started again."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import nats
from nats.js.client import JetStreamContext

from tests.daemons import Daemon
from watchly_adapters.nats import STREAM

NATS_SERVER = str(Path(sys.executable).with_name("nats-server"))


class Nats(Daemon):
    """A server with a JetStream in a folder; it keeps its port and its folder when it is started again.

    Attributes:
        url: where it listens.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__(folder)
        self._options = options
        self._ports = folder / "ports"
        self._port = -1
        self.url = ""

    def command(self) -> Sequence[str | Path]:
        """See `Daemon`."""
        self._ports.mkdir(exist_ok=True)
        return [
            NATS_SERVER,
            *("-a", "127.0.0.1", "-p", str(self._port), "-js", "-sd", self._folder),
            *("--ports_file_dir", self._ports),
            *self._options,
        ]

    def answers(self, pid: int) -> bool:
        """See `Daemon`."""
        try:
            (self.url,) = json.loads((self._ports / f"nats-server_{pid}.ports").read_text())["nats"]
            self._port = int(self.url.rpartition(":")[2])
            socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
        except (OSError, ValueError):
            return False
        return True


@asynccontextmanager
async def looking(server: Nats) -> AsyncIterator[JetStreamContext]:
    """A connection to look into its streams."""
    client = await nats.connect(server.url)
    try:
        yield client.jetstream()
    finally:
        await client.close()


class Kept:
    """A message as the server keeps it."""

    def __init__(self, subject: str, headers: Mapping[str, str], body: bytes) -> None:
        self.subject, self.headers, self.body = subject, headers, body

    @property
    def id(self) -> str:
        """By which the server drops repeats."""
        return self.headers["Nats-Msg-Id"]


async def kept(server: Nats) -> list[Kept]:
    """All messages of the stream in their order."""
    async with looking(server) as stream:
        info = await stream.stream_info(STREAM)
        found = []
        # One that is empty begins at 0, and has no such message.
        for number in range(max(1, info.state.first_seq), info.state.last_seq + 1):
            message = await stream.get_msg(STREAM, number)
            found.append(Kept(message.subject or "", message.headers or {}, message.data or b""))
        return found
