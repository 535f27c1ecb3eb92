"""Watchly and its peers on the same real movies, one after another; see the package.

Prints the tables; `--write` also writes docs/reference/performance.md and its plot. Everything listens on
loopback only, and lives below a temporary folder, the peers' packages as well.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.comparison import library, report
from benchmarks.comparison.database import Database, embedded
from benchmarks.comparison.loads import (
    LOADS,
    ONE,
    Figure,
    Sender,
    Work,
    attach,
    check_answers,
    check_wrk,
    marks,
    noise,
)
from benchmarks.comparison.report import Findings, Key
from benchmarks.comparison.servers import (
    BARE,
    CACHED,
    EXPRESS,
    FASTAPI,
    FASTIFY,
    IMAGE_FILE,
    OWN,
    WATCHLY,
    Contestant,
    Missing,
    Running,
    install,
    running,
)
from benchmarks.films import real_films

EVERYBODY: Final = (WATCHLY, CACHED, FASTIFY, BARE, EXPRESS, FASTAPI)
#: Of those that are compared in short: one of Node and one of Python.
A_FEW: Final = (WATCHLY, FASTIFY, BARE)
CONNECTIONS: Final = (32, 256)
ROUNDS: Final = 3
SECONDS: Final = 3
CALLS: Final = 10_000
FEW_FILMS: Final = 5_000
_FILLS: Final = 3
PAGE: Final = Path(__file__).parents[2] / "docs" / "reference" / "performance.md"


def installed(names: Sequence[str], folder: Path) -> tuple[list[Contestant], dict[str, str]]:
    """Who can be started, and why the others cannot."""
    ready, missing = [], {}
    for name in names:
        try:
            ready.append(install(name, folder))
        except Missing as error:
            missing[name] = str(error)
        print(f"{name}: {missing.get(name, 'ready')}", file=sys.stderr)
    return ready, missing


class Extent(NamedTuple):
    """How much is measured."""

    rounds: int
    seconds: int
    connections: tuple[int, ...] = CONNECTIONS
    servers: tuple[str, ...] = EVERYBODY
    films: int | None = None


def loaded(
    server: Running, work: Work, sender: Sender, token: str, extent: Extent
) -> Iterator[tuple[Key, Figure]]:
    """What each load on a server gives."""
    for load in LOADS:
        requests = work.requests(load, server)
        for connections in extent.connections if requests else ():
            yield Key(server.name, load, connections), sender.send(server, requests, connections, token)


def compare(database: Database, folder: Path, extent: Extent) -> Findings:
    """Every load on every server, round by round, each round in the other order."""
    rounds, seconds = extent.rounds, extent.seconds
    films = real_films()[: extent.films]
    ids = database.fill(folder, extent.films)
    poster = noise()
    database.images.mkdir()
    (database.images / IMAGE_FILE).write_bytes(poster)
    contestants, missing = installed(extent.servers, folder)
    sender = Sender(folder, database.postmaster(), seconds)
    figures: dict[Key, list[Figure]] = defaultdict(list)
    idle: dict[str, int] = {}
    work: Work | None = None
    for turn in range(rounds):
        for contestant in contestants if turn % 2 == 0 else reversed(contestants):
            own, state = contestant.name in OWN, "done"
            with database.copy(own=own) as url, ExitStack() as stack:
                token = database.told(url, "token", "--ttl", "1h") if own else ""
                try:
                    server = stack.enter_context(running(contestant, database.environment(url)))
                except Missing as error:
                    if own:
                        raise SystemExit(f"{contestant.name}: {error}") from None
                    state = missing[contestant.name] = str(error)
                else:
                    idle.setdefault(server.name, server.memory())
                    if own:
                        attach(server, poster, ids[0], token)
                        # Watchly is the first one of all, and tells its cursors.
                        work = work or Work(ids, films, marks(server))
                    if work is None:
                        raise SystemExit("Watchly is missing")
                    check_answers(server, work)
                    # A cache of each of two processes is filled by some hundred thousand requests.
                    for _ in range(_FILLS if contestant.name == CACHED else 1):
                        sender.send(server, work.requests(ONE, server), CONNECTIONS[0], token)
                    for key, figure in loaded(server, work, sender, token, extent):
                        figures[key].append(figure)
            print(f"round {turn + 1} of {rounds}: {contestant.name} {state}", file=sys.stderr)
    with database.copy(own=True) as url:
        timings = library.measure(url, ids, films, CALLS * seconds // SECONDS)
    command = "nox -s bench" if (rounds, seconds) == (ROUNDS, SECONDS) else "python -m benchmarks.comparison"
    return Findings(figures, idle, timings, missing, command, len(ids), rounds, seconds)


def main() -> None:
    """Measure, and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=int, default=SECONDS, help="of each load")
    parser.add_argument("--short", action="store_true", help="a few seconds of it: that all of it runs")
    parser.add_argument("--write", action="store_true", help="write the page of the reference, and its plot")
    given = parser.parse_args()
    short = Extent(1, 1, CONNECTIONS[:1], A_FEW, FEW_FILMS)
    extent = short if given.short else Extent(given.rounds, given.seconds)
    # Who ends this ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        check_wrk()
    except Missing as error:
        print(f"nothing is compared: {error}")
        return
    with embedded() as (database, folder):
        found = compare(database, folder, extent)
        plot = folder / "performance.svg"
        report.draw(found, plot)
        print(report.page(found, ""))
        if given.write:
            PAGE.parent.mkdir(exist_ok=True)
            PAGE.with_suffix(".svg").write_bytes(plot.read_bytes())
            PAGE.write_text(report.page(found, "performance.svg"), encoding="utf-8")


if __name__ == "__main__":
    main()
