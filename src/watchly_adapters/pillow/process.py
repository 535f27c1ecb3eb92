"""The decoder as its parent sees it: a child process, at the other end of a socket."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Final

import msgspec

from watchly_adapters.pillow.messages import LENGTH_BYTES, Job, Limits, Reply
from watchly_core.errors import Unavailable

#: How long a decoder may take to start; mostly to import Pillow.
_START_SECONDS: Final = 30

#: How often a caller that is cancelled is noticed.
_LOOK_MS: Final = 50

#: No rendition is longer.
_LONGEST_REPLY: Final = 64 * 1024 * 1024
_RECEIVED_AT_ONCE: Final = 256 * 1024

#: All that the child is told of the environment: images are no place for secrets to be read from.
_KEPT: Final = ("PYTHON", "LD_LIBRARY_PATH", "LANG", "LC_")


class DecoderDied(Exception):
    """The decoder is gone, or was given up; it has to be closed."""


class DecoderLate(DecoderDied):
    """It had no answer in time, nor used its processor time up, which would have ended it."""


class Decoder:
    """A running decoder. It ends when it is closed, or forgotten, or this process ends.

    Args:
        limits: what it may take.
        stop: gives the start up.

    Raises:
        Unavailable: it does not start.
    """

    def __init__(self, limits: Limits, stop: threading.Event) -> None:
        self._seconds = limits.seconds
        self._socket, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = _start(theirs, limits)
        except OSError as error:
            self._socket.close()
            raise Unavailable("decoder", f"it cannot be started: {error.strerror}") from error
        #: Safe to call again, by the thread that has jobs done.
        self.close: Callable[[], object] = weakref.finalize(self, _end, self._process, self._socket)
        try:
            self._reply(_START_SECONDS, stop)
        except DecoderDied as error:
            self.close()
            raise Unavailable("decoder", "it ended before it was ready") from error

    @property
    def pid(self) -> int:
        """The id of its process."""
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether it runs still."""
        return self._process.poll() is None

    def kill(self) -> None:
        """Take it from whichever thread has a job done by it; it has to be closed all the same."""
        self._process.kill()

    def ask(self, job: Job, descriptor: int, stop: threading.Event) -> Reply:
        """What it says to a job, whose image is in `descriptor`.

        Raises:
            DecoderDied: it died of the job, or `stop` was set.
            DecoderLate: the job took too long.
        """
        try:
            socket.send_fds(self._socket, [msgspec.msgpack.encode(job)], [descriptor])
        except ConnectionError as error:
            raise DecoderDied from error
        return self._reply(self._seconds, stop)

    def _reply(self, seconds: float, stop: threading.Event) -> Reply:
        deadline = time.monotonic() + seconds
        length = int.from_bytes(self._receive(LENGTH_BYTES, deadline, stop))
        if length > _LONGEST_REPLY:
            raise DecoderDied
        try:
            return msgspec.msgpack.decode(self._receive(length, deadline, stop), type=Reply)
        except msgspec.MsgspecError as error:
            raise DecoderDied from error

    def _receive(self, length: int, deadline: float, stop: threading.Event) -> bytearray:
        received = bytearray()
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while len(received) < length:
            if stop.is_set():
                raise DecoderDied
            if time.monotonic() > deadline:
                raise DecoderLate
            if not poll.poll(_LOOK_MS):
                continue
            try:
                chunk = self._socket.recv(min(length - len(received), _RECEIVED_AT_ONCE))
            except ConnectionError as error:
                raise DecoderDied from error
            if not chunk:
                raise DecoderDied
            received += chunk
        return received


def _start(its_socket: socket.socket, limits: Limits) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if name.startswith(_KEPT)}
    # Each thread of a decoder would have an arena of its own, which counts as address space.
    environment["MALLOC_ARENA_MAX"] = "2"
    arguments = (str(limits.memory), str(limits.cpu_seconds))
    return subprocess.Popen(  # noqa: S603 - this program itself
        # Without the working directory in its path, where anything may be called PIL, and whatever this
        # process makes of warnings: images that Pillow warns of are shown all the same.
        [sys.executable, "-P", "-W", "ignore", "-m", "watchly_adapters.pillow.decoder", *arguments],
        stdin=its_socket.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        # Of its own, so that Ctrl-C in a terminal leaves it at work until its parent is done.
        process_group=0,
    )


def _end(process: subprocess.Popen[bytes], its_socket: socket.socket) -> None:
    its_socket.close()
    process.kill()
    process.wait()
