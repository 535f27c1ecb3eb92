"""What was found, as a page with tables and as a plot."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.comparison.library import TASKS, Timing
from benchmarks.comparison.loads import (
    CEILING,
    CREATE,
    LOADS,
    ONE,
    PAGE,
    REVALIDATE,
    Figure,
)
from benchmarks.comparison.servers import (
    BARE,
    CACHED,
    EXPRESS,
    FASTAPI,
    FASTIFY,
    OWN,
    PEERS,
    PROCESSES,
    WATCHLY,
)
from benchmarks.drawings import COLOURS, drawing
from benchmarks.pages import own_versions, table

_NOTHING: Final = "-"
_DRAWN: Final = (ONE, PAGE, REVALIDATE, CREATE)
#: How many times as many requests a second as another server: at least, and what is aimed at.
_WANTED: Final = (
    (ONE, EXPRESS, 4, 5),
    (ONE, FASTAPI, 6, 7),
    (ONE, FASTIFY, 1.1, 1.3),
    (ONE, BARE, 1.2, 1.4),
    (PAGE, EXPRESS, 4, 5),
    (PAGE, FASTAPI, 5, 6),
    (PAGE, FASTIFY, 1.2, 1.5),
    (CREATE, FASTIFY, 1, 1),
    (CREATE, EXPRESS, 3, 3),
)
_CEILING_SHARE: Final = 0.85
_IN_MEMORY: Final = ("Catalogue.get", "memory")
_MOST_MICROSECONDS: Final = 3


class Key(NamedTuple):
    """What a figure is of."""

    server: str
    load: str
    connections: int


class Findings(NamedTuple):
    """All that was measured, of every round, and who could not be started."""

    figures: Mapping[Key, Sequence[Figure]]
    idle: Mapping[str, int]
    timings: Sequence[Timing]
    missing: Mapping[str, str]
    command: str
    movies: int
    rounds: int
    seconds: int

    def median(self, key: Key, field: str) -> float | None:
        """The median of the rounds; nothing where nothing was measured."""
        found = [getattr(figure, field) for figure in self.figures.get(key, ())]
        return statistics.median(found) if found else None

    @property
    def servers(self) -> list[str]:
        """Those that were measured, in the order in which that began."""
        return list(dict.fromkeys(key.server for key in self.figures))

    @property
    def connections(self) -> list[int]:
        """How many there were."""
        return sorted({key.connections for key in self.figures})


def _by_load(found: Findings, connections: int, *fields: str, form: str) -> str:
    """A row for each server and a column for each load."""
    rows = []
    for server in found.servers:
        cells = []
        for load in LOADS:
            values = [found.median(Key(server, load, connections), field) for field in fields]
            cells.append(" / ".join(_NOTHING if value is None else format(value, form) for value in values))
            cells[-1] = _NOTHING if set(values) == {None} else cells[-1]
        rows.append([server, *cells])
    return table(["", *LOADS], rows)


def _memory(found: Findings) -> str:
    rows = []
    for server in found.servers:
        most = max(
            figure.memory
            for key, figures in found.figures.items()
            if key.server == server
            for figure in figures
        )
        rows.append([server, f"{found.idle[server] / 1e6:.0f}", f"{most / 1e6:.0f}"])
    return table(["MB of all processes", "idle", "at the most"], rows)


def _ratios(found: Findings) -> str:
    """What was wanted of rates and of the library, and what came of it."""
    few = found.connections[0]
    rows = []

    def note(what: str, mine: float | None, other: float | None, wanted: str, least: float) -> None:
        if mine is None or other is None:
            rows.append([what, _NOTHING, wanted, "not measured"])
        else:
            held = "yes" if mine / other >= least else "no"
            rows.append([what, f"{mine / other:.2f}", wanted, held])

    for load, peer, least, aim in _WANTED:
        mine, other = (found.median(Key(name, load, few), "rate") for name in (WATCHLY, peer))
        wanted = f"{least:g}" + (f", better {aim:g}" if aim != least else "")
        note(f"{load}, over {peer}", mine, other, wanted, least)
    ceiling = found.median(Key(WATCHLY, CEILING, few), "rate")
    for name, load in ((CACHED, ONE), (CACHED, REVALIDATE), (WATCHLY, REVALIDATE)):
        mine = found.median(Key(name, load, few), "rate")
        note(f"{name}: {load}, over its ceiling", mine, ceiling, str(_CEILING_SHARE), _CEILING_SHARE)
    called = next(timing for timing in found.timings if (timing.call, timing.store) == _IN_MEMORY)
    note(f"{_MOST_MICROSECONDS} µs over Catalogue.get, memory", _MOST_MICROSECONDS, called.alone, "1", 1)
    return table(["", "times", "wanted", "held"], rows)


def _patience(found: Findings) -> str:
    """How many times as long as Watchly's the p99 of each peer is."""
    many = found.connections[-1]
    loads = [load for load in LOADS if load != CEILING]
    rows = []
    for peer in found.servers:
        cells = []
        for load in loads:
            mine, other = (found.median(Key(name, load, many), "p99") for name in (WATCHLY, peer))
            if mine is None or other is None:
                cells.append(_NOTHING)
            else:
                cells.append(f"{other / mine:.2f}" + ("" if mine < other else ", not held"))
        if peer not in OWN:
            rows.append([peer, *cells])
    return table(["", *loads], rows)


