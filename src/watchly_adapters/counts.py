"""Counters and histograms that are added up in memory and told now and then, which is many times cheaper."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Histogram

#: Seconds for which something is added up before it is told.
TOLD_EVERY: Final = 1.0

_Labels: TypeAlias = tuple[str, ...]


class Telling:
    """When what was added up is told: soon after it was, where an event loop runs, and else at once.

    What is not told yet dies with the process.
    """

    def __init__(self) -> None:
        self._tell: list[Callable[[], None]] = []
        #: Whether that is already seen to, which is looked at before `soon` is called: it happens that often.
        self.is_due: bool = False

    def add(self, tell: Callable[[], None]) -> None:
        """Have this called whenever it is time to tell."""
        self._tell.append(tell)

    def soon(self) -> None:
        """Tell before long."""
        self.is_due = True
        try:
            asyncio.get_running_loop().call_later(TOLD_EVERY, self.now)
        except RuntimeError:  # there is no loop
            self.now()

    def now(self) -> None:
        """Tell all that was added up."""
        self.is_due = False
        for tell in self._tell:
            tell()


class Counts:
    """A counter, or one for each set of labels.

    Args:
        name: its name.
        documentation: what it counts.
        labels: the names of its labels.
        known: values of these that are shown from the start.
        registry: where it is shown.
        telling: when it is told.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what each metric has
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        known: Iterable[_Labels],
        registry: CollectorRegistry,
        telling: Telling,
    ) -> None:
        self._counter = Counter(name, documentation, labels, registry=registry)
        self._telling = telling
        self._more: dict[_Labels, float] = {}
        for each in known:
            self._counter.labels(*each)
        telling.add(self._tell)

    def add(self, *labels: str, amount: float = 1.0) -> None:
        """Count one more, or `amount`."""
        self._more[labels] = self._more.get(labels, 0.0) + amount
        if not self._telling.is_due:
            self._telling.soon()

    def _tell(self) -> None:
        more, self._more = self._more, {}
        for labels, amount in more.items():
            (self._counter.labels(*labels) if labels else self._counter).inc(amount)


class Times:
    """A histogram of seconds, or one for each set of labels.

    Args:
        name: its name.
        documentation: what it measures.
        labels: the names of its labels.
        bounds: of its buckets, ascending.
        registry: where it is shown.
        telling: when it is told.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what each metric has
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        bounds: Sequence[float],
        registry: CollectorRegistry,
        telling: Telling,
    ) -> None:
        self._histogram = _Histogram(name, documentation, labels, buckets=bounds, registry=registry)
        self._bounds, self._telling = bounds, telling
        self._more: dict[_Labels, _Durations] = {}
        telling.add(self._tell)

    def add(self, seconds: float, *labels: str) -> None:
        """Count what took so long."""
        more = self._more.get(labels)
        if more is None:
            more = self._more[labels] = _Durations(len(self._bounds))
        more.counts[bisect_left(self._bounds, seconds)] += 1
        more.total += seconds
        if not self._telling.is_due:
            self._telling.soon()

    def add_many(self, counts: Sequence[int], total: float, *labels: str) -> None:
        """Count many, so many in each bucket, which took so long together, when it is next told."""
        more = self._more.setdefault(labels, _Durations(len(self._bounds)))
        more.counts = [one + other for one, other in zip(more.counts, counts, strict=True)]
        more.total += total

    def _tell(self) -> None:
        told, self._more = self._more, {}
        for labels, more in told.items():
            (self._histogram.labels(*labels) if labels else self._histogram).add(more.counts, more.total)


class _Durations:
    """How many took so long, and all of them together."""

    __slots__ = ("counts", "total")

    def __init__(self, bounds: int) -> None:
        self.counts = [0] * (bounds + 1)
        self.total = 0.0


class _Histogram(Histogram):
    """A histogram that takes many at once."""

    def add(self, counts: Sequence[int], total: float) -> None:
        """Add so many to each bucket, which come to `total`."""
        self._sum.inc(total)
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)
