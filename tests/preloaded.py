"""Commands of `watchly` that need not load it: a process that has, forks itself for each of them.

A command has its own process, environment, pipes and exit code, as if it were started. What loading is about,
its time, its order or what is left out, cannot be seen here: `tests/http/test_loading.py` starts real ones.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Never

_LONGEST: Final = 1 << 17
_SECONDS: Final = 100
_MODULES: Final = (
    "rich.console",
    "watchly_adapters.container",
    "watchly_adapters.embedded",
    "watchly_adapters.filesystem",
    "watchly_adapters.pillow",
    "watchly_adapters.security.passwords",
    "watchly_adapters.security.tokens",
    "watchly_http.app",
    "watchly_http.cli",
    "watchly_http.running",
)


class Preloaded:
    """The process that has loaded everything; it ends with the one that made it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._turn = threading.Lock()
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                # -P, because the folder of this file is no place to import from: it has an `http`.
                [sys.executable, "-P", __file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=environment,
                cwd="/",
            )
        atexit.register(self.close)

    def run(
        self, command: list[str], stdin: str, environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, as `subprocess.run` does."""
        request = json.dumps({"command": command, "environment": dict(environment)}).encode()
        assert len(request) < _LONGEST
        with self._turn, ThreadPoolExecutor(2) as readers:
            (ours, *said), theirs = _pipes()
            out, err = (readers.submit(_text, fd) for fd in said)
            socket.send_fds(self._link, [request], theirs)
            for fd in theirs:
                os.close(fd)
            # A command need not read what it is given.
            with contextlib.suppress(BrokenPipeError), os.fdopen(ours, "w") as given:
                given.write(stdin)
            code = self._code(command)
            return subprocess.CompletedProcess(command, code, out.result(), err.result())

    def _code(self, command: list[str]) -> int:
        pid = int(self._link.recv(_LONGEST))
        self._link.settimeout(_SECONDS)
        try:
            return int(self._link.recv(_LONGEST))
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            self._link.settimeout(None)
            self._link.recv(_LONGEST)
            raise subprocess.TimeoutExpired(command, _SECONDS) from None
        finally:
            self._link.settimeout(None)

    def close(self) -> None:
        self._link.close()
        self._process.wait(_SECONDS)


def _pipes() -> tuple[list[int], list[int]]:
    """Pipes for the three streams of a command: our ends, and its own."""
    (stdin, given), (out, told), (err, complained) = os.pipe(), os.pipe(), os.pipe()
    return [given, out, err], [stdin, told, complained]


def _text(fd: int) -> str:
    with os.fdopen(fd) as stream:
        return stream.read()


def _become_commands(link: socket.socket) -> None:
    """Fork for each command; returns in those that are to be one, and never else."""
    while True:
        request, fds, _, _ = socket.recv_fds(link, _LONGEST, 3)
        if not request:
            os._exit(0)
        child = os.fork()
        if not child:
            wanted = json.loads(request)
            link.close()
            for number, fd in enumerate(fds):
                os.dup2(fd, number)
                os.close(fd)
            os.environ.clear()
            os.environ.update(wanted["environment"])
            sys.argv[:] = wanted["command"]
            return
        for fd in fds:
            os.close(fd)
        link.send(str(child).encode())
        _, status = os.waitpid(child, 0)
        link.send(str(os.waitstatus_to_exitcode(status)).encode())


def _main() -> Never:
    for module in _MODULES:
        importlib.import_module(module)
    assert threading.active_count() == 1, "threads do not live through a fork"
    gc.freeze()
    _become_commands(socket.socket(fileno=int(sys.argv[1])))
    from watchly_http.cli import main  # noqa: PLC0415 - tests import this module for its other half

    main()


if __name__ == "__main__":
    _main()
