"""What was found, as a page and as what a picture shows."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from typing import Final, NamedTuple

from benchmarks.comparison.servers import PROCESSES
from benchmarks.load.figures import WANTED, Findings, Level, Waits
from benchmarks.load.plan import settling
from benchmarks.pages import own_versions, table

#: Of a processor for each process of locust: with more, it is locust that is slow.
_GENERATOR_FULL: Final = 0.9
#: Of a processor: with more, others were at work here.
_QUIET: Final = 0.15


_HONEST: Final = (
    "The users are those of locust, on the same machine: they take processor time from Watchly, and what "
    "they wait for their own process is part of what is told here as Watchly's. Its lateness says how long "
    "that is: 99 of 100 of its own alarms were late by no more."
)
_PEOPLE: Final = (
    "Of 100 users 96 look around and 4 are editors, who also sign in, add and change movies and their "
    "images; five more follow the stream of changes and look whether one is missing. After each request a "
    "user thinks, half to one and a half times as long as the stage says. Movies are asked for as Zipf has "
    "it, those that a user has read before with their entity tag; words are popular, rare or misspelt; "
    "thumbnails have been made before. Being told that somebody else was first (409, 412) is no error; every "
    "other reply above 399 is one, and a refused or broken connection, or a stream that ends or skips a "
    "change."
)


class Run(NamedTuple):
    """What was done."""

    command: str
    day: date
    movies: int
    seconds: int
    processes: int


class Panel(NamedTuple):
    """A part of the picture: lines over the seconds, gaps where there is nothing."""

    title: str
    lines: Mapping[str, Sequence[tuple[float, float | None]]]
    limit: float | None = None
    logarithmic: bool = False


def panels(found: Findings) -> list[Panel]:
    """What the picture shows, from its top to its bottom."""
    moments, uses = found.moments, found.uses
    waited = {
        name: [(m.second, m.waits[place] if m.waits.answers else None) for m in moments]
        for place, name in enumerate(Waits._fields[1:], start=1)
    }
    return [
        Panel("users", {"users": [(m.second, m.users) for m in moments]}),
        Panel("requests a second", {"requests": [(m.second, m.waits.answers) for m in moments]}),
        Panel("milliseconds", waited, WANTED, logarithmic=True),
        Panel("errors a second", {"errors": [(m.second, m.errors) for m in moments]}),
        Panel(
            "busy processors",
            {
                "Watchly": [(use.at, use.server) for use in uses],
                "PostgreSQL": [(use.at, use.database) for use in uses],
                "locust": [(use.at, use.generator) for use in uses],
                "others": [(use.at, use.others) for use in uses],
            },
        ),
    ]


def headline(found: Findings) -> str:
    """The highest rate that held, in one sentence."""
    best = found.best
    if best is None:
        return f"No stage stayed below {WANTED:g} ms for 99 of 100 requests without errors."
    waits = best.waits
    return (
        f"The p99 stays below {WANTED:g} ms, without errors, up to {best.rate:,.0f} requests a second of "
        f"{best.stage.users:,} users: p50 {waits.p50:.1f} ms, p95 {waits.p95:.1f} ms, p99 {waits.p99:.1f} ms."
    )


def _levels(levels: Sequence[Level]) -> str:
    head = ("users", "seconds of thought", "requests/s", "p50", "p95", "p99", "errors", "held")
    rows = [
        [
            f"{level.stage.users:,}",
            f"{level.stage.think:.2f}",
            f"{level.rate:,.0f}",
            *(f"{wait:,.1f}" for wait in level.waits[1:]),
            f"{level.errors:,}",
            "yes" if level.held else "no",
        ]
        for level in levels
    ]
    return table(head, rows)


def _uses(levels: Sequence[Level]) -> str:
    head = ("requests/s", "Watchly", "PostgreSQL", "locust", "others", "locust's own lateness, p99 ms")
    rows = [
        [f"{level.rate:,.0f}", *(f"{busy:.2f}" for busy in level.use[1:]), f"{level.late:.1f}"]
        for level in levels
    ]
    return table(head, rows)


def _limit(found: Findings, run: Run) -> str:
    """What stood in the way of more."""
    cores = os.cpu_count() or 1
    parts = []
    level = found.beyond
    if level is None:
        parts.append("The last stage held: where it ends was not found.")
    else:
        use, which = level.use, "next" if found.best else "first"
        parts.append(
            f"At the {which} stage, which did not hold, {use.total:.1f} of {cores} processors were busy: "
            f"Watchly had {use.server:.1f} of them, PostgreSQL {use.database:.1f}, "
            f"locust {use.generator:.1f}."
        )
        if use.generator > _GENERATOR_FULL * run.processes:
            parts.append("locust itself was at its limit there: Watchly may take more than this.")
    if found.hiccups:
        rates = ", ".join(f"{level.rate:,.0f}" for level in found.hiccups)
        parts.append(f"Of the stages below the highest one that held, some did not: {rates} requests/s.")
    if any(level.use.others > _QUIET for level in found.levels):
        parts.append("Other programs ran meanwhile: on a machine of its own it takes more than this.")
    return " ".join(parts)


def page(found: Findings, run: Run, picture: str) -> str:
    """The page of the reference."""
    cores = os.cpu_count()
    mix = sum(waits.answers for waits in found.kinds.values()) or 1
    kinds = [
        [kind, f"{100 * waits.answers / mix:.1f}", *(f"{wait:,.1f}" for wait in waits[1:])]
        for kind, waits in sorted(found.kinds.items(), key=lambda item: -item[1].answers)
    ]
    errors = [f"- {times:,} times {error}" for error, times in sorted(found.errors.items())]
    load = ", ".join(f"{name} {version(name)}" for name in ("locust", "gevent", "geventhttpclient"))
    about = (
        f"Made by `{run.command}` on {run.day.isoformat()}, on {cores} cores. `watchly serve` with "
        f"{PROCESSES} workers, the settings of production and `LOG_LEVEL=warning`, on an embedded PostgreSQL "
        f"with {run.movies:,} movies; no cache. Each stage takes {run.seconds} s, of which the first "
        f"{settling(run.seconds)} do not count, but for errors; a request counts in the second in "
        "which it was sent."
    )
    parts = [
        "# Load",
        f"**{headline(found)}**",
        f"![Load over time]({picture})" if picture else "",
        about,
        f"{', '.join(own_versions())}, {load}.",
        "## By stage",
        "Milliseconds:",
        _levels(found.levels),
        "## Who used the processors",
        "How many of them were busy with what:",
        _uses(found.levels),
        f"{_HONEST} {_limit(found, run)}",
        "## What was asked",
        _PEOPLE,
        "At the highest rate that held, share in percent and milliseconds:"
        if found.best
        else "In the first stage, share in percent and milliseconds:",
        table(("", "share", "p50", "p95", "p99"), kinds),
        f"Those who follow were told of {found.changes:,} changes.",
        "## Errors",
        "\n".join(errors) or "None, in all stages.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
