"""What only the store on a directory promises: crashes, a full disk, closed directories, many at once."""

import asyncio
import io
import os
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from watchly_adapters.filesystem import FilesystemImages
from watchly_adapters.filesystem.files import copy
from watchly_adapters.filesystem.folders import Folders
from watchly_adapters.testing.image_uploads import Pieces
from watchly_core.errors import Unavailable
from watchly_core.images import Image, StoredImage, new_key

pytestmark = pytest.mark.anyio

KEY = "3f9a" + "0" * 28
IMAGE = Image(KEY, 1, 1, "png", 3)
LARGE = Image(KEY, 1, 1, "png", 3_000_000)

HOUR = 3600


def files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def leftover(directory: Path, name: str) -> Path:
    path = directory / ".incoming" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half")
    return path


@contextmanager
def later(seconds: float) -> Iterator[None]:
    """That much later by the clock: when a file was last touched cannot be forged."""
    now = time.time
    with pytest.MonkeyPatch.context() as clock:
        clock.setattr(time, "time", lambda: now() + seconds)
        yield


def run(script: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


async def test_only_images_make_a_directory_more_than_empty(tmp_path: Path) -> None:
    directory = tmp_path / "images"
    store = FilesystemImages(directory)
    assert await store.is_empty()
    leftover(directory, f"{KEY}-x.part")
    (directory / "lost+found").mkdir()
    (directory / "README").write_text("of somebody")
    assert await store.is_empty()
    await store.put(KEY, io.BytesIO(b"png"), IMAGE)
    assert not await store.is_empty()
    await store.delete(KEY)
    assert await store.is_empty()


async def test_images_are_spread_over_folders_and_readable_by_other_services(tmp_path: Path) -> None:
    store = FilesystemImages(tmp_path / "made" / "by" / "put")
    await store.put(KEY, io.BytesIO(b"abc"), IMAGE)
    assert files(tmp_path) == [f"made/by/put/3f/9a/{KEY}"]
    path = tmp_path / "made/by/put/3f/9a" / KEY
    assert path.read_bytes() == b"abc"
    assert path.stat().st_mode & 0o777 == 0o644


async def test_nothing_is_made_before_the_first_put(tmp_path: Path) -> None:
    store = FilesystemImages(tmp_path / "images")
    assert await store.stat(KEY) is None
    await store.delete(KEY)
    assert not (tmp_path / "images").exists()


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("", f"/images/{KEY}"),
        ("https://a.example", f"https://a.example/images/{KEY}"),
        ("https://a.example/films/", f"https://a.example/films/images/{KEY}"),
    ],
)
def test_the_url_is_below_the_base(base_url: str, url: str) -> None:
    store = FilesystemImages(Path("anywhere"), base_url=base_url)
    assert store.url(KEY) == url


async def test_a_put_clears_what_a_crash_left(tmp_path: Path) -> None:
    store, left = FilesystemImages(tmp_path), leftover(tmp_path, "a.part")
    with later(HOUR - 60):
        await store.put(KEY, io.BytesIO(b"abc"), IMAGE)
        assert left.exists()
    with later(HOUR + 60):
        await store.put(KEY, io.BytesIO(b"abc"), IMAGE)
        assert not left.exists()


async def test_one_put_clears_only_so_much(tmp_path: Path) -> None:
    for number in range(150):
        leftover(tmp_path, f"{number}.part")
    store = FilesystemImages(tmp_path)
    left = []
    with later(HOUR + 60):
        for _ in range(2):
            await store.put(KEY, io.BytesIO(b"abc"), IMAGE)
            left.append(len(list((tmp_path / ".incoming").iterdir())))
    assert left == [50, 0]


async def test_young_files_hide_no_old_ones(tmp_path: Path) -> None:
    """The next put looks at those that the last one has not seen."""
    for number in range(150):
        leftover(tmp_path, f"{number}.part")
    store = FilesystemImages(tmp_path)
    await store.put(KEY, io.BytesIO(b"abc"), IMAGE)
    left = []
    with later(HOUR + 60):
        for _ in range(2):
            await store.put(KEY, io.BytesIO(b"abc"), IMAGE)
            left.append(len(list((tmp_path / ".incoming").iterdir())))
    assert left == [100, 0]


def test_a_file_that_bears_an_old_time_is_not_cleared_while_it_is_written(tmp_path: Path) -> None:
    """Renditions do: that of their original."""
    first, second = Folders(tmp_path), Folders(tmp_path)
    with first.writing(first.original(KEY)) as descriptor:
        os.utime(descriptor, (0, 0))
        for folders in (first, second):
            with folders.writing(folders.original("0" * 32)):
                pass
    assert first.original(KEY).stat().st_mtime == 0


def test_little_is_remembered_of_each_folder(elsewhere: Path) -> None:
    """There may be 65,536 of them."""
    folders, keys = Folders(elsewhere), [f"{number:04x}" + "0" * 28 for number in range(2_000)]
    tracemalloc.start()
    try:
        for key in keys:
            folders.make(folders.original(key).parent)
        assert tracemalloc.get_traced_memory()[0] < len(keys) * 180
    finally:
        tracemalloc.stop()


