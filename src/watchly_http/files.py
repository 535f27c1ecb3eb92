"""Files that commands read and write."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import click

from watchly_core.imports import Form, Row, read_lines, read_rows


def form_of(path: Path) -> Form:
    """Whether a file's name says CSV or NDJSON."""
    forms: dict[str, Form] = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson"}
    try:
        return forms[path.suffix.lower()]
    except KeyError:
        raise click.UsageError(f"say --format csv or --format ndjson: the name {path} does not") from None


@contextmanager
def opened_rows(path: Path, form: Form, *, ignore_unknown: bool) -> Iterator[Iterable[Row]]:
    """The rows of a file, with a progress bar on a terminal."""
    with _opened(path) as file, _progress(path, read_lines(file)) as lines:
        yield read_rows(lines, form, ignore_unknown=ignore_unknown)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    with click.open_file(str(path), "rb") as file:
        if str(path) != "-":
            yield file
            return
        # Whoever writes to a pipe may take their time, and a transaction would be open meanwhile.
        with tempfile.TemporaryFile() as whole:
            shutil.copyfileobj(file, whole)
            whole.seek(0)
            yield whole


@contextmanager
def _progress(path: Path, lines: Iterable[bytes]) -> Iterator[Iterable[bytes]]:
    if str(path) == "-":
        yield lines
        return
    with moving(path.name, path.stat().st_size) as advance:

        def counted() -> Iterator[bytes]:
            for line in lines:
                advance(len(line))
                yield line

        yield counted()


@contextmanager
def moving(name: str, size: int | None = None) -> Iterator[Callable[[int], None]]:
    """What is told of bytes that were moved, of `size` in all if that is known; a terminal shows them."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(name, total=size)
        yield lambda moved: progress.advance(task, moved)


@contextmanager
def completed(path: Path, *, private: bool = False) -> Iterator[IO[bytes]]:
    """A file that takes the place of the one at `path` when it is complete, with its mode.

    Devices and pipes are written to, and links followed. A `private` one is for this user alone, whatever
    the mode was.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    # Not before: what leads to a pipe, as /dev/stdout may, leads to nothing that has a path.
    path = path.resolve()
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        # What is there under that name was left behind, or laid there by somebody who wants to read along.
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        if path.exists() and not private:
            shutil.copymode(path, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
