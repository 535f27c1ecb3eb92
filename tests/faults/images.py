"""Images through all kinds of trouble: many uploads, replacements, deletions, then one sweep, then a check.

    python -m tests.faults.images --operations 1000 --store cloudinary --seed 7

The database is an embedded one, whose server is killed as well.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from tests.faults.checker import broken_links, read_tables, sweep_later, violations
from tests.faults.havoc import Havoc
from tests.faults.runs import SECRET, Outcome, end, options, perform
from tests.faults.stores import Cloud, Disk, Images
from tests.faults.told import Told
from tests.faults.uploaders import Odds, Uploaders
from tests.gateways import free_port
from tests.services import Service

from watchly_adapters.embedded import EmbeddedPostgres
from watchly_adapters.settings import read_settings
from watchly_adapters.testing.cloudinary import CloudinaryEmulator

RATE: Final = 0.3
_CLIENTS: Final = 8
_FIRST_MOVIES: Final = 24
#: Seconds for which the store is away in long runs: it is left alone for a while after that.
_OUTAGE: Final = 8.0

_PROMISE: Final = "no image without its record and no record without its image, whatever fails"


class Plan(NamedTuple):
    """A run: its seed, how many operations, on which store, and whether there is time for slow faults."""

    seed: int
    operations: int
    store: str
    long: bool = False


class Site(NamedTuple):
    """Where a run takes place: a service at `url`, by `variables`, and what it stands on."""

    folder: Path
    url: str
    variables: Mapping[str, str]
    images: Images
    database_url: str
    home: Path | None

    def serving(self, log: str) -> Service:
        port = self.url.rpartition(":")[2]
        return Service(self.folder / log, "--workers", "2", "--port", port, **self.variables)

    @property
    def spools(self) -> Path:
        return Path(self.variables["TMPDIR"])


def run(plan: Plan, folder: Path, database_url: str, home: Path | None = None) -> Outcome:
    """Make trouble, end it, sweep, and compare.

    Args:
        plan: what to do.
        folder: an empty one.
        database_url: an empty database that runs.
        home: of the service, if the database is the embedded one there, which may be killed.
    """
    told = Told()
    url = f"http://127.0.0.1:{free_port('127.0.0.1')}"
    with ExitStack() as stack:
        images = _images(plan.store, folder, url, stack)
        variables = {
            **images.environment,
            **({"WATCHLY_HOME": str(home)} if home else {"DATABASE_URL": database_url}),
            "SECRET_KEY": SECRET,
            "PUBLIC_URL": url,
            # Half of all runs are swept while they go on.
            "SWEEP_INTERVAL": "1 s" if plan.seed % 2 else "1 h",
            "LOG_LEVEL": "error",
            "TMPDIR": str(folder / "spools"),
        }
        site = Site(folder, url, variables, images, database_url, home)
        site.spools.mkdir()
        _make_trouble(plan, site, told)
        _sweep(site, told)
        _compare(site, told)
        told.counts.update({f"fault: {what}": times for what, times in images.faults().items()})
    faults = sum(times for what, times in told.counts.items() if what.startswith("fault: "))
    held = (
        f"{plan.operations:,} writes of images to {plan.store}, {faults:,} faults: "
        f"0 of {len(told.attached):,} that were acknowledged lost, 0 files or records left over"
    )
    return Outcome(plan, told.counts, told.wrong, _PROMISE, held)


def _make_trouble(plan: Plan, site: Site, told: Told) -> None:
    """Let clients work while everything fails, until the service has stopped."""
    with site.serving("log") as service:
        odds = Odds(leave=RATE, pause=5.0 if plan.long else 0.5)
        clients = Uploaders(site.url, site.images.deliver, told, seed=plan.seed, odds=odds)
        clients.begin(_FIRST_MOVIES)
        site.images.trouble(RATE, plan.seed, long=plan.long)
        began = time.monotonic()
        havoc = Havoc(
            service,
            site.database_url,
            told,
            rate=RATE,
            seed=plan.seed,
            break_store=site.images.fail,
            home=site.home,
            outage=_OUTAGE if plan.long else 0.0,
        )
        with havoc, ThreadPoolExecutor(_CLIENTS, "client") as threads:

            def operate(number: int) -> None:
                havoc.strike(number)
                clients.operate(number)

            for done in [threads.submit(operate, number) for number in range(plan.operations)]:
                done.result()
        told.counts["seconds of trouble"] = round(time.monotonic() - began)
        site.images.calm()
        told.wrong += end(service)
    told.wrong += [f"a spool was left: {path.name}" for path in site.spools.iterdir() if path.is_file()]


def _sweep(site: Site, told: Told) -> None:
    """The one sweep, when all is due."""
    for row in read_tables(site.database_url).images.values():
        told.count(f"before the sweep: {row.state}")
    settings = read_settings({**site.variables, "DATABASE_URL": site.database_url})
    report = asyncio.run(sweep_later(settings))
    told.counts["swept"] = report.deleted
    if report.failed or report.dead:
        told.object(f"the sweep came to {report}")


def _compare(site: Site, told: Told) -> None:
    """What is wrong now."""
    tables = read_tables(site.database_url)
    told.counts["after the sweep: images"] = len(tables.images)
    told.counts["after the sweep: movies"] = len(tables.movies)
    told.counts["acknowledged images"] = len(told.attached)
    uploads = site.images.uploads()
    told.counts["after the sweep: uploads left beside their images"] = len(uploads)
    found = list(violations(tables, told=told, assets=site.images.assets(), uploads=uploads))
    site.images.tidy()
    told.wrong = [*found, *(f"what was uploaded for {key} stays for ever" for key in site.images.uploads())]
    with site.serving("log of the check"):
        told.wrong += broken_links(site.url, tables, site.images.deliver, told.contents)


def _images(store: str, folder: Path, url: str, stack: ExitStack) -> Images:
    if store == "cloudinary":
        return Cloud(stack.enter_context(CloudinaryEmulator()))
    return Disk(folder, url)


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--operations", type=int, default=1_000)
    parser.add_argument("--store", choices=("cloudinary", "files"), default="cloudinary")
    given = parser.parse_args()
    plan = Plan(given.seed, given.operations, given.store, long=True)

    def begin(folder: Path) -> Outcome:
        home = folder / "home"
        with EmbeddedPostgres(home) as database_url:
            return run(plan, folder, database_url, home)

    return perform(f"images-{plan.store}", _PROMISE, given, begin)


if __name__ == "__main__":
    sys.exit(main())
