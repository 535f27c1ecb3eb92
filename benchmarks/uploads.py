"""Many large images sent at once to `watchly serve`: memory of its workers, and what readers notice.

An image is a PNG of noise in chunks of 8 KiB, the size that libpng writes, which is walked, decoded and kept
as any other. Readers ask for movies at the same modest rate before, during and after the uploads. Senders
and readers are processes beside the server, on the same cores, so that ratios say more than milliseconds;
senders, who would be on other machines, give way to all others.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import re
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, NamedTuple, Self

from transfers import BINARIES, database, watchly

UPLOADS: Final = 20
BYTES: Final = 500_000_000
WORKERS: Final = 2
#: Readers with a connection each, how many requests a second each of them sends, and how many requests all
#: of them send while nothing else happens, each time.
READERS: Final = 8
RATE: Final = 25.0
QUIET: Final = 3_000
SAMPLED_EVERY: Final = 0.1
#: The bytes of pixels in a chunk, and those of a pixel: three colours of 16 bits.
CHUNK: Final = 8192
PIXEL: Final = 6
DECODER: Final = b"watchly_adapters.pillow.decoder"
#: How much senders give way, and seconds for which they wait for a reply.
SENDERS_NICE: Final = 10
PATIENCE: Final = 1_200


class Sent(NamedTuple):
    """An upload: the reply, and the seconds until it came."""

    status: int
    body: bytes
    seconds: float


class Memory(NamedTuple):
    """Bytes of a process: all that it sees in memory, and its share of that."""

    rss: int
    pss: int


def write_image(path: Path, size: int) -> None:
    """A PNG of noise that takes almost `size` bytes and cannot be made smaller."""
    width = max(1, math.isqrt(size // PIXEL))
    # Chunks add their heads, and deflate those of its stored blocks.
    room = (size - 1_000) * CHUNK // (CHUNK + 14)
    height = max(1, room // (PIXEL * width + 1))
    with path.open("wb") as file:

        def chunk(kind: bytes, content: bytes) -> None:
            checksum = zlib.crc32(content, zlib.crc32(kind))
            file.write(struct.pack(">L4s", len(content), kind) + content + struct.pack(">L", checksum))

        file.write(b"\x89PNG\r\n\x1a\n")
        chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, 16, 2, 0, 0, 0))
        deflate, held = zlib.compressobj(0), bytearray()
        for _ in range(height):
            held += deflate.compress(b"\0" + os.urandom(PIXEL * width))
            while len(held) >= CHUNK:
                chunk(b"IDAT", bytes(held[:CHUNK]))
                del held[:CHUNK]
        held += deflate.flush()
        for at in range(0, len(held), CHUNK):
            chunk(b"IDAT", bytes(held[at : at + CHUNK]))
        chunk(b"IEND", b"")


@contextmanager
def serving(home: Path, spools: Path, **environment: str) -> Iterator[tuple[str, int]]:
    """The address and the process of a running server, whose uploads wait in `spools`.

    Nobody has to sign in, unless `environment` says something else.
    """
    with subprocess.Popen(
        [str(BINARIES / "watchly"), "serve", "--port", "0", "--workers", str(WORKERS)],
        env={**os.environ, "WATCHLY_HOME": str(home), "TMPDIR": str(spools), "AUTH": "off", **environment},
        stdout=subprocess.DEVNULL,  # the key of a first start
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            lines = iter(process.stderr or ())
            address = next(filter(None, (re.search(r"answers at http://([^/\s]+)", line) for line in lines)))
            with ThreadPoolExecutor(1) as log:
                log.submit(deque, lines, 0)  # it would fill the pipe
                try:
                    yield address[1], process.pid
                finally:
                    process.terminate()
        finally:
            process.terminate()


class Watch:
    """Looks at the memory of a server's workers again and again, and apart from them at their decoders."""

    def __init__(self, server: int) -> None:
        self._server = server
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._first: dict[int, Memory] = {}
        self._most: dict[int, Memory] = {}
        self._decoders: set[int] = set()
        self._looked = 0

    def __enter__(self) -> Self:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def show(self) -> None:
        """Print how much it was at first, and at the most."""
        print(f"Memory, looked at {self._looked:,} times, every {SAMPLED_EVERY} s; first, most, growth in MB")
        for pid in sorted(self._most, key=lambda pid: (pid in self._decoders, pid)):
            first, most = self._first[pid], self._most[pid]
            kinds = (
                (kind, before, after) for kind, before, after in zip(("RSS", "PSS"), first, most, strict=True)
            )
            figures = (f"{kind} {a / 1e6:5.0f} {b / 1e6:5.0f} {(b - a) / 1e6:+5.0f}" for kind, a, b in kinds)
            who, wanted = ("decoder", "") if pid in self._decoders else ("worker", "  (wanted: below +150)")
            print(f"  {who:8} {'   '.join(figures)}{wanted}")

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLED_EVERY):
            self._look()

    def _look(self) -> None:
        self._looked += 1
        for worker in children(self._server):
            self._note(worker)
            for decoder in children(worker):
                if DECODER in proc(decoder, "cmdline"):
                    self._decoders.add(decoder)
                    self._note(decoder)

    def _note(self, pid: int) -> None:
        rss = re.search(rb"^VmRSS:\s+(\d+)", proc(pid, "status"), re.MULTILINE)
        pss = re.search(rb"^Pss:\s+(\d+)", proc(pid, "smaps_rollup"), re.MULTILINE)
        if rss and pss:
            now = Memory(int(rss[1]) * 1024, int(pss[1]) * 1024)
            self._first.setdefault(pid, now)
            most = self._most.get(pid, now)
            self._most[pid] = Memory(max(most.rss, now.rss), max(most.pss, now.pss))


