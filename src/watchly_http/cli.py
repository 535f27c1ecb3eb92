"""The command line: ``watchly …``.

Data goes to stdout, talk to stderr. Modules are loaded by the command that needs them, so that help
comes at once.
"""

from __future__ import annotations

import asyncio
import importlib
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import ExitStack, aclosing
from pathlib import Path
from typing import IO, TYPE_CHECKING, Never

import click

from watchly_core.errors import (
    Fault,
    ImportRejected,
    Invalid,
    Misconfigured,
    Unavailable,
    WatchlyError,
)

if TYPE_CHECKING:
    from watchly_adapters.settings import Settings
    from watchly_core import MovieQuery
    from watchly_core.imports import Form, Rejection, Row

#: Rejected rows that a terminal is shown.
_SHOWN = 20
#: How the shell says that a process ended by a signal: 128 and its number.
_SIGNALLED = 128


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="watchly")
def cli() -> None:
    """Watchly keeps a movie catalogue.

    Settings come from the environment and a file .env. With none at all, a private PostgreSQL and
    image files are kept below WATCHLY_HOME.

    \b
    Examples:
      watchly serve
      watchly import --sample
      watchly export --format csv > movies.csv
    """


@cli.command()
@click.option("--host", help="Address to listen at (HOST).")
@click.option("--port", type=click.IntRange(0, 65_535), help="Port to listen at (PORT); 0 takes a free one.")
@click.option("--workers", type=click.IntRange(1, 512), help="Processes that answer requests (WORKERS).")
def serve(host: str | None, port: int | None, workers: int | None) -> None:
    """Serve the REST API until it is told to stop.

    \b
    Examples:
      watchly serve
      watchly serve --port 8080 --workers 4
      DATABASE_URL=memory: watchly serve
    """
    import msgspec

    from watchly_http import logs
    from watchly_http.running import serving

    settings = _settings()
    settings = msgspec.structs.replace(
        settings,
        host=host or settings.host,
        port=settings.port if port is None else port,
        # The fakes live in the memory of one process.
        workers=1 if settings.in_memory else workers or settings.workers,
    )
    logs.configure(settings)
    # The framework takes as long to load as the database to start: do both at once.
    loading = threading.Thread(target=importlib.import_module, args=("watchly_http.app",))
    loading.start()
    # Before there is anything to drain, every way of asking for a stop is the same.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        with ExitStack() as stack:
            prepared, keep = serving(settings, stack)
            loading.join()
            sys.exit(_run(prepared, keep))
    except KeyboardInterrupt:
        sys.exit(0)
    finally:
        loading.join()  # a module that is still loading takes the end of the interpreter for a fault


def _run(settings: Settings, keep: Callable[[], None] | None) -> int:
    from litestar import Litestar

    from watchly_adapters.container import Container
    from watchly_http.app import create_app
    from watchly_http.server import serve as serve_workers

    def load_app() -> Litestar:
        return create_app(Container(settings=settings))

    return serve_workers(
        load_app,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        drain_timeout=settings.drain_timeout.total_seconds(),
        notice=1.0 if settings.environment == "production" else 0.0,
        on_listening=lambda url: _say(f"Watchly answers at {url} (documentation: {url}/docs)"),
        keep=keep,
    )


@cli.command()
def migrate() -> None:
    """Bring the database's schema up to date; `serve` does so as well.

    \b
    Example:
      DATABASE_URL=postgresql://user:password@localhost/movies watchly migrate
    """
    from watchly_http.running import running_database

    settings = _settings()
    _refuse_memory(settings)
    with running_database(settings) as (_, applied):
        for name in applied:
            _say(f"applied {name}")
        if not applied:
            _say("the schema is up to date")