def _library(found: Findings) -> str:
    rows = [
        [f"{timing.call}, {timing.store}", f"{timing.alone:.1f}", f"{timing.together:.1f}"]
        for timing in found.timings
    ]
    return table(["microseconds a call", "one after another", f"by {TASKS} tasks at once"], rows)


def _failures(found: Findings) -> str:
    lines = [f"- {name} is missing: {why}" for name, why in found.missing.items()]
    for key, figures in found.figures.items():
        if failed := sum(figure.failed for figure in figures):
            lines.append(
                f"- {key.server}: {failed:,} requests failed ({key.load}, {key.connections} connections)"
            )
    return "\n".join(["## Missing or failed\n", *lines] if lines else [])


def _versions() -> str:
    versions = own_versions()
    if node := shutil.which("node"):
        said = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout.strip()
        versions.append(f"Node {said.removeprefix('v')}")
    for wanted in sorted(PEERS.glob("*/package.json")):
        versions += [
            f"{name} {number}" for name, number in json.loads(wanted.read_text())["dependencies"].items()
        ]
    for wanted in sorted(PEERS.glob("*/requirements.txt")):
        versions += [line.replace("==", " ") for line in wanted.read_text().splitlines()]
    return ", ".join(dict.fromkeys(versions))


def page(found: Findings, plot: str) -> str:
    """The page of the reference."""
    few, many = found.connections[0], found.connections[-1]
    about = (
        f"Made by `{found.command}` on {os.cpu_count()} cores, which the load shares: {found.rounds} rounds "
        f"of {found.seconds} s for each load, in alternating order, medians. Every server has {PROCESSES} "
        "processes with ten connections each for requests to the same PostgreSQL, and starts on a fresh copy "
        f"of the same {found.movies:,} movies. The peers are in `benchmarks/peers`; they keep no log of "
        "their writes, their copy has no trigger and no index but its primary key, and they search by "
        "`ILIKE`. An image is a file of 65 KB, and `no database` is `GET /health/live`."
    )
    parts = ["# Performance", about, f"{_versions()}.", f"![Requests a second]({plot})" if plot else ""]
    for connections in found.connections:
        parts += [
            f"## Requests a second, {connections} connections",
            _by_load(found, connections, "rate", form=",.0f"),
            f"p50 / p99 in milliseconds, {connections} connections:",
            _by_load(found, connections, "p50", "p99", form=",.1f"),
        ]
    parts += [
        "## Processor time",
        f"Microseconds a request, {few} connections: the server's processes / those of the database.",
        _by_load(found, few, "processor", "database", form=",.0f"),
        "## Memory",
        _memory(found),
        "## What was wanted",
        f"How many times as many requests a second, {few} connections:",
        _ratios(found),
        f"The p99 of each peer over Watchly's, {many} connections; held is what is more than 1:",
        _patience(found),
        "## Without HTTP",
        _library(found),
        _failures(found),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def draw(found: Findings, path: Path) -> None:
    """The plot of the requests a second, as SVG."""
    with drawing(path, (9, 5)) as drawn:
        axes = drawn.subplots(1, len(_DRAWN), sharey=True)
        few = found.connections[0]
        for load, place in zip(_DRAWN, axes, strict=True):
            rates = [found.median(Key(server, load, few), "rate") for server in found.servers]
            bars = place.barh(
                found.servers, [rate or 0 for rate in rates], color=COLOURS[: len(rates)], height=0.7
            )
            place.bar_label(
                bars, [_NOTHING if rate is None else f"{rate:,.0f}" for rate in rates], padding=3, fontsize=8
            )
            place.set_title(load, fontsize=10)
            place.set_xlim(0, max((rate or 0 for rate in rates), default=0) * 1.45 or 1)
            place.set_xticks([])
            place.spines[["top", "right", "bottom"]].set_visible(False)
        axes[0].invert_yaxis()
        drawn.suptitle(f"Requests a second, {few} connections, {PROCESSES} processes", fontsize=11)