KILLED = """
import asyncio, io, sys
from pathlib import Path
from watchly_adapters.filesystem import FilesystemImages
from watchly_core.images import Image

class Endless(io.BytesIO):
    reads = 0
    def read(self, size=-1):
        self.reads += 1
        if self.reads == 3:
            print("written", flush=True)
            sys.stdin.read()
        return bytes(size)

key = sys.argv[2]
asyncio.run(FilesystemImages(Path(sys.argv[1])).put(key, Endless(), Image(key, 1, 1, "png", 3)))
"""


@pytest.mark.parametrize("before", [None, b"the image before"])
async def test_a_kill_in_the_middle_leaves_what_was_there(tmp_path: Path, before: bytes | None) -> None:
    store = FilesystemImages(tmp_path)
    if before is not None:
        await store.put(KEY, io.BytesIO(before), IMAGE)
    with subprocess.Popen(  # noqa: ASYNC220 - nothing else runs on this loop, and it is the script above
        [sys.executable, "-c", KILLED, tmp_path, KEY], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"written\n"
        writer.kill()
    assert await store.stat(KEY) == (None if before is None else StoredImage(len(before)))
    (part,) = (tmp_path / ".incoming").iterdir()
    assert part.name.startswith(f"{KEY}-")
    assert part.name.endswith(".part")
    with later(HOUR + 60):
        await store.put(KEY, io.BytesIO(b"abc"), IMAGE)
    assert files(tmp_path) == [f"3f/9a/{KEY}"]


LIMITED = """
import asyncio, io, resource, sys
from pathlib import Path
from watchly_adapters.filesystem import FilesystemImages
from watchly_core.errors import Unavailable
from watchly_core.images import Image

async def main():
    store, key = FilesystemImages(Path(sys.argv[1])), sys.argv[2]
    await store.put(key, io.BytesIO(b"abc"), Image(key, 1, 1, "png", 3))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    try:
        await store.put(key, io.BytesIO(bytes(3_000_000)), Image(key, 1, 1, "png", 3))
    except Unavailable as error:
        print(error.dependency, error)

asyncio.run(main())
"""


def test_a_disk_that_takes_no_more_keeps_what_was_there(tmp_path: Path) -> None:
    assert run(LIMITED, tmp_path, KEY) == "image_store image_store: file too large\n"
    assert files(tmp_path) == [f"3f/9a/{KEY}"]
    assert (tmp_path / "3f/9a" / KEY).read_bytes() == b"abc"


CLOSED = """
import asyncio, io, os, sys
from pathlib import Path
from watchly_adapters.filesystem import FilesystemImages
from watchly_core.errors import Unavailable
from watchly_core.images import Image

async def main():
    store, key = FilesystemImages(Path(sys.argv[1])), sys.argv[2]
    calls = [store.put(key, io.BytesIO(b"xyz"), Image(key, 1, 1, "png", 3)), store.delete(key)]
    for call in calls:
        try:
            await call
        except Unavailable as error:
            print(error)

if os.geteuid() == 0:
    os.setuid(65534)
asyncio.run(main())
"""


async def test_a_closed_directory_is_unavailable(tmp_path: Path) -> None:
    store = FilesystemImages(tmp_path)
    await store.put(KEY, io.BytesIO(b"abc"), IMAGE)
    for folder in (tmp_path / ".incoming", tmp_path / "3f/9a"):
        folder.chmod(0o500)
    assert run(CLOSED, tmp_path, KEY) == "image_store: permission denied\n" * 2
    assert await store.stat(KEY) == StoredImage(3)
    for folder in (tmp_path / ".incoming", tmp_path / "3f/9a"):
        folder.chmod(0o700)


async def test_a_directory_that_is_none_is_unavailable_and_not_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for directory in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/watchly")):
        with pytest.raises(Unavailable) as raised:
            await FilesystemImages(directory).put(KEY, io.BytesIO(b"abc"), IMAGE)
        assert raised.value.dependency == "image_store"
        assert str(directory) not in str(raised.value)
        assert KEY not in str(raised.value)


#: The kernel says that each of its files here has 4 KiB.
SAYS_TOO_MUCH = Path("/sys/kernel/uevent_seqnum")


@pytest.mark.skipif(not SAYS_TOO_MUCH.exists(), reason="only Linux has it")
async def test_a_file_that_has_less_than_it_says_is_not_given_in_part(tmp_path: Path) -> None:
    path = tmp_path / "3f/9a" / KEY
    path.parent.mkdir(parents=True)
    path.symlink_to(SAYS_TOO_MUCH)
    with pytest.raises(Unavailable, match="shorter"):
        await FilesystemImages(tmp_path).content(KEY, at_most=1_000_000)


async def test_what_is_no_file_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "3f/9a" / KEY).mkdir(parents=True)
    with pytest.raises(Unavailable) as raised:
        await FilesystemImages(tmp_path).content(KEY, at_most=1_000_000)
    assert str(tmp_path) not in str(raised.value)


