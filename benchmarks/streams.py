"""From the commit of a change to the clients of `GET /api/changes/stream`, with many streams open.

Writer, readers and server are processes of their own on the same machine, so they share its cores and its
clock. A change counts from the time that it bears, which its transaction took before it was committed.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import multiprocessing
import re
import statistics
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from http.client import HTTPConnection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from transfers import database
from uploads import WORKERS, serving

STREAMS: Final = 500
WRITES: Final = 200
#: Writes a second.
RATE: Final = 10.0
#: Those whose times are not counted: connections are made, and statements prepared.
WARM: Final = 10
WANTED: Final = 100.0
#: Seconds for all that is to be opened, and for what arrives after the last write.
PATIENCE: Final = 60.0
CHANGE: Final = re.compile(rb'^data: \{"seq":(\d+),.*?"at":"([^"]+)"', re.MULTILINE)


async def follow(host: str, number: int, writes: int, opened: asyncio.Semaphore) -> list[tuple[float, bytes]]:
    """What one client gets, with the times at which it came."""
    name, port = host.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(name, int(port))
    writer.write(f"GET /api/changes/stream HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    head = await reader.readuntil(b"\n\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"stream {number}: {head.decode()}")
    opened.release()
    taken: list[tuple[float, bytes]] = []
    missing = writes
    while missing:
        piece = await reader.read(1 << 16)
        if not piece:
            raise SystemExit(f"stream {number} ended early")
        taken.append((time.time(), piece))
        missing -= piece.count(b"\ndata: ")
    writer.close()
    return taken


def told(taken: Sequence[tuple[float, bytes]]) -> list[tuple[int, float]]:
    """The numbers of the changes that came, and the milliseconds that each had been on its way."""
    text = b"".join(piece for _, piece in taken)
    ends: list[tuple[int, float]] = []
    length = 0
    for came, piece in taken:
        length += len(piece)
        ends.append((length, came))
    found = []
    position = 0
    for change in CHANGE.finditer(text):
        while ends[position][0] < change.end():
            position += 1
        at = datetime.fromisoformat(change[2].decode()).timestamp()
        found.append((int(change[1]), 1_000 * (ends[position][1] - at)))
    return found


async def follow_all(
    host: str, streams: int, writes: int, orders: Connection
) -> list[list[tuple[int, float]]]:
    opened = asyncio.Semaphore(0)
    clients = [asyncio.create_task(follow(host, number, writes, opened)) for number in range(streams)]
    async with asyncio.timeout(PATIENCE):
        for _ in range(streams):
            await opened.acquire()
    orders.send("open")
    return [told(await client) for client in clients]


def read(host: str, streams: int, writes: int, orders: Connection) -> None:
    """Follow with so many clients; say when all are there, and at the end what they got."""
    orders.send(asyncio.run(follow_all(host, streams, writes, orders)))


def write(host: str, writes: int, rate: float) -> None:
    """Add and revise movies, so many a second."""
    connection = HTTPConnection(host)
    due = time.perf_counter()
    for number in range(writes):
        body = b'{"title": "Film %d", "description": "%s"}' % (number, b"x" * 200)
        connection.request("POST", "/api/movies", body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        if reply.status != 201:  # noqa: PLR2004 - created
            raise SystemExit(f"a write: {reply.status} {reply.read(1_000)!r}")
        reply.read()
        due += 1 / rate
        time.sleep(max(0.0, due - time.perf_counter()))


def p99(milliseconds: Sequence[float]) -> float:
    return sorted(milliseconds)[math.ceil(0.99 * len(milliseconds)) - 1]


def run(folder: Path, streams: int, writes: int, rate: float) -> None:
    """Print the figures."""
    spools = folder / "spools"
    spools.mkdir()
    writes += WARM
    with database(folder) as (_, home), serving(home, spools) as (host, _):
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        readers = spawn.Process(target=read, args=(host, streams, writes, theirs), daemon=True)
        readers.start()
        theirs.close()
        ours.recv()
        writer = spawn.Process(target=write, args=(host, writes, rate), daemon=True)
        writer.start()
        writer.join()
        if not ours.poll(PATIENCE):
            raise SystemExit("some streams did not get all changes")
        results: list[list[tuple[int, float]]] = ours.recv()
        readers.join()
    wanted = list(range(1, writes + 1))
    wrong = sum([number for number, _ in each] != wanted for each in results)
    times = [taken for each in results for number, taken in each if number > WARM]
    last = [max(each[number][1] for each in results) for number in range(WARM, writes)]
    print(f"{streams} streams, {writes - WARM} writes at {rate:.0f}/s, {WORKERS} workers")
    print(f"  {streams - wrong} streams got every change once, in order")
    print("From just before the commit to the client; milliseconds")
    for name, taken in (("each client", times), ("the last one", last)):
        print(
            f"  {name:12} {len(taken):8,} times   median {statistics.median(taken):7.2f}"
            f"   p99 {p99(taken):7.2f}   most {max(taken):7.2f}"
        )
    print(f"  p99 {p99(times):.2f} ms (wanted: below {WANTED:.0f})")
    if wrong:
        raise SystemExit("some streams missed changes, or got them twice")


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--streams", type=int, default=STREAMS, help="streams that are open")
    given.add_argument("--writes", type=int, default=WRITES, help="changes that are made")
    given.add_argument("--rate", type=float, default=RATE, help="changes a second")
    options = given.parse_args()
    with tempfile.TemporaryDirectory() as name:
        run(Path(name), options.streams, options.writes, options.rate)


if __name__ == "__main__":
    main()
