"""What a process of locust sees, which it writes down when it ends."""

from __future__ import annotations

import os
import socket
import time
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Final
from weakref import WeakSet

import gevent
import msgspec
from benchmarks.load.figures import Recording
from locust import events
from locust.env import Environment
from locust.runners import MasterRunner

#: Seconds between looks at how late this process is, and how many users it has.
_LOOK: Final = 0.1


class Recorder:
    """Keeps what this process sees, by the second in which it was asked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.began = time.time()
        self.leaving = False
        self.changes = 0
        self.streams: WeakSet[socket.socket] = WeakSet()
        self._requests: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self._errors: dict[int, Counter[str]] = defaultdict(Counter)
        self._late: dict[int, list[float]] = defaultdict(list)
        self._users: dict[int, int] = {}

    def listen(self) -> None:
        """Hear from locust of all that happens."""
        events.test_start.add_listener(self.begin)
        events.request.add_listener(self.note)
        events.test_stopping.add_listener(self.leave)
        events.quitting.add_listener(self.write)

    def begin(self, environment: Environment, **_: object) -> None:
        """A test begins in this process."""
        self.began = time.time()
        if not isinstance(environment.runner, MasterRunner):
            gevent.spawn(self._look, environment)

    def note(
        self, name: str, response_time: float, exception: Exception | None, start_time: float, **_: object
    ) -> None:
        """An answer came, or an error."""
        second = int(start_time - self.began)
        if exception is None:
            self._requests[second][name].append(round(response_time, 2))
        else:
            self._errors[second][f"{name}: {exception}"] += 1

    def leave(self, **_: object) -> None:
        """End the streams of those who follow."""
        self.leaving = True
        for stream in self.streams:
            with suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)

    def write(self, **_: object) -> None:
        """Write it all down."""
        if not self._users:
            return  # the process that only leads the others
        recording = Recording(
            self.began,
            [
                (second, kind, found)
                for second, kinds in self._requests.items()
                for kind, found in kinds.items()
            ],
            [
                (second, error, times)
                for second, found in self._errors.items()
                for error, times in found.items()
            ],
            list(self._late.items()),
            list(self._users.items()),
            self.changes,
        )
        (self._folder / f"{os.getpid()}.json").write_bytes(msgspec.json.encode(recording))

    def _look(self, environment: Environment) -> None:
        while True:
            due = time.time() + _LOOK
            gevent.sleep(_LOOK)
            second = int(due - self.began)
            self._late[second].append(round(1_000 * (time.time() - due), 2))
            self._users[second] = environment.runner.user_count