@cli.command(name="import")
@click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path), required=False
)
@click.option("--sample", is_flag=True, help="Import the bundled sample of films.")
@click.option(
    "--format", "form", type=click.Choice(["csv", "ndjson"]), help="What FILE is; else its name says."
)
@click.option(
    "--on-error",
    type=click.Choice(["abort", "skip"]),
    default="abort",
    show_default=True,
    help="Add nothing when a row breaks a rule, or leave such rows out.",
)
@click.option("--dry-run", is_flag=True, help="Check the rows and add nothing.")
@click.option(
    "--rejects",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write every rejected row's line and faults to this file, as NDJSON.",
)
@click.option("--ignore-unknown", is_flag=True, help="Pass over columns that are none of a movie's.")
def import_(  # noqa: PLR0913, PLR0917 - options
    file: Path | None,
    sample: bool,
    form: Form | None,
    on_error: str,
    dry_run: bool,
    rejects: Path | None,
    ignore_unknown: bool,
) -> None:
    """Add the movies of FILE (CSV with a header row, or NDJSON; - is stdin) in one transaction.

    Columns are title, description, release_year and genre, in any order.

    \b
    Examples:
      watchly import movies.csv
      watchly import --dry-run --rejects bad.ndjson movies.csv
      watchly import --on-error skip --format ndjson - < movies.ndjson
    """
    from watchly_http.files import form_of, opened_rows
    from watchly_http.running import running_database

    if (file is None) is not sample:
        raise click.UsageError("name a FILE or --sample, and not both")
    path = Path(__file__).with_name("sample.csv") if file is None else file
    if rejects and rejects.exists() and path.exists() and rejects.samefile(path):
        raise click.UsageError("--rejects names the file that is imported, and would empty it")
    form = form or form_of(path)
    settings = _settings()
    _refuse_memory(settings)
    with ExitStack() as stack:
        prepared, _ = stack.enter_context(running_database(settings))
        rows = stack.enter_context(opened_rows(path, form, ignore_unknown=ignore_unknown))
        rejected_to = stack.enter_context(rejects.open("wb")) if rejects else None
        asyncio.run(_import(prepared, rows, rejected_to, skip=on_error == "skip", dry_run=dry_run))


async def _import(
    settings: Settings, rows: Iterable[Row], rejects: IO[bytes] | None, *, skip: bool, dry_run: bool
) -> None:
    import msgspec

    from watchly_http.running import entered

    shown = 0

    def tell(rejection: Rejection) -> None:
        nonlocal shown
        if rejects:
            rejects.write(msgspec.json.encode(rejection) + b"\n")
        if shown < _SHOWN:
            _say(f"line {rejection.line}: {_list(rejection.errors)}")
        elif shown == _SHOWN and not rejects:
            _say("… and more; --rejects FILE writes them all")
        shown += 1

    async with entered(settings) as container:
        report = await container.catalogue().add_many(
            _each(rows), skip_invalid=skip, dry_run=dry_run, on_rejected=tell
        )
    verb = "would be added" if dry_run else "added"
    _say(f"movies {verb}: {report.added}, rows rejected: {report.rejected_total}")


@cli.command()
@click.option(
    "--format", "form", type=click.Choice(["csv", "ndjson"]), help="What to write; else --output's name says."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write to this file, which appears when it is complete.",
)
@click.option("--q", help="Words to search for in titles and descriptions.")
@click.option("--genre", help="The whole genre.")
@click.option("--release-year", type=int, help="The year of release.")
@click.option("--min-release-year", type=int, help="The first year of release.")
@click.option("--max-release-year", type=int, help="The last year of release.")
@click.option("--sort", help="What to sort by, such as title or -release_year,title.")
def export(  # noqa: PLR0913, PLR0917 - options
    form: Form | None,
    output: Path | None,
    q: str | None,
    genre: str | None,
    release_year: int | None,
    min_release_year: int | None,
    max_release_year: int | None,
    sort: str | None,
) -> None:
    """Write every movie, or those that are asked for, as NDJSON or CSV, in the form that `import` reads.

    \b
    Examples:
      watchly export > movies.ndjson
      watchly export -o movies.csv
      watchly export --genre Drama --min-release-year 1990 --sort -release_year,title
    """
    from watchly_core import MovieQuery
    from watchly_core.queries import read_sort
    from watchly_http.files import completed, form_of
    from watchly_http.running import running_database

    query = MovieQuery(
        q=q,
        genre=genre,
        release_year=release_year,
        min_release_year=min_release_year,
        max_release_year=max_release_year,
        sort=() if sort is None else read_sort(sort),
    )
    form = form or (form_of(output) if output else "ndjson")
    settings = _settings()
    _refuse_memory(settings)
    with running_database(settings) as (prepared, _):
        if output is None:
            asyncio.run(_export(prepared, query, form, sys.stdout.buffer))
            return
        with completed(output) as file:
            asyncio.run(_export(prepared, query, form, file))


async def _export(settings: Settings, query: MovieQuery, form: Form, out: IO[bytes]) -> None:
    from watchly_core.exports import write_csv, write_ndjson
    from watchly_http.running import entered

    write = write_csv if form == "csv" else write_ndjson
    async with entered(settings) as container, aclosing(write(container.catalogue().export(query))) as chunks:
        async for chunk in chunks:
            out.write(chunk)
    out.flush()


