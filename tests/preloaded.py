"""Programs that need not load Watchly: a process that has, forks itself for each of them.

They are the commands of `watchly`, and modules of the tests that run by themselves, whose words begin with
`-m`, as those of Python do. Each has its own process, environment, pipes and exit code, as if it were
started. What loading is about, its time, its order or what is left out, cannot be seen here:
`tests/http/test_loading.py` starts real ones.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Never

_LONGEST: Final = 1 << 17
_SECONDS: Final = 100
_MODULES: Final = (
    "pytest",
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
    "watchly_http.server",
)


class Process:
    """A command that runs, with as much of `subprocess.Popen` as tests need; the parent is another process.

    Attributes:
        args: its words.
        pid: its own.
        returncode: None until it is seen to have ended.
    """

    def __init__(self, args: Sequence[str], pid: int, ended: int) -> None:
        self.args, self.pid = args, pid
        self.returncode: int | None = None
        #: Says the code with which it ends.
        self._ended = ended

    def wait(self, timeout: float | None = None) -> int:
        """See `Popen`."""
        if self.returncode is None:
            if not select.select([self._ended], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(list(self.args), timeout or 0)
            told = os.read(self._ended, _LONGEST)
            os.close(self._ended)
            assert told, "the process that has loaded everything is gone"
            self.returncode = int(told)
        return self.returncode

    def poll(self) -> int | None:
        """See `Popen`."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """See `Popen`."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """See `Popen`."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """See `Popen`."""
        self.send_signal(signal.SIGKILL)


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

    def start(
        self, command: Sequence[str], environment: Mapping[str, str], streams: Sequence[int], *, apart: bool
    ) -> Process:
        """Start a command with these as its three streams, in a session of its own if it is `apart`."""
        request = json.dumps({"command": command, "environment": dict(environment), "apart": apart}).encode()
        assert len(request) < _LONGEST
        ended, tells = os.pipe()
        try:
            with self._turn:
                socket.send_fds(self._link, [request], [*streams, tells])
                pid = int(self._link.recv(_LONGEST))
        finally:
            os.close(tells)
        return Process(command, pid, ended)

    def run(
        self, command: Sequence[str], stdin: str, environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, as `subprocess.run` does."""
        with ThreadPoolExecutor(2) as readers:
            (ours, *said), theirs = _pipes()
            out, err = (readers.submit(_text, fd) for fd in said)
            try:
                process = self.start(command, environment, theirs, apart=False)
            finally:
                for fd in theirs:
                    os.close(fd)
            # A command need not read what it is given.
            with contextlib.suppress(BrokenPipeError), os.fdopen(ours, "w") as given:
                given.write(stdin)
            try:
                code = process.wait(_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
            return subprocess.CompletedProcess(list(command), code, out.result(), err.result())

    def close(self) -> None:
        """End it."""
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
    telling: dict[int, int] = {}
    awake, wakes = socket.socketpair()
    for each in (awake, wakes):
        each.setblocking(False)  # noqa: FBT003 - its only parameter
    signal.set_wakeup_fd(wakes.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([link, awake], [], [])
        if awake in ready:
            awake.recv(_LONGEST)
            _tell_of_the_ended(telling)
        if link not in ready:
            continue
        request, fds, _, _ = socket.recv_fds(link, _LONGEST, 4)
        if not request:
            os._exit(0)
        child = os.fork()
        if not child:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            for each in (link, awake, wakes):
                each.close()
            for fd in (*telling.values(), fds.pop()):
                os.close(fd)
            _dress(json.loads(request), fds)
            return
        telling[child] = fds.pop()
        for fd in fds:
            os.close(fd)
        link.send(str(child).encode())


def _tell_of_the_ended(telling: dict[int, int]) -> None:
    """Tell whoever started them of the commands that have ended, and with which code."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            pid, status = ended
            # Whoever started it may be gone.
            with contextlib.suppress(BrokenPipeError):
                os.write(telling[pid], str(os.waitstatus_to_exitcode(status)).encode())
            os.close(telling.pop(pid))


def _dress(wanted: dict[str, object], streams: Sequence[int]) -> None:
    """Become what somebody wants to have started."""
    if wanted["apart"]:
        os.setsid()
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
        os.close(fd)
    environment, command = wanted["environment"], wanted["command"]
    assert isinstance(environment, dict)
    assert isinstance(command, list)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[:] = command


def _main() -> Never:
    for module in _MODULES:
        importlib.import_module(module)
    assert threading.active_count() == 1, "threads do not live through a fork"
    gc.freeze()
    _become_commands(socket.socket(fileno=int(sys.argv[1])))
    if sys.argv[0] == "-m":
        del sys.argv[0]
        sys.path.insert(0, str(Path(__file__).parents[1]))
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        sys.exit()
    from watchly_http.cli import main  # noqa: PLC0415 - tests import this module for its other half

    main()


if __name__ == "__main__":
    _main()
