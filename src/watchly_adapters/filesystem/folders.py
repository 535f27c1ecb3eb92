"""Where the files of a directory of images lie, and how they get there whole."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from watchly_core.errors import Unavailable
from watchly_core.images import Rendition, is_key, require_key

#: A file that was not touched for this long was left behind by a crash: its source is a file as well, so
#: that a living writer never pauses.
STALE_SECONDS: Final = 3600

#: And an upload by a crash, or a commit whose reply was lost, after its image was kept: a ticket is good
#: for an hour, and can be completed within a day after that.
STALE_UPLOAD_SECONDS: Final = 2 * 24 * 3600

#: How many files of a folder one writer looks at.
_CLEARED_AT_ONCE: Final = 100


class Folders:
    """The folders of a directory. All calls touch the disk, but those that only name a path.

    Args:
        directory: made when something is first written, if it is missing.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._incoming = directory / ".incoming"
        self._uploads = directory / ".uploads"
        self._leftovers = (
            Leftovers(self._incoming, STALE_SECONDS),
            Leftovers(self._uploads, STALE_UPLOAD_SECONDS),
        )
        #: Names alone: there may be 65,536 folders, and their paths would take three times as much.
        self._durable: set[str] = set()

    def original(self, key: str) -> Path:
        """Where the image of this key lies.

        Raises:
            ValueError: `key` has not the form of a key.
        """
        require_key(key)
        return self._directory.joinpath(key[:2], key[2:4], key)

    def keys(self) -> Iterator[str]:
        """The keys of all images that are there."""
        for path in self._directory.glob("[0-9a-f][0-9a-f]/[0-9a-f][0-9a-f]/*"):
            if is_key(path.name):
                yield path.name

    def rendition(self, key: str, rendition: Rendition) -> Path:
        """Where a rendition of it lies."""
        return self.original(key).with_name(f"{key}.{rendition.name}")

    def renditions(self, key: str) -> Sequence[Path]:
        """All its renditions that are there, also those that this version does not make."""
        with suppress(FileNotFoundError), os.scandir(self.original(key).parent) as entries:
            return [Path(entry.path) for entry in entries if entry.name.startswith(f"{key}.")]
        return []

    def upload(self, key: str) -> Path:
        """Where what was uploaded for this key lies.

        Raises:
            ValueError: `key` has not the form of a key.
        """
        require_key(key)
        return self._uploads / key

    @contextmanager
    def writing(self, target: Path) -> Iterator[int]:
        """A descriptor of a new file, which takes the place of `target` when the block ends normally."""
        self.make(self._incoming)
        self.make(target.parent)
        for leftovers in self._leftovers:
            leftovers.clear()
        descriptor, name = tempfile.mkstemp(prefix=f"{target.name}-", suffix=".part", dir=self._incoming)
        try:
            try:
                # mkstemp keeps its files private; other services may serve these.
                os.fchmod(descriptor, 0o644)
                yield descriptor
            finally:
                os.close(descriptor)
            Path(name).replace(target)
        except BaseException:
            with suppress(FileNotFoundError):
                Path(name).unlink()
            raise

    def make(self, folder: Path) -> None:
        """Make `folder` and what is missing above it, and see that the way to it survives a crash."""
        try:
            folder.mkdir()
            made = True
        except FileExistsError:
            made = False
        except FileNotFoundError:
            self.make(folder.parent)
            folder.mkdir(exist_ok=True)
            made = True
        # A folder that another writer has just made may not be durable yet, so the first use syncs as well.
        name = "/".join(folder.parts[len(self._directory.parts) :])  # empty for what is not in the directory
        if made or (name and name not in self._durable):
            sync(folder.parent)
            self._durable.add(name)


class Leftovers:
    """What crashes left in a folder: of its files a few are looked at each time, until it was all of them.

    Args:
        folder: it may be missing.
        stale_seconds: a file that was not touched for longer is a leftover.
    """

    def __init__(self, folder: Path, stale_seconds: int) -> None:
        self._folder = folder
        self._stale_seconds = stale_seconds
        self._to_see: list[str] = []
        self._using = threading.Lock()

    def clear(self) -> None:
        """Look at some; one that cannot be dropped is nobody's trouble now."""
        oldest = time.time() - self._stale_seconds
        with suppress(OSError):
            for name in self._next():
                path = self._folder / name
                with suppress(FileNotFoundError):
                    # Not the time of its content, which a rendition has from its original.
                    if path.lstat().st_ctime < oldest:
                        path.unlink()

    def _next(self) -> Sequence[str]:
        with self._using:
            if not self._to_see:
                self._to_see = [path.name for path in self._folder.iterdir()]
            names = self._to_see[-_CLEARED_AT_ONCE:]
            del self._to_see[-_CLEARED_AT_ONCE:]
        return names


def sync(folder: Path) -> None:
    """Wait until what was made, renamed and dropped in `folder` is durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def translating() -> Iterator[None]:
    """Turn what the disk says into an error of the catalogue."""
    try:
        yield
    except OSError as error:
        # Its own text names the path, which is nobody's business outside.
        detail = os.strerror(error.errno) if error.errno else "the disk failed"
        raise Unavailable("image_store", detail.lower()) from error
