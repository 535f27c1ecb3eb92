"""Who counts as alive. What becomes of the others is in `test_server.py`, with real workers."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Final

from watchly_http.watchdog import LOOK_EVERY, Watchdog, is_traced

#: Has its parent for a debugger until it is told to end.
TRACED: Final = "import ctypes; print(ctypes.CDLL(None).ptrace(0, 0, 0, 0), flush=True); input()"


class Ticking:
    """A watchdog over two workers that lets three looks pass, and its clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.dog = Watchdog(2, 3 * LOOK_EVERY, lambda: self.now)

    def looks(self, times: int, *beating: int) -> list[int]:
        """What so many looks find, before each of which some workers beat."""
        found = []
        for _ in range(times):
            self.now += LOOK_EVERY
            for number in beating:
                self.dog.beat(number)
            found += self.dog.look()
        return found


def test_who_falls_silent_is_found_after_a_while_and_again_after_another() -> None:
    watched = Ticking()
    assert watched.looks(300, 0, 1) == []
    assert watched.looks(2, 1) == []
    assert watched.looks(1, 1) == [0]
    assert watched.looks(2, 1) == []
    assert watched.looks(1, 1) == [0]
    assert watched.looks(3) == [0, 1]


def test_who_has_not_begun_is_not_watched() -> None:
    watched = Ticking()
    assert watched.looks(100) == []
    assert watched.looks(1, 0) == []
    watched.dog.forget(0)
    assert watched.looks(100) == []
    assert watched.looks(1, 0) == []
    assert watched.looks(3) == [0]


def test_time_in_which_nobody_looked_is_held_against_nobody() -> None:
    watched = Ticking()
    assert watched.looks(2, 0, 1) == []
    for _ in range(2):
        watched.now += 1_000
        assert watched.dog.look() == []
        assert watched.dog.look() == []  # not due: such a look counts for nothing
        assert watched.dog.before_look() == LOOK_EVERY
    assert watched.looks(1, 0, 1) == []
    assert watched.looks(3, 1) == [0]


def test_a_debugger_is_noticed() -> None:
    assert not is_traced(os.getpid())
    with subprocess.Popen(
        [sys.executable, "-c", TRACED], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"0\n"
        assert is_traced(child.pid)
        child.communicate(b"\n")
    assert child.returncode == 0
    assert not is_traced(child.pid)