@cli.command()
@click.option("--retry-dead", is_flag=True, help="Try those again that were given up after many tries.")
def sweep(*, retry_dead: bool) -> None:
    """Delete the images that are due from their store: discarded ones and uploads that were given up.

    `serve` does so by itself every SWEEP_INTERVAL.

    \b
    Examples:
      watchly sweep
      watchly sweep --retry-dead
    """
    from watchly_http.running import running_database

    settings = _settings()
    _refuse_memory(settings)
    with running_database(settings) as (prepared, _):
        asyncio.run(_sweep(prepared, retry_dead=retry_dead))


async def _sweep(settings: Settings, *, retry_dead: bool) -> None:
    from watchly_http.running import entered

    deleted = failed = dead = 0
    reasons: dict[str, None] = {}
    async with entered(settings) as container:
        if retry_dead:
            await container.gallery().revive()
        while True:
            report = await container.gallery().sweep()
            deleted, failed, dead = deleted + report.deleted, failed + report.failed, dead + report.dead
            reasons |= dict.fromkeys(report.reasons)
            # What failed would not do better at once.
            if not report.deleted:
                break
    _say(f"images deleted: {deleted}, to be tried again: {failed - dead}")
    if dead:
        _say(f"images given up: {dead}; `watchly sweep --retry-dead` tries them again")
    if failed:
        raise Unavailable("image_store", "; ".join(reasons))


@cli.command()
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

    settings = _settings()
    _refuse_memory(settings)
    with started(settings) as running:
        url = str(running.database_url)
        filled = 0
        if asyncio.run(pending(url)):
            # Migrating fills the rows as well.
            found = asyncio.run(waiting(url))
            asyncio.run(migrate(url))
            filled = found - asyncio.run(waiting(url))
        _say(f"movies indexed: {filled + asyncio.run(fill(url))}")


@cli.command()
@click.option("--check", is_flag=True, help="Compare, and change nothing.")
@click.option("--apply", is_flag=True, help="Make the table what the log says.")
def rebuild(*, check: bool, apply: bool) -> None:
    """Compare the table of movies with the log of events, or restore it from there.

    Ends with 1 where --check finds a difference.

    \b
    Examples:
      watchly rebuild --check
      watchly rebuild --apply
    """
    import msgspec

    from watchly_adapters.postgres.rebuild import rebuild as compare
    from watchly_http.running import running_database

    if check == apply:
        raise click.UsageError("say what to do: --check or --apply")
    settings = _settings()
    _refuse_memory(settings)
    with running_database(settings) as (running, _):
        found = asyncio.run(compare(str(running.database_url), apply=apply))
    for name, count in msgspec.structs.asdict(found).items():
        click.echo(f"{name}: {count}")
    if apply:
        _say("the table is what the log says")
    elif not found.agree:
        raise SystemExit(1)


@cli.group()
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

    run_cloudinary(port, show=click.echo, say=_say)


@cli.command()
def doctor() -> None:
    """Show what is configured, and whether each part answers.

    \b
    Example:
      watchly doctor
    """
    from watchly_http.doctor import examine

    if not examine(_settings()):
        sys.exit(1)


def main() -> Never:
    """Run the command line; an error of ours is one line on stderr and exit code 1."""
    # An exception, so that what was started is stopped on the way out.
    for stop in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(stop, lambda number, _: sys.exit(_SIGNALLED + number))
    try:
        cli(standalone_mode=True)
    except ImportRejected as rejected:
        _say(f"watchly: {rejected}")
    except Invalid as invalid:
        _say(f"watchly: {_list(invalid.faults)}")
    except WatchlyError as error:
        _say(f"watchly: {error}")
    except OSError as error:
        _say(f"watchly: {error.filename or 'input or output'}: {error.strerror}")
    sys.exit(1)


def _say(text: str) -> None:
    click.echo(text, err=True)


def _list(faults: Iterable[Fault]) -> str:
    return "; ".join(map(str, faults))


def _settings() -> Settings:
    from watchly_adapters.settings import load_settings

    return load_settings()


def _refuse_memory(settings: Settings) -> None:
    if settings.in_memory:
        raise Misconfigured("DATABASE_URL=memory: keeps nothing between commands; name another database")


async def _each(rows: Iterable[Row]) -> AsyncIterator[Row]:
    for row in rows:
        yield row
