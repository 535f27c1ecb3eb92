"""How lines reach whoever reads the log: whole, in order, and without anybody waiting for that."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from threading import Thread
from typing import Final

import pytest
from tests.services import wait_until

from watchly_http import log_lines
from watchly_http.log_lines import ROOM, Lines


def of_dropped(count: int) -> bytes:
    return b"dropped %d\n" % count


class Pipe:
    """A pipe, and what was read from it."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self.read = b""
        self._reader: Thread | None = None

    def begin_to_read(self) -> None:
        self._reader = Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while piece := os.read(self.reading, 65_536):
            self.read += piece

    def close(self) -> None:
        with suppress(OSError):
            os.close(self.writing)
        if self._reader is not None:
            self._reader.join()
        os.close(self.reading)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


@pytest.fixture
def gathering(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first, lines that are not urgent wait for others, for longer than any test."""
    monkeypatch.setattr(log_lines, "GATHERED", 3_600)


def test_lines_are_written_in_their_order(pipe: Pipe) -> None:
    lines = Lines(pipe.writing, of_dropped)
    pipe.begin_to_read()
    sent = [b"%d %s\n" % (number, b"x" * (number % 7 * 1_000)) for number in range(500)]

    for line in sent:
        lines.add(line)

    wait_until(lambda: pipe.read == b"".join(sent), "all of them are read")


@pytest.mark.usefixtures("gathering")
def test_an_urgent_line_takes_along_those_before_it(pipe: Pipe) -> None:
    lines = Lines(pipe.writing, of_dropped)
    pipe.begin_to_read()

    lines.add(b"first\n")
    wait_until(lambda: pipe.read == b"first\n", "it is read")
    lines.add(b"second\n")
    lines.add(b"third\n", urgent=True)

    wait_until(lambda: pipe.read == b"first\nsecond\nthird\n", "all of them are read")


@pytest.mark.usefixtures("gathering")
def test_a_flush_writes_what_waits_and_others_may_follow(pipe: Pipe) -> None:
    lines = Lines(pipe.writing, of_dropped)
    pipe.begin_to_read()

    lines.add(b"first\n")
    wait_until(lambda: pipe.read == b"first\n", "it is read")
    for line in (b"second\n", b"third\n"):
        lines.add(line)
        lines.flush()
        wait_until(lambda: pipe.read.endswith(line), "it is read")  # noqa: B023 - at once

    assert pipe.read == b"first\nsecond\nthird\n"


def test_nobody_waits_for_a_reader_that_stalls_and_what_is_dropped_is_counted(pipe: Pipe) -> None:
    lines = Lines(pipe.writing, of_dropped)
    line, urgent = b"x" * 999 + b"\n", b"!" * 999 + b"\n"
    many = 3 * ROOM // len(line)

    for _ in range(many):
        lines.add(line)
    for _ in range(100):
        lines.add(urgent, urgent=True)
    lines.flush(0.01)  # in vain, and not for long
    pipe.begin_to_read()

    def told() -> int:
        found = pipe.read.splitlines(keepends=True)
        dropped = sum(int(each.split()[1]) for each in found if each.startswith(b"dropped "))
        return found.count(line) + dropped

    wait_until(lambda: told() == many, "each is written or counted")
    assert pipe.read.count(line) < many
    # What is urgent has room of its own.
    assert pipe.read.count(urgent) == 100


def test_a_disk_that_is_full_costs_lines_and_says_how_many(pipe: Pipe) -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        lines = Lines(descriptor, of_dropped)
        for _ in range(3):
            lines.add(b"lost\n")
            lines.flush()
        os.dup2(pipe.writing, descriptor)
        pipe.begin_to_read()
        lines.add(b"there is room again\n")
        lines.flush()
        wait_until(lambda: b"dropped" in pipe.read, "it says so")
    finally:
        os.close(descriptor)

    # The first may come after a part of one that was lost.
    assert pipe.read == b"\nthere is room again\ndropped 3\n"


def test_a_descriptor_that_does_not_block_is_waited_for(pipe: Pipe) -> None:
    flags = fcntl.fcntl(pipe.writing, fcntl.F_GETFL)
    fcntl.fcntl(pipe.writing, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    lines = Lines(pipe.writing, of_dropped)
    sent = [b"%d %s\n" % (number, b"x" * 10_000) for number in range(100)]

    for line in sent:
        lines.add(line)
    pipe.begin_to_read()

    wait_until(lambda: pipe.read == b"".join(sent), "all of them are read")


#: Writes from several processes to a pipe that is full most of the time.
FAMILY: Final = """
import os, sys
from watchly_http.log_lines import Lines
import watchly_http.log_lines
watchly_http.log_lines.GATHERED = 0.001
lines = Lines(2, lambda count: b"dropped\\n")
lines.add(b"parent\\n")
children = []
for letter in b"abcd":
    if not (child := os.fork()):
        for length in range(1, 30_000, 997):
            lines.add(bytes([letter]) * length + b"\\n", urgent=length % 2 == 0)
        lines.flush(60)
        os._exit(0)
    children.append(child)
    lines.add(b"parent\\n")
for child in children:
    os.waitpid(child, 0)
"""


def test_lines_of_processes_that_were_forked_are_whole_and_nobody_writes_those_of_others() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FAMILY], stderr=subprocess.PIPE, check=True, text=True
    )

    found = done.stderr.splitlines()
    assert found.count("parent") == 5
    for letter in "abcd":
        lengths = [len(line) for line in found if re.fullmatch(f"{letter}+", line)]
        assert lengths == list(range(1, 30_000, 997))
    assert len(found) == 5 + 4 * len(lengths)


def test_what_waits_at_the_end_of_a_program_is_written() -> None:
    script = (
        "import watchly_http.log_lines as log_lines; log_lines.GATHERED = 3600;"
        "lines = log_lines.Lines(2, lambda count: b''); lines.add(b'first\\n'); lines.add(b'last\\n');"
        "import sys; sys.exit(7)"
    )
    done = subprocess.run([sys.executable, "-c", script], stderr=subprocess.PIPE, check=False, text=True)

    assert (done.returncode, done.stderr) == (7, "first\nlast\n")
