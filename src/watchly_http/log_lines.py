"""Lines on their way to whoever reads the log, for whom nothing that logs ever waits.

A thread of each process writes them, some at a time. They wait in a bounded place meanwhile; where that is
full, lines are dropped, and the next ones say how many.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import select
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Final

#: Bytes of lines that wait, and of those that must not be lost among many others.
ROOM: Final = 4_194_304
_ROOM_FOR_URGENT: Final = 2 * ROOM
#: Seconds for which lines are gathered after some were written, and before urgent ones are again.
GATHERED: Final = 0.1
_PAUSE: Final = 0.01
#: Seconds that the end of a process, or a fork, waits for a reader.
PATIENCE: Final = 2.0
_PATIENCE_TO_FORK: Final = 0.5

#: What the thread is told: that there are lines, that there are urgent ones, that it should end.
_LATER, _SOON, _END = 1, 2, 3


class Lines:
    """Takes lines, and has them written to a file descriptor.

    Each line is whole, whoever else writes there: short ones go in pieces that a pipe takes as they are, and
    those of processes that were forked from one another never at the same time.

    Args:
        descriptor: where they go.
        of_dropped: makes the line that says how many were dropped.
    """

    def __init__(self, descriptor: int, of_dropped: Callable[[int], bytes]) -> None:
        self._descriptor, self._of_dropped = descriptor, of_dropped
        self._turn = os.memfd_create("watchly-log")
        self._begin()
        atexit.register(self.flush)
        # No thread survives a fork, and there should be none during one: Python 3.12 warns of that.
        os.register_at_fork(before=lambda: self.flush(_PATIENCE_TO_FORK), after_in_child=self._begin)

    def _begin(self) -> None:
        """Have nothing waiting: what did is written by the process that this one was forked from."""
        # One that lets in who is there already: Python may collect garbage, and log that, wherever it is.
        self._lock = threading.RLock()
        self._writing = threading.Lock()
        self._waiting: list[bytes] = []
        self._size = self._dropped = self._told = 0
        self._torn = False  # whether the last line may lack its end
        self._thread: threading.Thread | None = None
        self._bell: SimpleQueue[int] = SimpleQueue()

    def add(self, line: bytes, *, urgent: bool = False) -> None:
        """Take a line, with its end; an urgent one is written at once, others at times."""
        with self._lock:
            if self._size + len(line) > (_ROOM_FOR_URGENT if urgent else ROOM):
                self._dropped += 1
                return
            self._waiting.append(line)
            self._size += len(line)
            if self._thread is None and not self._start():
                return
            word = _SOON if urgent else _LATER
            if word > self._told:
                self._told = word
                self._bell.put(word)

    def flush(self, seconds: float = PATIENCE) -> None:
        """Write all that waits, for so long at the most."""
        with self._lock:
            # Its end tells that all is written. The next line begins another.
            thread, self._thread = self._thread, None
            self._bell.put(_END)
        if thread is not None:
            thread.join(seconds)

    def _start(self) -> bool:
        self._told, self._bell = 0, SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(self._bell,), name="watchly-log", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter is at its end
            self._thread = None
            self._write_waiting()
        return self._thread is not None

    def _run(self, bell: SimpleQueue[int]) -> None:
        word = bell.get()
        while word != _END:
            self._write_waiting()
            word = _next(bell)
        self._write_waiting()

    def _write_waiting(self) -> None:
        with self._lock:
            self._told = 0
            if not self._waiting:
                return
            lines, dropped = self._waiting, self._dropped
            self._waiting, self._size, self._dropped = [], 0, 0
        kept, written = len(lines), 0
        if dropped:
            lines.append(self._of_dropped(dropped))
        if self._torn:
            lines[0] = b"\n" + lines[0]
        try:
            with self._writing, _alone(self._turn):
                for count, piece in _pieces(lines):
                    _write(self._descriptor, piece)
                    written += count
            self._torn = False
        except OSError:  # the reader is gone, or the disk is full
            self._torn = True
            with self._lock:
                self._dropped += dropped + kept - written


def _next(bell: SimpleQueue[int]) -> int:
    """What is told next; of lines that are not urgent only after a while, when there may be more of them."""
    time.sleep(_PAUSE)
    until, word = time.monotonic() + GATHERED, 0
    with suppress(Empty):
        while word <= _LATER:
            word = max(word, bell.get(timeout=max(0.0, until - time.monotonic())))
    return word or bell.get()


def _pieces(lines: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines in pieces that a pipe takes whole, or of one line that is longer; and how many in each."""
    start = size = 0
    for index, line in enumerate(lines):
        if size and size + len(line) > select.PIPE_BUF:
            yield index - start, b"".join(lines[start:index])
            start, size = index, 0
        size += len(line)
    yield len(lines) - start, b"".join(lines[start:])


def _write(descriptor: int, piece: bytes) -> None:
    rest = memoryview(piece)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:  # somebody who shares it has made it so
            writable = select.poll()
            writable.register(descriptor, select.POLLOUT)
            writable.poll()


@contextmanager
def _alone(turn: int) -> Iterator[None]:
    """Keep others that have this file from writing meanwhile; the lock of one that dies goes with it."""
    fcntl.lockf(turn, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.lockf(turn, fcntl.LOCK_UN)
