"""Uploads to a directory: several processes, those that die, and a disk that is full."""

import asyncio
import fcntl
import io
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from watchly_adapters.filesystem import FilesystemImages
from watchly_adapters.testing.image_uploads import ClientGone, Pieces
from watchly_core.errors import Unavailable, UploadConflict
from watchly_core.images import Image
from watchly_core.journey import PENDING_FOR
from watchly_core.uploads import TICKET_FOR

pytestmark = pytest.mark.anyio

KEY = "3f9a" + "0" * 28
UPLOAD = f".uploads/{KEY}"


def files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_an_upload_lies_apart_from_images(tmp_path: Path) -> None:
    store = FilesystemImages(tmp_path / "made" / "by" / "it")
    await store.receive(KEY, Pieces(b"abc"), 0, 3)
    assert files(tmp_path) == [f"made/by/it/{UPLOAD}"]
    async with store.uploaded(KEY):
        pass
    assert files(tmp_path) == []


async def test_nothing_is_made_where_nothing_begins(tmp_path: Path) -> None:
    store = FilesystemImages(tmp_path / "images")
    with pytest.raises(UploadConflict):
        await store.receive(KEY, Pieces(b"abc"), 5, 8)
    assert await store.received(KEY) == 0
    assert not (tmp_path / "images").exists()
    await store.receive("0" * 32, Pieces(b"abc"), 0, 3)
    with pytest.raises(UploadConflict):
        await store.receive(KEY, Pieces(b"abc"), 5, 8)
    assert files(tmp_path) == [f"images/.uploads/{'0' * 32}"]


async def test_stores_on_one_directory_take_turns(tmp_path: Path) -> None:
    first, second, go_on = FilesystemImages(tmp_path), FilesystemImages(tmp_path), asyncio.Event()
    piece = Pieces(b"abc", waits=go_on)
    receiving = asyncio.ensure_future(first.receive(KEY, piece, 0, 6))
    await piece.given.wait()
    with pytest.raises(UploadConflict):
        await second.receive(KEY, Pieces(b"def"), 0, 6)
    go_on.set()
    assert await receiving == 3
    assert await second.received(KEY) == 3
    assert await second.receive(KEY, Pieces(b"def"), 3, 6) == 6
    async with first.uploaded(KEY) as file:
        assert file.read() == b"abcdef"


RECEIVING = """
import asyncio, sys
from pathlib import Path
from watchly_adapters.filesystem import FilesystemImages

async def content():
    yield bytes(3_000_000)
    print("written", flush=True)
    sys.stdin.read()

asyncio.run(FilesystemImages(Path(sys.argv[1])).receive(sys.argv[2], content(), 0, 4_000_000))
"""


async def test_after_a_kill_an_upload_goes_on(tmp_path: Path) -> None:
    store = FilesystemImages(tmp_path)
    with subprocess.Popen(  # noqa: ASYNC220 - nothing else runs on this loop, and it is the script above
        [sys.executable, "-c", RECEIVING, tmp_path, KEY], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == b"written\n"
        with pytest.raises(UploadConflict) as raised:
            await store.receive(KEY, Pieces(b"xyz"), 3_000_000, 4_000_000)
        assert raised.value.received == 3_000_000
        receiver.kill()
    assert await store.received(KEY) == 3_000_000
    assert await store.receive(KEY, Pieces(b"x" * 1_000_000), 3_000_000, 4_000_000) == 4_000_000
    async with store.uploaded(KEY) as file:
        assert file.read() == bytes(3_000_000) + b"x" * 1_000_000


@pytest.mark.parametrize("breaks", [None, ClientGone()])
async def test_a_full_disk_keeps_what_it_has_taken(tmp_path: Path, breaks: Exception | None) -> None:
    """And the client goes on from there when there is room again."""
    store, content = FilesystemImages(tmp_path), os.urandom(3_000_000)
    await store.receive(KEY, Pieces(content[:500_000]), 0, len(content))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_700_000, limits[1]))
    try:
        with pytest.raises((Unavailable, ClientGone)) as raised:
            await store.receive(KEY, Pieces(content[500_000:], breaks=breaks), 500_000, len(content))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert isinstance(raised.value, Unavailable)
    assert str(raised.value) == "image_store: file too large"
    there = await store.received(KEY)
    assert 500_000 <= there <= 1_700_000
    assert await store.receive(KEY, Pieces(content[there:]), there, len(content)) == len(content)
    async with store.uploaded(KEY) as file:
        assert file.read() == content


