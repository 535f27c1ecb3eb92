"""Commands that put a catalogue aside, and bring it back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from watchly_core.errors import Misconfigured, Unavailable
from watchly_http.cli.console import read_settings, require_postgres, run, say

if TYPE_CHECKING:
    from watchly_adapters.archives import Archive, Manifest
    from watchly_adapters.backups import Advance, Backup
    from watchly_adapters.settings import Settings

#: Keys of lost images that are named.
_NAMED = 5


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def backup(file: Path) -> None:
    """Write the whole database and the images to FILE (tar), as they are at one moment.

    FILE appears when it is complete, and only you can read it: it holds password hashes and the secrets of
    webhooks. The secret that seals signing keys is not in it (SECRET_KEY, or the file secret_key of an
    embedded home): keep that elsewhere, or let everybody's access tokens end when a backup is restored.

    Readers and writers go on meanwhile; what is due is not deleted before it is done. Images at Cloudinary
    stay there, and the backup says where. Ends with 1, with FILE complete, if an image is lost, and
    without a new FILE if all are: then the image store is likely another one.

    \b
    Example:
      watchly backup watchly-$(date +%F).tar
    """
    from watchly_adapters.backups import back_up
    from watchly_http.files import completed, moving
    from watchly_http.running import entered, started
    from watchly_http.sweeping import turn_to_sweep

    settings = _read_settings()
    # Where there is to be room for all of it; a device is no folder's file.
    spool = file.parent if file.is_file() or not file.exists() else None

    async def write(running: Settings, out: IO[bytes], advance: Advance) -> Backup:
        async with entered(running) as container, turn_to_sweep(container.database()):
            images = container.images()
            return await back_up(str(running.database_url), images, out, spool=spool, advance=advance)

    with ExitStack() as stack:
        stack.enter_context(_naming(file))
        out = stack.enter_context(completed(file, private=True))
        running = stack.enter_context(started(settings))
        advance = stack.enter_context(moving(file.name))
        made = run(write(running, out, advance))
    _tell(made.manifest)
    if made.lost:
        named = ", ".join(made.lost[:_NAMED]) + (" …" if len(made.lost) > _NAMED else "")
        raise Unavailable(
            "image_store", f"images that movies show are lost or cut short: {len(made.lost)} ({named})"
        )


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def restore(file: Path) -> None:
    """Restore the backup FILE into an empty home, or an empty database and an empty image store.

    All of FILE is checked before anything is written; then all of it is restored, or nothing. Images go
    where the settings say. Those at Cloudinary have stayed there, and the settings must name that cloud: the
    restored catalogue takes the place of the old one, for each deletes images that are due.

    A backup of an earlier version is migrated; owners and rights of tables become those of whoever
    restores. Access tokens stay good only with the secret of the old catalogue.

    \b
    Examples:
      WATCHLY_HOME=/srv/new watchly restore watchly-2026-11-22.tar
      DATABASE_URL=postgresql://user:password@localhost/new watchly restore watchly-2026-11-22.tar
    """
    from watchly_adapters.archives import Archive
    from watchly_adapters.backups import restore as bring_back
    from watchly_adapters.container import unwatched
    from watchly_http.files import moving
    from watchly_http.running import closing_parts, started

    settings = _read_settings()

    async def read(running: Settings, archive: Archive, advance: Advance) -> list[str]:
        container = unwatched(running)
        async with closing_parts(container):
            return await bring_back(archive, str(running.database_url), container.images(), advance=advance)

    with _naming(file), file.open("rb", buffering=0) as opened:
        size = file.stat().st_size
        with moving(f"checking {file.name}", size) as advance:
            archive = Archive(opened, str(file), advance)
        with started(settings) as running, moving(f"restoring {file.name}", size) as advance:
            applied = run(read(running, archive, advance))
    for name in applied:
        say(f"applied {name}")
    _tell(archive.manifest)


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Let errors of what is read and written by its descriptor name the file."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, error.filename or str(file)) from error


def _read_settings() -> Settings:
    from watchly_adapters.settings import MEMORY

    settings = read_settings()
    require_postgres(settings)
    if settings.image_store_url == MEMORY:
        raise Misconfigured("IMAGE_STORE_URL=memory: keeps nothing between commands; name another store")
    return settings


def _tell(manifest: Manifest) -> None:
    images = f"images: {manifest.images} ({manifest.image_bytes:,} bytes)"
    if manifest.images_at is not None:
        images = f"images stay at {manifest.images_at}"
    say(f"movies: {manifest.movies}, events: {manifest.events}, {images}")