async def test_a_source_that_fails_leaves_nothing(tmp_path: Path) -> None:
    source = io.BytesIO(b"abc")
    source.close()
    with pytest.raises(ValueError, match="closed"):
        await FilesystemImages(tmp_path).put(KEY, source, IMAGE)
    assert files(tmp_path) == []


class Slow(io.BytesIO):
    """A source in memory whose second chunk waits for the test."""

    def __init__(self) -> None:
        super().__init__(bytes(1_000_000))
        self.reads = 0
        self.waits = threading.Event()
        self.go_on = threading.Event()

    def read(self, size: int | None = -1) -> bytes:
        self.reads += 1
        if self.reads == 2:
            self.waits.set()
            self.go_on.wait()
        return super().read(size)


async def test_a_cancelled_put_is_done_with_its_source_and_leaves_nothing(tmp_path: Path) -> None:
    source = Slow()
    put = asyncio.ensure_future(FilesystemImages(tmp_path).put(KEY, source, IMAGE))
    await asyncio.to_thread(source.waits.wait)
    for _ in range(3):
        put.cancel()
        await asyncio.wait({put}, timeout=0)
        assert not put.done()
    source.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await put
    assert source.reads == 2
    assert files(tmp_path) == []


async def test_stores_on_one_directory_see_each_other(tmp_path: Path) -> None:
    first, second, key = FilesystemImages(tmp_path), FilesystemImages(tmp_path), new_key()
    await first.put(key, io.BytesIO(b"abc"), IMAGE)
    assert await second.stat(key) == StoredImage(3)
    await second.delete(key)
    assert await first.stat(key) is None


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A folder on another file system than the tests' own, where there is one."""
    shared = Path("/dev/shm")  # noqa: S108 - that is the point
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        yield Path(folder)


@pytest.mark.parametrize("size", [0, 1, 262_144, 262_145, 16_777_216, 40_000_001])
async def test_sources_of_all_kinds_are_copied_whole(tmp_path: Path, elsewhere: Path, size: int) -> None:
    store, content = FilesystemImages(tmp_path / "images"), os.urandom(size)
    for folder in (tmp_path, elsewhere):
        with (folder / "spool").open("w+b") as source:
            source.write(content)
            await store.put(KEY, source, IMAGE)
        assert (tmp_path / "images/3f/9a" / KEY).read_bytes() == content
    with (tmp_path / "spool").open("rb", buffering=0) as raw:
        raw.seek(7)
        await store.put(KEY, raw, IMAGE)
    assert (tmp_path / "images/3f/9a" / KEY).read_bytes() == content
    await store.put(KEY, io.BytesIO(content), IMAGE)
    assert (tmp_path / "images/3f/9a" / KEY).read_bytes() == content


@pytest.mark.parametrize("kind", [tempfile.TemporaryFile, io.BytesIO])
def test_a_copy_ends_when_nobody_waits_for_it(tmp_path: Path, kind: Callable[[], IO[bytes]]) -> None:
    stop, target = threading.Event(), tmp_path / "target"
    stop.set()
    with kind() as source, target.open("wb") as file:
        source.write(bytes(40_000_000))
        with pytest.raises(Unavailable, match="the caller left"):
            copy(source, file.fileno(), stop)
    assert target.stat().st_size < 20_000_000


async def test_slow_puts_hold_up_nobody_else(tmp_path: Path) -> None:
    store, keys = FilesystemImages(tmp_path), [new_key() for _ in range(20)]
    small = new_key()
    await store.put(KEY, io.BytesIO(b"abc"), IMAGE)
    sources = [Slow() for _ in keys]
    puts = [
        asyncio.ensure_future(store.put(key, source, LARGE))
        for key, source in zip(keys, sources, strict=True)
    ]
    await asyncio.to_thread(sources[0].waits.wait)
    try:
        async with asyncio.timeout(30):
            async with store.read(KEY) as file:
                assert [chunk async for chunk in file.chunks()] == [b"abc"]
            assert await store.stat(keys[0]) is None
            assert await store.receive(keys[0], Pieces(b"xyz"), 0, 3) == 3
            await store.put(small, io.BytesIO(b"abc"), IMAGE)
            await store.delete(KEY)
        assert not any(put.done() for put in puts)
    finally:
        for source in sources:
            source.go_on.set()
        await asyncio.wait(puts)


async def test_a_deletion_that_a_crash_cut_short_is_finished_by_the_next(tmp_path: Path) -> None:
    store = FilesystemImages(tmp_path)
    await store.put(KEY, io.BytesIO(b"abc"), IMAGE)
    path = tmp_path / "3f/9a" / KEY
    path.unlink()
    path.with_name(f"{KEY}.thumbnail.webp").write_bytes(b"small")
    path.with_name(f"{KEY}.of-a-later-version.jxl").write_bytes(b"small")
    await store.delete(KEY)
    assert files(tmp_path) == []