async def test_little_of_an_upload_is_held_in_memory(tmp_path: Path) -> None:
    """All the rest is in the file before more is asked for."""
    store, behind = FilesystemImages(tmp_path), []

    async def content() -> AsyncIterator[bytes]:
        for number in range(1, 200):
            yield bytes(65_536)
            behind.append(number * 65_536 - (tmp_path / UPLOAD).stat().st_size)

    assert await store.receive(KEY, content(), 0, 20_000_000) == 199 * 65_536
    assert max(behind) < 1_200_000
    assert max(behind) > 900_000, "a write for each chunk is many writes"


async def test_a_piece_is_refused_without_being_asked_for(tmp_path: Path) -> None:
    store = FilesystemImages(tmp_path)
    (tmp_path / ".uploads").write_bytes(b"in the way")
    piece = Pieces(b"abc")
    with pytest.raises(Unavailable):
        await store.receive(KEY, piece, 0, 3)
    assert piece.asked == 0


async def test_many_uploads_leave_no_open_file(tmp_path: Path) -> None:
    store = FilesystemImages(tmp_path)
    await store.receive(KEY, Pieces(b"abc"), 0, 3)
    before = open_files()
    for _ in range(30):
        await store.receive(KEY, Pieces(b"abc"), 0, 3)
        for start in (1, 2):
            with pytest.raises(UploadConflict):
                await store.receive(KEY, Pieces(b"abc"), start, 3)
        async with store.uploaded(KEY):
            with pytest.raises(UploadConflict):
                await store.receive(KEY, Pieces(b"abc"), 0, 3)
    assert open_files() <= before


async def test_an_upload_whose_image_was_kept_goes_when_no_ticket_can_be_completed_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash, or a commit whose reply was lost, leaves it where no sweep looks for it."""
    store, now = FilesystemImages(tmp_path), time.time
    await store.receive(KEY, Pieces(b"abc"), 0, 3)
    ends = (TICKET_FOR + PENDING_FOR).total_seconds()
    for later, there in ((ends + 3_600, 3), (2 * 86_400 + 60, 0)):
        monkeypatch.setattr(time, "time", lambda: now() + later)  # noqa: B023 - called in this round
        await store.put(KEY, io.BytesIO(b"abc"), Image(KEY, 1, 1, "png", 3))
        assert await store.received(KEY) == there


async def test_who_comes_second_hears_of_all_that_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it is dropped in that moment: to begin anew is the last that a client should do."""
    store, lock = FilesystemImages(tmp_path), fcntl.flock
    await store.receive(KEY, Pieces(b"abc"), 0, 3)

    def held_and_dropped(descriptor: int, operation: int) -> None:
        try:
            lock(descriptor, operation)
        except BlockingIOError:
            (tmp_path / UPLOAD).unlink()
            raise

    async with store.uploaded(KEY):
        monkeypatch.setattr(fcntl, "flock", held_and_dropped)
        with pytest.raises(UploadConflict) as raised:
            async with store.uploaded(KEY):
                pass
    assert raised.value.received == 3


class Held(io.BytesIO):
    """A source that waits for the test."""

    def __init__(self, go_on: threading.Event) -> None:
        super().__init__(b"abc")
        self.go_on, self.waits = go_on, threading.Event()

    def read(self, size: int | None = -1) -> bytes:
        self.waits.set()
        self.go_on.wait(30)
        return super().read(size)


async def test_an_upload_that_was_used_is_dropped_though_its_client_left_before_that(tmp_path: Path) -> None:
    store, go_on, used = FilesystemImages(tmp_path), threading.Event(), asyncio.Event()
    busy: list[asyncio.Future[None]] = []

    async def use() -> None:
        async with store.uploaded(KEY):
            for number in range(4):  # as many as write at a time
                key, source = f"{number:032x}", Held(go_on)
                busy.append(asyncio.ensure_future(store.put(key, source, Image(key, 1, 1, "png", 3))))
                await asyncio.to_thread(source.waits.wait, 30)

            used.set()

    await store.receive(KEY, Pieces(b"abc"), 0, 3)
    using = asyncio.ensure_future(use())
    await used.wait()
    using.cancel()
    await asyncio.wait({using}, timeout=0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await using
    await asyncio.gather(*busy)
    assert await store.received(KEY) == 0
