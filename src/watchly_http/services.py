"""Services: the parts of the API that can be deployed apart, and what each of them takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final, NamedTuple

from litestar import Controller

from watchly_adapters.container import Container
from watchly_adapters.databases import Kept
from watchly_adapters.settings import SERVICES as ALL
from watchly_adapters.settings import Service, Settings
from watchly_core.errors import Misconfigured
from watchly_core.ports import ImageFiles, ImageNotifications
from watchly_core.threads import Threads
from watchly_http.api_keys import ApiKeyController
from watchly_http.changes import ChangeController, HistoryController
from watchly_http.feed import Feed
from watchly_http.image_files import ImageFileController
from watchly_http.images import MovieImageController
from watchly_http.movies import GenreController, MovieController
from watchly_http.people import MeController, UserController
from watchly_http.sessions import KeySetController, SessionController
from watchly_http.sweeping import sweeping
from watchly_http.transfers import TransferController
from watchly_http.webhooks import NotificationController

#: Imports whose rows are read at a time; those of others wait.
_ROW_THREADS: Final = 2


#: What services need of a database that not every one keeps.
NEEDS: Final[Mapping[Service, Kept]] = {"images": "images", "people": "people"}


def offered(settings: Settings, keeps: Collection[Kept]) -> frozenset[Service]:
    """The services that SERVICE names, or if it is not set all for which the database keeps what they need.

    Raises:
        Misconfigured: the settings ask for more than it keeps.
    """
    lacking = {service for service, kept in NEEDS.items() if kept not in keeps}
    if settings.service != ALL and (more := sorted(settings.service & lacking)):
        raise Misconfigured(
            f"SERVICE names {more[0]}, and the store of DATABASE_URL keeps none; an example: SERVICE=movies"
        )
    if settings.auth and settings.jwks_url is None and "people" in lacking:
        raise Misconfigured("the store of DATABASE_URL keeps no people, and AUTH is on; an example: AUTH=off")
    if settings.relay and "relays" not in keeps:
        raise Misconfigured(
            "the store of DATABASE_URL keeps no targets, and RELAY is on; an example: RELAY=off"
        )
    if "receipts" not in keeps:
        raise Misconfigured(
            "the store of DATABASE_URL keeps no receipts of writes, which a service needs;"
            " an example: DATABASE_URL=postgresql://user:password@localhost/watchly"
        )
    return settings.service - lacking


class Mounted(NamedTuple):
    """What a service has: routes, what their handlers ask for by name, and what goes on beside them."""

    controllers: tuple[type[Controller], ...]
    parts: Mapping[str, object]
    beside: Callable[[], AbstractAsyncContextManager[None]] | None = None


def _movies(container: Container) -> Mounted:
    database, catalogue = container.database(), container.catalogue()
    gallery = container.gallery() if "images" in database.keeps else None
    return Mounted(
        (MovieController, GenreController, TransferController),
        {
            "catalogue": catalogue,
            "reading": container.reading(),
            "gallery": gallery,
            "row_threads": Threads(_ROW_THREADS, "watchly-rows"),
            "import_turns": asyncio.Semaphore(_ROW_THREADS),
        },
        # Who has images sweeps; without them receipts have to go all the same.
        None if gallery else lambda: sweeping(database, None, catalogue, container.settings()),
    )


def _images(container: Container) -> Mounted:
    store, catalogue, gallery = container.images(), container.catalogue(), container.gallery()
    return Mounted(
        (
            MovieImageController,
            *((ImageFileController,) if isinstance(store, ImageFiles) else ()),
            *((NotificationController,) if isinstance(store, ImageNotifications) else ()),
        ),
        {"catalogue": catalogue, "gallery": gallery},
        lambda: sweeping(container.database(), gallery, catalogue, container.settings()),
    )


def _people(container: Container) -> Mounted:
    return Mounted(
        (SessionController, KeySetController, MeController, UserController, ApiKeyController),
        {
            "accounts": container.accounts(),
            "sessions": container.sessions(),
            "api_keys": container.api_keys(),
            "signing_keys": container.signing_keys(),
        },
    )


def _changes(container: Container) -> Mounted:
    catalogue = container.catalogue()
    feed = Feed(catalogue, container.database().signal)
    return Mounted(
        (HistoryController, ChangeController),
        {"catalogue": catalogue, "reading": container.reading(), "feed": feed},
        feed.running,
    )


#: How each service is mounted, in the order of its routes.
SERVICES: Final[Mapping[Service, Callable[[Container], Mounted]]] = {
    "movies": _movies,
    "images": _images,
    "changes": _changes,
    "people": _people,
}