def proc(pid: int, name: str) -> bytes:
    """What the kernel says of a process; nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def children(pid: int) -> list[int]:
    """The processes that the threads of a process have started."""
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    return [
        int(child) for thread in threads for child in proc(pid, f"task/{thread.parent.name}/children").split()
    ]


def request(connection: HTTPConnection, target: str, method: str = "GET") -> tuple[HTTPResponse, bytes]:
    """The reply to a request that has no body."""
    connection.request(method, target)
    reply = connection.getresponse()
    return reply, reply.read()


def ask(host: str, ids: Sequence[int], least: int, orders: Connection) -> None:
    """Tell the milliseconds of each of `least` requests for movies or more, until there is an order to end.

    A request that is late because the one before it took long counts from when it was due, or from one
    pause ago: readers wait for replies, so they do not queue up.
    """
    each = math.ceil(least / READERS)

    def read_on(number: int) -> list[float]:
        connection = HTTPConnection(host)
        taken: list[float] = []
        pause = 1 / RATE
        due = time.perf_counter() + pause * number / READERS
        while len(taken) < each or not ended.is_set():
            if (early := due - time.perf_counter()) > 0:
                time.sleep(early)
                due = time.perf_counter()
            reply, _ = request(connection, f"/api/movies/{random.choice(ids)}")
            if reply.status != 200:  # noqa: PLR2004 - OK
                raise SystemExit(f"a movie: {reply.status}")
            taken.append(1_000 * (time.perf_counter() - due))
            due = max(due + pause, time.perf_counter() - pause)
        return taken

    ended = threading.Event()
    with ThreadPoolExecutor(READERS) as pool:
        readers = [pool.submit(read_on, number) for number in range(READERS)]
        orders.recv()
        ended.set()
        orders.send([milliseconds for reader in readers for milliseconds in reader.result()])


@contextmanager
def asking(host: str, ids: Sequence[int], least: int = 1) -> Iterator[list[float]]:
    """What readers wait during the block, and beyond it as long as it takes for `least` requests."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=ask, args=(host, ids, least, theirs), daemon=True)
    process.start()
    theirs.close()
    taken: list[float] = []
    yield taken
    ours.send("end")
    taken += ours.recv()
    process.join()


def send(host: str, path: Path, ids: Sequence[int], results: Connection) -> None:
    """Send an image to each of these movies, to all of them at once."""
    os.nice(SENDERS_NICE)
    size = path.stat().st_size

    def upload(number: int) -> Sent:
        name, port = host.rsplit(":", 1)
        started = time.perf_counter()
        with socket.create_connection((name, int(port)), PATIENCE) as connection, path.open("rb") as file:
            head = f"PUT /api/movies/{number}/image HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/png\r\n"
            connection.sendall(f"{head}Content-Length: {size}\r\n\r\n".encode())
            connection.sendfile(file)
            reply = HTTPResponse(connection)
            reply.begin()
            return Sent(reply.status, reply.read(), time.perf_counter() - started)

    with ThreadPoolExecutor(len(ids)) as pool:
        results.send(list(pool.map(upload, ids)))


