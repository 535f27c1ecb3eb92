"""What only the store on a directory promises: crashes, a full disk, closed directories."""

import asyncio
import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from watchly_adapters.filesystem import FilesystemImages
from watchly_core.errors import Unavailable
from watchly_core.images import Image, new_key

pytestmark = pytest.mark.anyio

KEY = "3f9a" + "0" * 28
IMAGE = Image(KEY, 1, 1, "png", 3)


def files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def leftover(directory: Path, name: str, *, seconds_old: int) -> Path:
    path = directory / ".incoming" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half")
    then = path.stat().st_mtime - seconds_old
    os.utime(path, (then, then))
    return path


def run(script: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


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
    old = leftover(tmp_path, "a.part", seconds_old=3700)
    young = leftover(tmp_path, "b.part", seconds_old=3500)
    await FilesystemImages(tmp_path).put(KEY, io.BytesIO(b"abc"), IMAGE)
    assert not old.exists()
    assert young.exists()


async def test_one_put_clears_only_so_much(tmp_path: Path) -> None:
    for number in range(150):
        leftover(tmp_path, f"{number}.part", seconds_old=3700)
    store = FilesystemImages(tmp_path)
    left = []
    for _ in range(2):
        await store.put(KEY, io.BytesIO(b"abc"), IMAGE)
        left.append(len(list((tmp_path / ".incoming").iterdir())))
    assert left == [50, 0]


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
    assert await store.stat(KEY) == (None if before is None else len(before))
    (part,) = (tmp_path / ".incoming").iterdir()
    assert part.name.startswith(f"{KEY}-")
    assert part.name.endswith(".part")
    os.utime(part, (0, 0))
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
    assert await store.stat(KEY) == 3
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


async def test_a_source_that_fails_leaves_nothing(tmp_path: Path) -> None:
    source = io.BytesIO(b"abc")
    source.close()
    with pytest.raises(ValueError, match="closed"):
        await FilesystemImages(tmp_path).put(KEY, source, IMAGE)
    assert files(tmp_path) == []


class Slow(io.BytesIO):
    """A source whose second chunk waits for the test."""

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
    assert await second.stat(key) == 3
    await second.delete(key)
    assert await first.stat(key) is None
