"""Meters: what is counted of requests, the steps that they take, pools and caches."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge

from watchly_adapters.counts import Counts, Telling, Times
from watchly_adapters.watching import Kind

#: Where a cache finds what it is asked for.
LEVELS: Final = ("local", "shared")

#: Bounds of the ages of what a cache answers with, in seconds.
_AGES: Final = (0.1, 1.0, 5.0, 15.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
#: Bounds of how long requests take, and parts of them, in seconds.
_REQUESTS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 15.0)
_STEPS: Final = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0)


class PoolFigures(Protocol):
    """How a pool of connections is: see `postgres.PoolFigures`."""

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    @property
    def idle(self) -> int:
        """How many of them nobody uses."""
        ...

    @property
    def waiting(self) -> int:
        """How many callers wait for one."""
        ...

    @property
    def refused(self) -> int:
        """How many callers were left without one so far."""
        ...


class CacheMetrics:
    """Counts what becomes of reads that a cache may answer: the `CacheWatch` of a service."""

    def __init__(self, registry: CollectorRegistry, telling: Telling) -> None:
        hits = {level: ("hit", level) for level in LEVELS}
        self._hits, self._miss = hits, ("miss", "none")
        self._reads = Counts(
            "watchly_cache_reads",
            "Reads that a cache may answer, by what became of them and where the answer was found.",
            ("outcome", "level"),
            [*hits.values(), self._miss],
            registry,
            telling,
        )
        self._failures = Counts(
            "watchly_cache_failures",
            "Times that the shared cache did not do as it should.",
            (),
            (),
            registry,
            telling,
        )
        self._ages = Times(
            "watchly_cache_hit_age_seconds",
            "Time since what a cache answered with had been read from the database.",
            (),
            _AGES,
            registry,
            telling,
        )

    def hit(self, level: str, age: float) -> None:
        """Count an answer of the cache at `level`, read `age` seconds ago."""
        self._reads.add(*self._hits[level])
        self._ages.add(age)

    def miss(self) -> None:
        """Count a read that went to the database."""
        self._reads.add(*self._miss)

    def failed(self) -> None:
        """Count a fault of the shared cache."""
        self._failures.add()


class LimitMetrics:
    """Counts what goes wrong with the counting of requests."""

    def __init__(self, registry: CollectorRegistry, telling: Telling) -> None:
        self._failures = Counts(
            "watchly_rate_limit_failures",
            "Requests for which what counts them all did not answer.",
            (),
            (),
            registry,
            telling,
        )

    def failed(self) -> None:
        """Count a request that was not counted as it should."""
        self._failures.add()


class Exchanged(Protocol):
    """A request that is over.

    `route` is the template of its address, None where there is none; `method` is a usual one, or "other".
    `received` and `sent` are bytes of the bodies.
    """

    @property
    def method(self) -> str: ...  # noqa: D102 - see the class

    @property
    def route(self) -> str | None: ...  # noqa: D102 - as above

    @property
    def status(self) -> int: ...  # noqa: D102 - as above

    @property
    def received(self) -> int: ...  # noqa: D102 - as above

    @property
    def sent(self) -> int: ...  # noqa: D102 - as above


class RequestMetrics:
    """Counts requests by the route that answered them."""

    def __init__(self, registry: CollectorRegistry, telling: Telling) -> None:
        telling.add(self._tell)  # first of all, for what follows tells it
        self._requests = Counts(
            "watchly_http_requests",
            "Requests that were answered.",
            ("route", "method", "status"),
            (),
            registry,
            telling,
        )
        self._seconds = Times(
            "watchly_http_request_seconds",
            "Time from the head of a request to the end of its reply.",
            ("route", "method"),
            _REQUESTS,
            registry,
            telling,
        )
        self._bytes = Counts(
            "watchly_http_bytes",
            "Bytes of the bodies of requests (in) and replies (out).",
            ("route", "direction"),
            (),
            registry,
            telling,
        )
        #: Those of each route, method and status that are not told yet.
        self._more: dict[tuple[str, str, int], _Requests] = {}
        self._in_flight = 0
        shown = Gauge(
            "watchly_http_requests_in_flight",
            "Requests that are being answered, streams among them.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        telling.add(lambda: shown.set(self._in_flight))
        self._telling = telling
        self._workers = Gauge(
            "watchly_workers",
            "Processes that answer requests.",
            registry=registry,
            multiprocess_mode="livesum",
        )

    def join(self) -> None:
        """Count this process among those that answer requests."""
        self._workers.set(1)

    def begin(self) -> None:
        """Count a request that has come."""
        self._in_flight += 1
        if not self._telling.is_due:
            self._telling.soon()

    def end(self, done: Exchanged, seconds: float) -> None:
        """Count a request that was answered, or broken off, after so long."""
        self._in_flight -= 1
        kind = done.route or "none", done.method, done.status
        more = self._more.get(kind)
        if more is None:
            more = self._more[kind] = _Requests()
        more.times[bisect_left(_REQUESTS, seconds)] += 1
        more.seconds += seconds
        more.received += done.received
        more.sent += done.sent
        if not self._telling.is_due:  # a stream may have begun long ago
            self._telling.soon()

    def _tell(self) -> None:
        told, self._more = self._more, {}
        for (route, method, status), more in told.items():
            self._requests.add(route, method, str(status), amount=sum(more.times))
            self._seconds.add_many(more.times, more.seconds, route, method)
            for direction, size in (("in", more.received), ("out", more.sent)):
                if size:
                    self._bytes.add(route, direction, amount=size)


class _Requests:
    """Some requests of a kind: how many took so long, and sums of the seconds and of the bytes."""

    __slots__ = ("received", "seconds", "sent", "times")

    def __init__(self) -> None:
        self.times = [0] * (len(_REQUESTS) + 1)
        self.seconds = 0.0
        self.received = self.sent = 0


class StepMetrics:
    """Counts steps by what they are and how they end."""

    def __init__(self, registry: CollectorRegistry, telling: Telling) -> None:
        def of(name: str, label: str, what: str) -> Callable[[float, str, str], None]:
            documentation = f"How long {what} took, by how it ended: ok, or the name of an error."
            times = Times(f"{name}_seconds", documentation, (label, "outcome"), _STEPS, registry, telling)
            return times.add

        #: Counts a step of each kind: its seconds, its name, and how it ended.
        self.add: Mapping[Kind, Callable[[float, str, str], None]] = {
            "statement": of("watchly_database_statement", "statement", "a round trip to the database"),
            "image_store": of("watchly_image_store_call", "call", "a call of the image store"),
            "publish": of("watchly_publish", "target", "telling a target of a change"),
            "use_case": of("watchly_use_case", "use_case", "a use case"),
        }


class PoolMetrics:
    """Counts how long connections are waited for, and shows how their pools are."""

    def __init__(self, registry: CollectorRegistry, telling: Telling) -> None:
        self._connections = Gauge(
            "watchly_pool_connections",
            "Connections to the database: all that are open, and the idle ones among them.",
            ("pool", "state"),
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._waiting = Gauge(
            "watchly_pool_waiting",
            "Callers who wait for a connection.",
            ("pool",),
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._refused = Counter(
            "watchly_pool_refused",
            "Callers who were left without a connection.",
            ("pool",),
            registry=registry,
        )
        self._refused_before: dict[str, int] = {}
        self._seconds = Times(
            "watchly_pool_acquire_seconds",
            "How long a connection was waited for.",
            ("pool",),
            _STEPS,
            registry,
            telling,
        )

    def acquired(self, pool: str, seconds: float) -> None:
        """Count a connection that was lent."""
        self._seconds.add(seconds, pool)

    def tell(self, pools: Callable[[], Mapping[str, PoolFigures]]) -> None:
        """Show how they are now."""
        for name, figures in pools().items():
            self._connections.labels(name, "open").set(figures.size)
            self._connections.labels(name, "idle").set(figures.idle)
            self._waiting.labels(name).set(figures.waiting)
            # That of a replica begins anew when its pool does.
            before = self._refused_before.get(name, 0)
            self._refused.labels(name).inc(max(0, figures.refused - before))
            self._refused_before[name] = figures.refused
