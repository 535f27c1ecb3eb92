"""What locust's processes wrote down, as figures for each second and for each stage."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain, pairwise
from typing import Final, NamedTuple

import msgspec
from benchmarks.load.plan import Stage, settling

#: Milliseconds below which 99 of 100 requests are to stay.
WANTED: Final = 200.0


class Recording(msgspec.Struct):
    """What one process of locust saw; seconds are whole ones since it began.

    Attributes:
        began: when that was, in seconds since 1970.
        requests: the milliseconds of all answers of a kind to what was asked in a second.
        errors: what was wrong, by what was asked in which second, and how often.
        late: milliseconds by which the process itself woke up too late.
        users: how many there were.
        changes: of which those who follow were told, all of them together.
    """

    began: float
    requests: list[tuple[int, str, list[float]]] = []
    errors: list[tuple[int, str, int]] = []
    late: list[tuple[int, list[float]]] = []
    users: list[tuple[int, int]] = []
    changes: int = 0


class Use(NamedTuple):
    """What was used of the processors up to a time, in seconds; `others` are all other programs."""

    at: float
    server: float
    database: float
    generator: float
    others: float

    def since(self, before: Use) -> Use:
        """How many processors were busy in between, on average; nothing is less than none."""
        seconds = self.at - before.at or 1.0
        return Use(
            self.at, *(max(0.0, now - then) / seconds for now, then in zip(self[1:], before[1:], strict=True))
        )

    @property
    def total(self) -> float:
        """Of everybody."""
        return sum(self[1:])


class Waits(NamedTuple):
    """How many answers there were, and the milliseconds for which they were waited."""

    answers: int
    p50: float
    p95: float
    p99: float


class Moment(NamedTuple):
    """What a second was like."""

    second: int
    users: int
    waits: Waits
    errors: int


class Level(NamedTuple):
    """What a stage was like, but for its beginning, whose errors count; `rate` is of answers in a second."""

    stage: Stage
    rate: float
    waits: Waits
    errors: int
    late: float
    use: Use

    @property
    def held(self) -> bool:
        """Whether it was as it should be."""
        return bool(self.waits.answers) and not self.errors and self.waits.p99 < WANTED


class Findings(NamedTuple):
    """All that was seen.

    Attributes:
        levels: of the stages, in their order.
        best: the highest level that held.
        kinds: of that level, or else of the first one, by what was asked.
        errors: how often each was there.
        changes: of which those who follow were told.
        moments: each second of it all.
        uses: busy processors, by seconds since the beginning.
    """

    levels: Sequence[Level]
    best: Level | None
    kinds: dict[str, Waits]
    errors: dict[str, int]
    changes: int
    moments: Sequence[Moment]
    uses: Sequence[Use]

    @property
    def beyond(self) -> Level | None:
        """The level after the best one, which did not hold."""
        place = self.levels.index(self.best) + 1 if self.best else 0
        return self.levels[place] if place < len(self.levels) else None

    @property
    def hiccups(self) -> Sequence[Level]:
        """Levels below the best one that did not hold."""
        below = self.levels[: self.levels.index(self.best)] if self.best else ()
        return [level for level in below if not level.held]


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest of the ordered values that so large a share of them does not exceed; 0 of none."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def waits(milliseconds: Iterable[float]) -> Waits:
    """Those of so many answers."""
    ordered = sorted(milliseconds)
    return Waits(len(ordered), *(percentile(ordered, share) for share in (0.5, 0.95, 0.99)))


def highest(levels: Sequence[Level]) -> Level | None:
    """The last level that held; the rates of levels rise."""
    return next((level for level in reversed(levels) if level.held), None)


def findings(
    stages: Sequence[Stage], seconds: int, recordings: Sequence[Recording], uses: Sequence[Use]
) -> Findings:
    """All of it: `uses` are looked up at least at the ends of what counts of each stage."""
    asked: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    errors: dict[int, Counter[str]] = defaultdict(Counter)
    late: dict[int, list[float]] = defaultdict(list)
    users: Counter[int] = Counter()
    for recording in recordings:
        for second, kind, found in recording.requests:
            asked[second][kind] += found
        for second, error, times in recording.errors:
            errors[second][error] += times
        for second, found in recording.late:
            late[second] += found
        for second, number in recording.users:
            users[second] += number
    began = min(recording.began for recording in recordings)

    def answered(part: range) -> dict[str, list[float]]:
        together: dict[str, list[float]] = defaultdict(list)
        for second in part:
            for kind, found in asked[second].items():
                together[kind] += found
        return together

    def level(stage: Stage, part: range) -> Level:
        found = waits(chain.from_iterable(answered(part).values()))
        first, last = (_nearest(uses, began + second) for second in (part.start, part.stop))
        return Level(
            stage,
            found.answers / len(part),
            found,
            sum(errors[second].total() for second in range(part.stop - seconds, part.stop)),
            percentile(sorted(chain.from_iterable(late[second] for second in part)), 0.99),
            last.since(first),
        )

    parts = [
        range(number * seconds + settling(seconds), (number + 1) * seconds) for number in range(len(stages))
    ]
    levels = [level(stage, part) for stage, part in zip(stages, parts, strict=True)]
    best = highest(levels)
    of_it = answered(parts[levels.index(best) if best else 0])
    return Findings(
        levels,
        best,
        {kind: waits(of_it[kind]) for kind in sorted(of_it)},
        dict(sum(errors.values(), Counter[str]())),
        sum(recording.changes for recording in recordings),
        [
            Moment(
                second,
                users[second],
                waits(chain.from_iterable(asked[second].values())),
                errors[second].total(),
            )
            for second in range(len(stages) * seconds)
        ],
        [now.since(then)._replace(at=now.at - began) for then, now in pairwise(uses) if now.at > began],
    )


def _nearest(uses: Sequence[Use], at: float) -> Use:
    return min(uses, key=lambda use: abs(use.at - at))
