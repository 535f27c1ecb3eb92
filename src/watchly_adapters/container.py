"""The composition root: which adapter plays which role, by the settings.

The only module that knows dependency-injector. `override` a provider to put something else in its place.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import unquote, urlsplit

from dependency_injector import containers, providers

from watchly_adapters.settings import MEMORY, Settings
from watchly_core import Catalogue, Gallery
from watchly_core.errors import Misconfigured
from watchly_core.ports import ChangeSignal, ImageInspector, ImageStore, MovieQueries, Transactions

#: Where this service hears from an image store elsewhere that an upload has arrived.
NOTIFICATIONS: Final = "/webhooks/cloudinary"


class Database(AbstractAsyncContextManager["Database"], Protocol):
    """What a database adapter offers; it is entered while the application runs."""

    @property
    def queries(self) -> MovieQueries:
        """The read side."""
        ...

    @property
    def transactions(self) -> Transactions:
        """The write side."""
        ...

    @property
    def signal(self) -> ChangeSignal:
        """Tells of new changes, those of other processes as well, while the database is entered."""
        ...

    async def ping(self) -> None:
        """Ask for a sign of life.

        Raises:
            Unavailable: there is none.
        """
        ...

    def alone(self, task: str) -> AbstractAsyncContextManager[bool]:
        """Whether no other process is at `task` until the block ends.

        Raises:
            Unavailable: the database does not answer.
        """
        ...


def make_database(settings: Settings) -> Database:
    """The database that DATABASE_URL names; a program that runs the embedded one puts its URL there."""
    if settings.in_memory:
        from watchly_adapters.memory import MemoryDatabase

        return MemoryDatabase()
    if settings.database_url is None:
        raise Misconfigured("DATABASE_URL is not set, and nobody started the embedded database")
    from watchly_adapters.postgres import PostgresDatabase

    # All workers together stay below the hundred connections of a stock server.
    return PostgresDatabase(settings.database_url, max_size=max(2, min(10, 90 // settings.workers)))


def make_images(settings: Settings) -> ImageStore:
    """The image store that IMAGE_STORE_URL or the CLOUDINARY_ variables name, else files below the home."""
    url = settings.image_store_url or (MEMORY if settings.in_memory else None)
    secret = settings.secret_key.encode() if settings.secret_key else None
    if url == MEMORY:
        from watchly_adapters.memory import MemoryImages

        return MemoryImages(base_url=settings.public_url, secret=secret)
    if url is not None and url.startswith("cloudinary:"):
        from watchly_adapters.cloudinary import CloudinaryImages

        told = f"{settings.public_url}{NOTIFICATIONS}" if settings.public_url else None
        return CloudinaryImages.from_url(url, notification_url=told)
    from watchly_adapters.filesystem import FilesystemImages

    directory = settings.home / "images" if url is None else Path(unquote(urlsplit(url).path))
    return FilesystemImages(directory, base_url=settings.public_url, secret=secret)


def make_inspector() -> ImageInspector:
    """What looks into images."""
    from watchly_adapters.pillow import PillowInspector

    return PillowInspector()


class Container(containers.DeclarativeContainer):
    """Every part of a running Watchly, made once, when it is first asked for."""

    settings = providers.Dependency(instance_of=Settings)
    database = providers.Singleton(make_database, settings)
    images = providers.Singleton(make_images, settings)
    inspector = providers.Singleton(make_inspector)
    catalogue = providers.Singleton(
        Catalogue,
        database.provided.queries,
        database.provided.transactions,
        images=images,
        image_grace=settings.provided.image_grace,
    )
    gallery = providers.Singleton(
        Gallery,
        database.provided.queries,
        database.provided.transactions,
        images,
        inspector,
        max_bytes=settings.provided.max_image_bytes,
        grace=settings.provided.image_grace,
    )
