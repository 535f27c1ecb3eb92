"""Commands that run something: the service, and what helps to develop against it."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Final

import click

from watchly_core.errors import Misconfigured, WatchlyError
from watchly_http.cli.console import read_settings, run, say, stoppable

if TYPE_CHECKING:
    from watchly_adapters.settings import Settings
    from watchly_core.api_keys import ApiKeys

#: Seconds in which all is loaded, also on a slow machine.
_LOADED_WITHIN: Final = 5.0
#: Seconds between looks whether all is loaded.
_LOOK_EVERY: Final = 0.1
#: Seconds that a replica has to answer at the start.
_PATIENCE: Final = 3.0
#: Addresses that only this machine reaches.
_LOOPBACK: Final = (ip_network("127.0.0.0/8"), ip_network("::1"))


@click.command()
@click.option("--host", help="Address to listen at (HOST).")
@click.option("--port", type=click.IntRange(0, 65_535), help="Port to listen at (PORT); 0 takes a free one.")
@click.option("--workers", type=click.IntRange(1, 512), help="Processes that answer requests (WORKERS).")
def serve(host: str | None, port: int | None, workers: int | None) -> None:
    """Serve the REST API until it is told to stop.

    On a new home it makes an API key for an administrator, and prints it once.

    \b
    Examples:
      watchly serve
      watchly serve --port 8080 --workers 4
      DATABASE_URL=memory: watchly serve
    """
    with stoppable() as end_if_told:
        sys.exit(_serve(host, port, workers, end_if_told))


def _serve(host: str | None, port: int | None, workers: int | None, end_if_told: Callable[[], None]) -> int:
    import msgspec

    from watchly_http import logs
    from watchly_http.running import serving, traits

    settings = read_settings()
    settings = msgspec.structs.replace(
        settings,
        host=host or settings.host,
        port=settings.port if port is None else port,
        # The fakes live in the memory of one process.
        workers=1 if settings.in_memory else workers or settings.workers,
    )
    _refuse_open(settings)
    logs.configure(settings)
    # The framework takes as long to load as the database to start: do both at once.
    loading = threading.Thread(target=_load, daemon=True)
    loading.start()
    try:
        with ExitStack() as stack:
            prepared, keep = serving(settings, stack)
            if prepared.is_brought and traits(prepared).for_one_process:
                prepared = msgspec.structs.replace(prepared, workers=1)
            if prepared.in_postgres:
                run(_look_around(prepared, own=settings.database_url is None))
            while loading.is_alive():
                end_if_told()
                loading.join(_LOOK_EVERY)
            return _run(prepared, keep, end_if_told)
    finally:
        # A module that is still loading takes the end of the interpreter for a fault. One may load for ever,
        # for a signal in the midst of another import can leave Python's own lock of it behind.
        loading.join(_LOADED_WITHIN)


def _load() -> None:
    """Load what every worker needs: once, and before they part, so that they share its memory."""
    importlib.import_module("watchly_http.app")
    # Whoever has no libraries for accounts is told so by the container.
    with suppress(ImportError):
        importlib.import_module("watchly_adapters.security.passwords")
        importlib.import_module("watchly_adapters.security.tokens")


def _run(settings: Settings, keep: Callable[[], None] | None, end_if_told: Callable[[], None]) -> int:
    import structlog
    from litestar import Litestar

    from watchly_adapters.container import Container
    from watchly_adapters.tallies import Tallies
    from watchly_http.app import create_app
    from watchly_http.server import serve as serve_workers

    def load_app() -> Litestar:
        container = Container(settings=settings)
        app = create_app(container)
        if settings.auth and settings.in_memory:
            app.on_startup.append(partial(_show_first_key, container.api_keys()))
        return app

    def tell(url: str) -> None:
        log = structlog.stdlib.get_logger("watchly.serving")
        if not settings.auth:
            log.warning("AUTH is off: everybody may do everything")
        if settings.rate_limit is not None and settings.valkey_url is None:
            log.info(
                "there is no VALKEY_URL, so each worker counts for itself, and all let through so many times"
                " what RATE_LIMIT says",
                workers=settings.workers,
            )
        say(f"Watchly answers at {url} (documentation: {url}/docs)")

    with Tallies() as tallies:
        end_if_told()  # from here on the server hears of signals
        return serve_workers(
            load_app,
            host=settings.host,
            port=settings.port,
            workers=settings.workers,
            drain_timeout=settings.drain_timeout.total_seconds(),
            notice=1.0 if settings.environment == "production" else 0.0,
            on_listening=tell,
            on_birth=tallies.join,
            on_death=tallies.forget,
            keep=keep,
        )


def _refuse_open(settings: Settings) -> None:
    """Refuse to let other machines in where everybody may do everything.

    Raises:
        Misconfigured: they would be let in.
    """
    if not settings.auth and not _is_loopback(settings.host):
        raise Misconfigured(
            f"AUTH is off, which is for this machine alone, and HOST is {settings.host};"
            " an example: HOST=127.0.0.1"
        )


def _is_loopback(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return host.lower() == "localhost"
    return any(address in network for network in _LOOPBACK)


async def _look_around(settings: Settings, *, own: bool) -> None:
    """Make the first API key in a home of its `own`, and warn of what does not work as it is set."""
    import asyncio

    import msgspec
    import structlog

    from watchly_adapters.container import unwatched
    from watchly_adapters.postgres.replicas import bytes_behind

    log = structlog.stdlib.get_logger("watchly.serving")
    if settings.read_database_url is not None:
        try:
            async with asyncio.timeout(_PATIENCE):
                await bytes_behind(settings.read_database_url, str(settings.database_url))
        except (WatchlyError, TimeoutError) as error:
            reason = str(error) or f"no answer within {_PATIENCE:g} s"
            log.warning("the replica does not answer, and the primary answers all reads", reason=reason)
    if not settings.auth:
        return
    container = unwatched(msgspec.structs.replace(settings, read_database_url=None))
    async with container.database():
        if own:
            await _show_first_key(container.api_keys())
        if settings.jwks_url is None:
            opened, found = await container.signing_keys().opened()
            if found and not opened:
                log.warning("SECRET_KEY opens no signing key, so what they signed is refused", keys=found)


async def _show_first_key(api_keys: ApiKeys) -> None:
    """Make the first API key where nobody could write otherwise, and show it."""
    first = await api_keys.add_first()
    if first is not None:
        say("An API key for an administrator, which is shown this once:")
        click.echo(first.secret)


@click.group()
def dev() -> None:
    """Tools for development."""


@dev.command()
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=0, help="Port to listen at; 0 takes a free one."
)
def cloudinary(port: int) -> None:
    """Run a small Cloudinary on this machine, which forgets everything when it stops.

    \b
    Example:
      watchly dev cloudinary --port 5001
    """
    from watchly_adapters.testing.cloudinary import run_cloudinary

    run_cloudinary(port, show=click.echo, say=say)
