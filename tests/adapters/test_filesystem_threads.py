"""What the store on a directory does in which thread, so that nobody waits who need not."""

import asyncio
import io
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from types import BuiltinFunctionType, FrameType
from typing import IO

import pytest

from watchly_adapters.filesystem import FilesystemImages
from watchly_adapters.testing.image_files import THUMBNAIL, Rendering, rendered
from watchly_adapters.testing.image_uploads import Pieces
from watchly_core.errors import ImageNotFound, ImageTooLarge
from watchly_core.images import Image
from watchly_core.threads import Threads

pytestmark = pytest.mark.anyio

KEY = "3f9a" + "0" * 28
SMALL = Image(KEY, 1, 1, "png", 3)
LARGE = Image(KEY, 1, 1, "png", 3_000_000)


@contextmanager
def calling() -> Iterator[list[BuiltinFunctionType]]:
    """The functions in C that this thread, the event loop's, calls."""
    called: list[BuiltinFunctionType] = []

    def note(_frame: FrameType, event: str, function: object) -> None:
        if event == "c_call" and isinstance(function, BuiltinFunctionType):
            called.append(function)

    sys.setprofile(note)
    try:
        yield called
    finally:
        sys.setprofile(None)


@contextmanager
def closing_no_file() -> Iterator[None]:
    """This thread must close none: the last to close one that was dropped frees it."""
    with calling() as called:
        yield
    assert os.close not in called
    assert not any(call.__name__ == "close" and isinstance(call.__self__, io.FileIO) for call in called)


async def test_an_upload_that_was_used_is_freed_by_a_thread(tmp_path: Path) -> None:
    store = FilesystemImages(tmp_path)
    await store.receive(KEY, Pieces(b"abc"), 0, 3)
    with closing_no_file():
        async with store.uploaded(KEY) as file:
            assert file.read() == b"abc"
    assert await store.received(KEY) == 0


async def test_an_upload_that_is_deleted_while_it_is_used_in_vain_is_freed_by_a_thread(
    tmp_path: Path,
) -> None:
    store = FilesystemImages(tmp_path)
    await store.receive(KEY, Pieces(b"abc"), 0, 3)

    async def use() -> None:
        async with store.uploaded(KEY):
            await store.delete(KEY)
            raise ImageNotFound

    with closing_no_file(), pytest.raises(ImageNotFound):
        await use()


async def test_an_upload_that_is_too_large_is_freed_by_a_thread(tmp_path: Path) -> None:
    store = FilesystemImages(tmp_path)
    with closing_no_file(), pytest.raises(ImageTooLarge):
        await store.receive(KEY, Pieces(b"abc", b"d"), 0, 3)


async def test_an_image_that_is_deleted_while_it_is_read_is_freed_by_a_thread(tmp_path: Path) -> None:
    store = FilesystemImages(tmp_path)
    await store.put(KEY, io.BytesIO(bytes(3_000_000)), LARGE)
    with closing_no_file():
        async with store.read(KEY) as file:
            await store.delete(KEY)
            assert sum([len(chunk) async for chunk in file.chunks()]) == 3_000_000


async def test_all_of_a_small_image_takes_one_turn_of_a_thread(tmp_path: Path) -> None:
    store, rendering = FilesystemImages(tmp_path), Rendering()
    await store.put(KEY, io.BytesIO(b"abc"), SMALL)
    await store.render(KEY, THUMBNAIL, rendering)
    for rendition, content in ((None, b"abc"), (THUMBNAIL, rendered(b"abc"))):
        with calling() as called:
            assert await store.content(KEY, rendition, at_most=100) == content
        assert [call.__name__ for call in called if isinstance(call.__self__, SimpleQueue)] == ["put"]
        assert {os.open, os.fstat, os.read, os.close, os.stat}.isdisjoint(called)


async def test_an_image_that_is_deleted_while_it_is_rendered_is_freed_by_a_thread(tmp_path: Path) -> None:
    store, rendering = FilesystemImages(tmp_path), Rendering()

    async def render(original: IO[bytes]) -> bytes:
        await store.delete(KEY)
        return await rendering(original)

    await store.put(KEY, io.BytesIO(b"abc"), SMALL)
    with closing_no_file(), pytest.raises(ImageNotFound):
        await store.render(KEY, THUMBNAIL, render)


class Watched(io.BytesIO):
    """A source that notes by whom it is read, and how many such are read at a time."""

    now = most = 0
    nice: set[int]

    def read(self, size: int | None = -1) -> bytes:
        Watched.now += 1
        Watched.most = max(Watched.most, Watched.now)
        self.nice = {os.getpriority(os.PRIO_PROCESS, threading.get_native_id())}
        os.sched_yield()
        Watched.now -= 1
        return super().read(size)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread has no priority of its own")
async def test_large_images_step_back_and_small_ones_do_not(tmp_path: Path) -> None:
    store, usual = FilesystemImages(tmp_path), os.getpriority(os.PRIO_PROCESS, 0)
    for image, nice in ((LARGE, min(usual + 10, 19)), (SMALL, usual)):
        source = Watched(b"abc")
        await store.put(KEY, source, image)
        assert source.nice == {nice}
    assert os.getpriority(os.PRIO_PROCESS, 0) == usual


async def test_large_images_are_copied_one_after_another(tmp_path: Path) -> None:
    store, sources = FilesystemImages(tmp_path), [Watched(bytes(3_000_000)) for _ in range(6)]
    await asyncio.gather(*(store.put(f"{n:032x}", source, LARGE) for n, source in enumerate(sources)))
    assert Watched.most == 1


async def test_a_call_that_is_made_in_any_case_is_made_for_those_who_left_before_their_turn() -> None:
    threads, go_on, made = Threads(1, "tests"), threading.Event(), threading.Event()
    ahead = asyncio.ensure_future(threads.run(go_on.wait))
    calls = [
        asyncio.ensure_future(threads.finish(made.set)),
        asyncio.ensure_future(threads.lend(lambda _: pytest.fail("nobody waits for it"))),
    ]
    for _ in range(3):
        await asyncio.sleep(0)
        for call in calls:
            call.cancel()
    await asyncio.wait(calls, timeout=0)
    assert not calls[0].done()
    assert not made.is_set()
    go_on.set()
    await asyncio.wait([ahead, *calls])
    assert made.is_set()
    assert all(call.cancelled() for call in calls)
