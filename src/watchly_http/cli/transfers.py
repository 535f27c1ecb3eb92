"""Commands that take movies in and out."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack, aclosing
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from watchly_http.cli.console import in_one_line, read_settings, refuse_memory, run, say

if TYPE_CHECKING:
    from watchly_adapters.settings import Settings
    from watchly_core import MovieQuery
    from watchly_core.imports import Form, Rejection, Row

#: Rejected rows that a terminal is shown.
_SHOWN = 20


@click.command(name="import")
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
    settings = read_settings()
    refuse_memory(settings)
    with ExitStack() as stack:
        prepared, _ = stack.enter_context(running_database(settings))
        rows = stack.enter_context(opened_rows(path, form, ignore_unknown=ignore_unknown))
        rejected_to = stack.enter_context(rejects.open("wb")) if rejects else None
        run(_import(prepared, rows, rejected_to, skip=on_error == "skip", dry_run=dry_run))


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
            say(f"line {rejection.line}: {in_one_line(rejection.errors)}")
        elif shown == _SHOWN and not rejects:
            say("… and more; --rejects FILE writes them all")
        shown += 1

    async with entered(settings) as container:
        report = await container.catalogue().add_many(
            _each(rows), skip_invalid=skip, dry_run=dry_run, on_rejected=tell
        )
    verb = "would be added" if dry_run else "added"
    say(f"movies {verb}: {report.added}, rows rejected: {report.rejected_total}")


@click.command()
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
    settings = read_settings()
    refuse_memory(settings)
    with running_database(settings) as (prepared, _):
        if output is None:
            run(_export(prepared, query, form, sys.stdout.buffer))
            return
        with completed(output) as file:
            run(_export(prepared, query, form, file))


async def _export(settings: Settings, query: MovieQuery, form: Form, out: IO[bytes]) -> None:
    from watchly_core.exports import write_csv, write_ndjson
    from watchly_http.running import entered

    write = write_csv if form == "csv" else write_ndjson
    async with entered(settings) as container, aclosing(write(container.catalogue().export(query))) as chunks:
        async for chunk in chunks:
            out.write(chunk)
    out.flush()


async def _each(rows: Iterable[Row]) -> AsyncIterator[Row]:
    for row in rows:
        yield row
