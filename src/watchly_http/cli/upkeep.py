"""Commands that look after a catalogue: its schema, its images, its log."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from watchly_core.errors import Misconfigured, Unavailable
from watchly_http.cli.console import (
    duration,
    read_settings,
    refuse_memory,
    require_postgres,
    run,
    run_until_told,
    say,
    stoppable,
)

if TYPE_CHECKING:
    import asyncio

    from watchly_adapters.settings import Settings


@click.command()
def migrate() -> None:
    """Bring the database's schema up to date; `serve` does so as well.

    \b
    Example:
      DATABASE_URL=postgresql://user:password@localhost/movies watchly migrate
    """
    from watchly_http.running import running_database

    settings = read_settings()
    require_postgres(settings)
    with running_database(settings) as (_, applied):
        for name in applied:
            say(f"applied {name}")
        if not applied:
            say("the schema is up to date")


@click.command()
@click.option("--retry-dead", is_flag=True, help="Try those again that were given up after many tries.")
@click.option("--every", metavar="TIME", help="Sweep again and again, so often, until told to stop.")
def sweep(*, retry_dead: bool, every: str | None) -> None:
    """Delete the images that are due from their store: discarded ones and uploads that were given up.

    Drops as well what is good no longer: receipts, sessions, counts of attempts to sign in, API keys,
    keys that signed tokens, and the events that LOG_RETENTION keeps no longer. A `serve` that has images
    does all that by itself every SWEEP_INTERVAL. Of all processes that sweep so, one does at a time.

    \b
    Examples:
      watchly sweep
      watchly sweep --retry-dead
      watchly sweep --every 30s
    """
    from watchly_http.running import running_database

    interval = None if every is None else _interval(every)
    settings = read_settings()
    refuse_memory(settings)
    if interval is None:
        with running_database(settings) as (prepared, _):
            run(_sweep(prepared, retry_dead=retry_dead))
        return
    if retry_dead:
        raise click.UsageError("say one of --retry-dead and --every")
    _sweep_on(settings, interval)


def _interval(text: str) -> timedelta:
    interval = duration("--every", text, "30s")
    if not interval:
        raise Misconfigured("--every must be more than 0; an example: --every 30s")
    return interval


def _sweep_on(settings: Settings, interval: timedelta) -> None:
    import msgspec

    from watchly_http import logs
    from watchly_http.running import entered, running_database, showing_metrics
    from watchly_http.sweeping import sweeping

    async def go_on(stop: asyncio.Event) -> None:
        async with entered(prepared, is_watched=True) as container:
            parts = (container.database(), container.gallery(), container.catalogue())
            with showing_metrics(container):
                async with sweeping(*parts, prepared, at_once=True):
                    say("sweeping")
                    await stop.wait()

    settings = msgspec.structs.replace(settings, sweep_interval=interval)
    logs.configure(settings)
    with stoppable(), running_database(settings) as (prepared, _):
        run_until_told(go_on)


async def _sweep(settings: Settings, *, retry_dead: bool) -> None:
    from watchly_http.running import entered
    from watchly_http.sweeping import drop_old, turn_to_sweep

    deleted = failed = dead = 0
    reasons: dict[str, None] = {}
    async with entered(settings) as container, turn_to_sweep(container.database()):
        pruned = await drop_old(container.database(), container.catalogue(), settings)
        if settings.log_retention is not None:
            say(f"events pruned: {pruned}")
        if retry_dead:
            await container.gallery().revive()
        while True:
            report = await container.gallery().sweep()
            deleted, failed, dead = deleted + report.deleted, failed + report.failed, dead + report.dead
            reasons |= dict.fromkeys(report.reasons)
            # What failed would not do better at once.
            if not report.deleted:
                break
    say(f"images deleted: {deleted}, to be tried again: {failed - dead}")
    if dead:
        say(f"images given up: {dead}; `watchly sweep --retry-dead` tries them again")
    if failed:
        raise Unavailable("image_store", "; ".join(reasons))


@click.command()
def reindex() -> None:
    """Make the rows searchable that other programs wrote; `serve` and `migrate` do so when they start.

    \b
    Example:
      watchly reindex
    """
    from watchly_adapters.postgres import migrate
    from watchly_adapters.postgres.migrate import pending
    from watchly_adapters.postgres.reindex import reindex as fill
    from watchly_adapters.postgres.reindex import waiting
    from watchly_http.running import started

    settings = read_settings()
    require_postgres(settings)
    with started(settings) as running:
        url = str(running.database_url)
        filled = 0
        if run(pending(url)):
            # Migrating fills the rows as well.
            found = run(waiting(url))
            run(migrate(url))
            filled = found - run(waiting(url))
        say(f"movies indexed: {filled + run(fill(url))}")


@click.command()
@click.option("--check", is_flag=True, help="Compare, and restore nothing.")
@click.option("--apply", is_flag=True, help="Make the table what the log says.")
def rebuild(*, check: bool, apply: bool) -> None:
    """Compare the table of movies with the log of events, or restore it from there.

    Before that the log is told what other programs wrote to the table, as `migrate` does.
    Ends with 1 where --check finds a difference.

    \b
    Examples:
      watchly rebuild --check
      watchly rebuild --apply
    """
    import msgspec

    from watchly_adapters.postgres.rebuild import rebuild as compare
    from watchly_http.running import started

    if check == apply:
        raise click.UsageError("say what to do: --check or --apply")
    settings = read_settings()
    require_postgres(settings)
    with started(settings) as running:
        found = run(compare(str(running.database_url), apply=apply))
    for name, count in msgspec.structs.asdict(found).items():
        click.echo(f"{name}: {count}")
    if apply:
        say("the table is what the log says")
    elif not found.agree:
        raise SystemExit(1)


@click.command()
def doctor() -> None:
    """Show what is configured, and whether each part answers.

    \b
    Example:
      watchly doctor
    """
    from watchly_http.doctor import examine

    if not examine(read_settings()):
        sys.exit(1)
