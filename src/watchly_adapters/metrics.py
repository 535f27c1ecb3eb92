"""What is counted while the service runs, as Prometheus reads it.

Names and units follow its conventions. A label holds one of a few words that are written here; never an id, a
path or what somebody sent.
"""

from __future__ import annotations

import asyncio
import platform
import struct
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    openmetrics,
    values,
)
from prometheus_client.metrics_core import InfoMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from watchly_core.threads import Threads

#: Where a cache finds what it is asked for.
LEVELS: Final = ("local", "shared")

#: Seconds for which hits are added up before they are told: adding up is many times cheaper.
TOLD_EVERY: Final = 1.0
#: Bounds of the ages of what a cache answers with, in seconds.
_AGES: Final = (0.1, 1.0, 5.0, 15.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
#: How often a page is begun that met with a file which another worker had just made, and not yet filled.
_ATTEMPTS: Final = 3


class Metrics:
    """What this process counts, and the page that shows it.

    Workers of `watchly serve` lay what they count together (see `tallies`), and so the page of each is that
    of all. A process of another kind shows what it counted itself.

    Attributes:
        cache: counts what becomes of reads that a cache may answer.
    """

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.cache = CacheMetrics(registry)
        Gauge(
            "watchly_workers",
            "Processes that answer requests.",
            registry=registry,
            multiprocess_mode="livesum",
        ).set(1)
        alone = values.ValueClass is values.MutexValue
        self._shown = registry if alone else CollectorRegistry()
        if not alone:
            MultiProcessCollector(self._shown)  # type: ignore[no-untyped-call]  # the library has no types there
        self._shown.register(_Build())
        self._thread = Threads(1, "watchly-metrics")
        #: The pages that are wanted and not begun, by whether they are in OpenMetrics.
        self._wanted: dict[bool, asyncio.Task[bytes]] = {}

    async def page(self, *, as_openmetrics: bool = False) -> bytes:
        """All that is counted, in the text format of Prometheus or in OpenMetrics.

        It is written in a thread, one page at a time, for it reads a file or more of each worker. Who asks
        while one is written shares the next with all who do.
        """
        self.cache.tell()
        page = self._wanted.get(as_openmetrics)
        if page is None or page.done():  # done: cancelled before it was begun
            page = asyncio.create_task(self._thread.run(partial(self._written, as_openmetrics)))
            self._wanted[as_openmetrics] = page
        return await asyncio.shield(page)

    def _written(self, as_openmetrics: bool) -> bytes:
        self._wanted.pop(as_openmetrics, None)  # whoever asks from now on may have counted more
        write = openmetrics.exposition.generate_latest if as_openmetrics else generate_latest
        for _ in range(_ATTEMPTS - 1):
            with suppress(struct.error):
                return write(self._shown)
        return write(self._shown)


class CacheMetrics:
    """Counts what becomes of reads that a cache may answer: the `CacheWatch` of a service."""

    def __init__(self, registry: CollectorRegistry) -> None:
        reads = Counter(
            "watchly_cache_reads",
            "Reads that a cache may answer, by what became of them and where the answer was found.",
            ("outcome", "level"),
            registry=registry,
        )
        self._told = {level: reads.labels("hit", level) for level in LEVELS}
        self._misses = reads.labels("miss", "none")
        self._failures = Counter(
            "watchly_cache_failures",
            "Times that the shared cache did not do as it should.",
            registry=registry,
        )
        self._age = _Ages(
            "watchly_cache_hit_age_seconds",
            "Time since what a cache answered with had been read from the database.",
            buckets=_AGES,
            registry=registry,
        )
        self._hits = dict.fromkeys(LEVELS, 0)
        self._ages, self._seconds = [0] * (len(_AGES) + 1), 0.0
        self._due = False

    def hit(self, level: str, age: float) -> None:
        """Count an answer of the cache at `level`, read `age` seconds ago.

        Where an event loop runs, hits are told once in a while; what is not told yet dies with the process.
        """
        self._hits[level] += 1
        self._ages[bisect_left(_AGES, age)] += 1
        self._seconds += age
        if not self._due:
            self._due = True
            self._tell_later()

    def miss(self) -> None:
        """Count a read that went to the database."""
        self._misses.inc()

    def failed(self) -> None:
        """Count a fault of the shared cache."""
        self._failures.inc()

    def tell(self) -> None:
        """Tell what was added up."""
        if not self._due:
            return
        for level, hits in self._hits.items():
            self._told[level].inc(hits)
        self._age.add(self._ages, self._seconds)
        self._hits = dict.fromkeys(LEVELS, 0)
        self._ages, self._seconds = [0] * (len(_AGES) + 1), 0.0
        self._due = False

    def _tell_later(self) -> None:
        try:
            asyncio.get_running_loop().call_later(TOLD_EVERY, self.tell)
        except RuntimeError:  # there is no loop
            self.tell()


class _Ages(Histogram):
    """A histogram that takes many at once."""

    def add(self, counts: Sequence[int], total: float) -> None:
        """Add so many to each bucket, which come to `total`."""
        self._sum.inc(total)
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)


class _Build(Collector):
    """What runs here; of no process, for several cannot lay such a thing together."""

    def __init__(self) -> None:
        self._build = {"version": version("watchly"), "python": platform.python_version()}

    def collect(self) -> Iterable[Metric]:
        """The one metric."""
        yield InfoMetricFamily("watchly_build", "What runs here.", value=self._build)
