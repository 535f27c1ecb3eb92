"""Renditions on a directory: several stores, processes that die, and what is left of other originals."""

import asyncio
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from watchly_adapters.filesystem import FilesystemImages, renditions
from watchly_adapters.testing.image_files import THUMBNAIL, Rendering, read, rendered
from watchly_core.errors import ImageNotFound, Unavailable
from watchly_core.images import Image

pytestmark = pytest.mark.anyio

KEY = "3f9a" + "0" * 28
IMAGE = Image(KEY, 1, 1, "png", 3)
ORIGINAL = f"3f/9a/{KEY}"
SMALL = f"{ORIGINAL}.thumbnail.webp"


def files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def put(store: FilesystemImages, content: bytes = b"abc") -> None:
    await store.put(KEY, io.BytesIO(content), IMAGE)


async def test_a_rendition_lies_beside_its_original(tmp_path: Path) -> None:
    store = FilesystemImages(tmp_path)
    await put(store)
    await store.render(KEY, THUMBNAIL, Rendering())
    assert files(tmp_path) == [ORIGINAL, SMALL]
    assert (tmp_path / SMALL).read_bytes() == rendered(b"abc")
    assert (tmp_path / SMALL).stat().st_mode & 0o777 == 0o644
    await store.delete(KEY)
    assert files(tmp_path) == []


async def test_stores_on_one_directory_render_one_after_another(tmp_path: Path) -> None:
    stores, rendering = [FilesystemImages(tmp_path) for _ in range(3)], Rendering(held=True)
    await put(stores[0])
    calls = [
        asyncio.ensure_future(store.render(KEY, THUMBNAIL, rendering)) for store in stores for _ in range(3)
    ]
    async with asyncio.timeout(30):
        await rendering.began.wait()
        assert rendering.most_at_once == 1
        rendering.go_on.set()
        await asyncio.gather(*calls)
    assert len(rendering.originals) == 1


HOLDING = """
import asyncio, sys
from pathlib import Path
from watchly_adapters.filesystem import FilesystemImages
from watchly_adapters.testing.image_files import THUMBNAIL

async def render(original):
    print("rendering", flush=True)
    sys.stdin.read()
    raise AssertionError("it was to be killed")

asyncio.run(FilesystemImages(Path(sys.argv[1])).render(sys.argv[2], THUMBNAIL, render))
"""


async def test_a_process_that_renders_is_waited_for_as_long_as_it_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, rendering = FilesystemImages(tmp_path), Rendering()
    await put(store)
    with subprocess.Popen(  # noqa: ASYNC220 - nothing else runs on this loop, and it is the script above
        [sys.executable, "-c", HOLDING, tmp_path, KEY], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"rendering\n"
        with monkeypatch.context() as impatient:
            impatient.setattr(renditions, "PATIENCE", 0.1)
            with pytest.raises(Unavailable, match="do not get done") as raised:
                await store.render(KEY, THUMBNAIL, rendering)
        assert raised.value.dependency == "image_store"
        assert rendering.originals == []
        waiting = asyncio.ensure_future(store.render(KEY, THUMBNAIL, rendering))
        await asyncio.wait({waiting}, timeout=0.1)
        assert not waiting.done()
        other.kill()
    async with asyncio.timeout(30):
        await waiting
    assert await read(store, KEY, THUMBNAIL) == rendered(b"abc")
    assert files(tmp_path) == [ORIGINAL, SMALL]


async def test_whoever_was_lent_the_original_holds_up_nobody(tmp_path: Path) -> None:
    """A decoder in another process has the open file, and may end later than its caller."""
    store, lent = FilesystemImages(tmp_path), []

    async def failing(original: IO[bytes]) -> bytes:
        lent.append(os.dup(original.fileno()))
        raise Unavailable("decoder", "it does not answer")

    await put(store)
    with pytest.raises(Unavailable):
        await store.render(KEY, THUMBNAIL, failing)
    async with asyncio.timeout(30):
        await store.render(KEY, THUMBNAIL, Rendering())
    for descriptor in lent:
        os.close(descriptor)


def _other_time(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def _drop(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("spoil", [_other_time, _drop])
async def test_a_rendition_of_another_original_does_not_count(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    """Such a one is left when the machine stops between two steps."""
    store = FilesystemImages(tmp_path)
    await put(store, b"before")
    await store.render(KEY, THUMBNAIL, Rendering())
    spoil(tmp_path / ORIGINAL)
    assert await read(store, KEY, THUMBNAIL) is None
    if await store.stat(KEY) is None:
        with pytest.raises(ImageNotFound):
            await store.render(KEY, THUMBNAIL, Rendering())
        await put(store, b"after")
        assert files(tmp_path) == [ORIGINAL]
    rendering = Rendering()
    await store.render(KEY, THUMBNAIL, rendering)
    assert len(rendering.originals) == 1
    assert await read(store, KEY, THUMBNAIL) == rendered(rendering.originals[0])


async def test_what_is_dropped_while_it_is_rendered_leaves_no_file(tmp_path: Path) -> None:
    store, held = FilesystemImages(tmp_path), Rendering(held=True)
    await put(store)
    rendering = asyncio.ensure_future(store.render(KEY, THUMBNAIL, held))
    async with asyncio.timeout(30):
        await held.began.wait()
        await store.delete(KEY)
        held.go_on.set()
        with pytest.raises(ImageNotFound):
            await rendering
    assert files(tmp_path) == []


async def test_originals_of_the_same_moment_are_told_apart(tmp_path: Path) -> None:
    """The clock of a file system stands still for some milliseconds, in which much can happen."""
    store, times = FilesystemImages(tmp_path), set()
    for number in range(20):
        await put(store, b"%d" % number)
        times.add((tmp_path / ORIGINAL).stat().st_mtime_ns)
    assert len(times) == 20


async def test_many_renderings_leave_no_open_file_and_no_memory_of_them(tmp_path: Path) -> None:
    store = FilesystemImages(tmp_path)
    await put(store)
    await store.render(KEY, THUMBNAIL, Rendering())
    before = open_files()
    for _ in range(50):
        await store.render(KEY, THUMBNAIL, Rendering())
        async with store.read(KEY, THUMBNAIL) as file:
            assert file.size
        with pytest.raises(ImageNotFound):
            await store.render("0" * 32, THUMBNAIL, Rendering())
    assert open_files() <= before
    assert files(tmp_path) == [ORIGINAL, SMALL]


async def test_a_rendition_that_cannot_be_kept_is_unavailable(tmp_path: Path) -> None:
    store = FilesystemImages(tmp_path)
    await put(store)
    (tmp_path / ".incoming").rmdir()
    (tmp_path / ".incoming").write_bytes(b"in the way")
    with pytest.raises(Unavailable, match="image_store"):
        await store.render(KEY, THUMBNAIL, Rendering())
    assert await read(store, KEY, THUMBNAIL) is None
    (tmp_path / ".incoming").unlink()
    async with asyncio.timeout(30):
        await store.render(KEY, THUMBNAIL, Rendering())
    assert await read(store, KEY, THUMBNAIL) == rendered(b"abc")