def sent(host: str, path: Path, ids: Sequence[int]) -> list[Sent]:
    """What became of the uploads."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=send, args=(host, path, ids, theirs), daemon=True)
    process.start()
    theirs.close()
    results: list[Sent] = ours.recv()
    process.join()
    return results


def kept(host: str, ids: Sequence[int], size: int) -> int:
    """How many of these movies show an image of so many bytes that is there."""
    connection = HTTPConnection(host)
    count = 0
    for number in ids:
        image = json.loads(request(connection, f"/api/movies/{number}")[1])["image"]
        if image is not None and image["bytes"] == size:
            reply, _ = request(connection, f"/images/{image['key']}", "HEAD")
            count += reply.status == 200 and reply.headers["Content-Length"] == str(size)  # noqa: PLR2004 - OK
    return count


def p99(milliseconds: Sequence[float]) -> float:
    return sorted(milliseconds)[math.ceil(0.99 * len(milliseconds)) - 1]


def show_times(times: dict[str, list[float]]) -> None:
    """Print what readers waited."""
    print(f"GET /api/movies/{{id}}, {READERS} connections, {READERS * RATE:.0f} requests/s; milliseconds")
    for name, taken in times.items():
        print(
            f"  {name:8} {len(taken):7,} requests   median {statistics.median(taken):7.2f}"
            f"   p99 {p99(taken):7.2f}   most {max(taken):7.2f}"
        )
    quiet, during = times["before"] + times["after"], times["during"]
    median = statistics.median(during) / statistics.median(quiet)
    print(
        f"  during over before and after: median {median:.2f},"
        f" p99 {p99(during) / p99(quiet):.2f} (wanted: at most 3)"
    )


def run(folder: Path, uploads: int, size: int, quiet: int) -> None:
    """Print all figures."""
    image, spools = folder / "image.png", folder / "spools"
    if shutil.disk_usage(folder).free < (2 * uploads + 3) * size:
        raise SystemExit(f"{folder} has no room for {uploads} images of {size:,} bytes, each of them twice")
    write_image(image, size)
    size = image.stat().st_size
    spools.mkdir()
    with database(folder) as (_, home):
        watchly(home, "import", "--sample")
        with serving(home, spools) as (host, server):
            ids = [
                movie["id"]
                for movie in json.loads(request(HTTPConnection(host), "/api/movies?limit=200")[1])["data"]
            ]
            targets, read = ids[:uploads], ids[uploads:]
            with asking(host, read, READERS * WORKERS * 50):
                pass  # connections are made, and statements prepared
            times: dict[str, list[float]] = {}
            with asking(host, read, quiet) as times["before"]:
                pass
            with Watch(server) as watch, asking(host, read) as times["during"]:
                results = sent(host, image, targets)
            left = spools_in(spools)
            with asking(host, read, quiet) as times["after"]:
                pass
            there = kept(host, targets, size)
    answered = sum(result.status == 200 for result in results)  # noqa: PLR2004 - OK
    seconds = max(result.seconds for result in results)
    print(f"{uploads} uploads of {size:,} bytes at once, {WORKERS} workers, filesystem store")
    print(f"  {answered} answered 200, {there} images are there, {left} files left among the spools")
    print(
        f"  {seconds:.1f} s, {uploads * size / seconds / 1e6:.0f} MB/s;"
        f" the quickest {min(result.seconds for result in results):.1f} s"
    )
    watch.show()
    show_times(times)
    if answered != uploads or there != uploads or left:
        failed = [result for result in results if result.status != 200]  # noqa: PLR2004 - OK
        raise SystemExit(
            f"{answered} of {uploads} answered, {there} are there, {left} left over: {failed[:1]}"
        )


def spools_in(folder: Path) -> int:
    """The files there; the folder in which workers count lies beside them."""
    return sum(path.is_file() for path in folder.iterdir())


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--uploads", type=int, default=UPLOADS, help="images that are sent at once")
    given.add_argument("--bytes", type=int, default=BYTES, help="the size of each")
    given.add_argument(
        "--requests", type=int, default=QUIET, help="requests before, and again after the uploads"
    )
    options = given.parse_args()
    # The files are large: they go also when this process is told to.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory() as name:
        run(Path(name), options.uploads, options.bytes, options.requests)


if __name__ == "__main__":
    main()
