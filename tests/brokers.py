"""A real NATS server on this machine, which can be stopped and started again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import nats
from nats.js.client import JetStreamContext

from watchly_adapters.nats import STREAM

NATS_SERVER = str(Path(sys.executable).with_name("nats-server"))
START_LIMIT = 30.0


class Nats:
    """A server with a JetStream in a folder; it keeps its port and its folder when it is started again.

    Attributes:
        url: where it listens.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder, self._options = folder, options
        self._port = -1
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self) -> None:
        """Start it, and wait until it listens."""
        ports = self._folder / "ports"
        ports.mkdir(parents=True, exist_ok=True)
        address = ("-a", "127.0.0.1", "-p", str(self._port))
        with (self._folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                [
                    NATS_SERVER,
                    *address,
                    "-js",
                    "-sd",
                    self._folder,
                    "--ports_file_dir",
                    ports,
                    *self._options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        found = ports / f"nats-server_{self._process.pid}.ports"
        deadline = time.monotonic() + START_LIMIT
        while not self._listens(found):
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline, "the server did not start in time"
            time.sleep(0.01)  # between looks, not in place of one

    def _listens(self, found: Path) -> bool:
        try:
            (self.url,) = json.loads(found.read_text())["nats"]
            self._port = int(self.url.rpartition(":")[2])
            socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
        except (OSError, ValueError):
            return False
        return True

    def stop(self, number: int = signal.SIGKILL) -> None:
        """End it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    def freeze(self) -> None:
        """Keep it from doing anything; connections stay open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        # All its threads: one that had not heard yet might answer.
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


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

    def __init__(self, subject: str, message_id: str, body: bytes) -> None:
        self.subject, self.id, self.body = subject, message_id, body


async def kept(server: Nats) -> list[Kept]:
    """All messages of the stream in their order."""
    async with looking(server) as stream:
        info = await stream.stream_info(STREAM)
        found = []
        for number in range(info.state.first_seq, info.state.last_seq + 1):
            message = await stream.get_msg(STREAM, number)
            headers = message.headers or {}
            found.append(Kept(message.subject or "", headers["Nats-Msg-Id"], message.data or b""))
        return found
