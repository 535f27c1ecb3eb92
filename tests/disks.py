"""Small disks of their own, that can be filled; to mount them takes a right that not everybody has."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


def mount(folder: Path, options: str) -> bool:
    """Mount one, if that is allowed; with `remount` among the options it becomes another."""
    command = ["mount", "-t", "tmpfs", "-o", options, "watchly-test", str(folder)]
    return subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 0


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A new folder that is a disk of this size, such as "20m"; whoever may mount nothing skips the test."""
    folder.mkdir(mode=0o711)
    if not mount(folder, f"size={size},mode=0711"):
        pytest.skip("whoever runs this may mount nothing")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write to this file until its disk is full."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1_000))
