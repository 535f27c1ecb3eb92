"""What is counted while the service runs, as Prometheus reads it.

Names and units follow its conventions. A label holds one of a few words that stand in the code: the template
of an address, the name of a statement or of an error; never an id, a path or what somebody sent.
"""

from __future__ import annotations

import asyncio
import platform
import struct
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from importlib.metadata import version
from typing import Final, TypeAlias

from prometheus_client import CollectorRegistry, generate_latest, openmetrics, start_http_server
from prometheus_client.metrics_core import InfoMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from watchly_adapters.counts import Telling
from watchly_adapters.meters import (
    CacheMetrics,
    LimitMetrics,
    PoolFigures,
    PoolMetrics,
    RequestMetrics,
    StepMetrics,
)
from watchly_adapters.tallies import is_alone
from watchly_core.errors import Misconfigured
from watchly_core.threads import Threads

#: Seconds that gauges may take which are asked for when a page is written: more than parts have for a sign of
#: life, so that it shows which of them gives none, and less than Prometheus has for a page.
_PATIENCE: Final = 4.0
#: Seconds for which they are kept: anybody may ask for pages.
_KEPT: Final = 1.0
#: How often a page is begun that met with a file which another worker had just made, and not yet filled.
_ATTEMPTS: Final = 3

#: Asks for gauges.
Ask: TypeAlias = Callable[[], Awaitable[Iterable[Metric]]]


@cache
def _version() -> str:
    """Read once: it takes longer than all the rest of a page of metrics."""
    return version("watchly")


class Metrics:
    """What this process counts, and the page that shows it.

    Workers of `watchly serve` lay what they count together (see `tallies`), and so the page of each is that
    of all. A process of another kind shows what it counted itself.

    Attributes:
        cache: counts what becomes of reads that a cache may answer.
        limits: counts requests that were not counted as they should.
        requests: counts requests.
        steps: counts the steps that they take.
        pools: counts how long connections are waited for.
    """

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._telling = Telling()
        self.cache: CacheMetrics = CacheMetrics(registry, self._telling)
        self.requests: RequestMetrics = RequestMetrics(registry, self._telling)
        self.limits: LimitMetrics = LimitMetrics(registry, self._telling)
        self.steps: StepMetrics = StepMetrics(registry, self._telling)
        self.pools: PoolMetrics = PoolMetrics(registry, self._telling)
        alone = is_alone()
        self._shown = registry if alone else CollectorRegistry()
        if not alone:
            MultiProcessCollector(self._shown)  # type: ignore[no-untyped-call]  # the library has no types there
        self._asked = _Asked()
        self._shown.register(_Build())
        self._shown.register(self._asked)
        self._gauges: list[Ask] = []
        self._asks: dict[Ask, asyncio.Task[Iterable[Metric]]] = {}
        self._ask_at = 0.0
        self._thread = Threads(1, "watchly-metrics")
        #: The pages that are wanted and not begun, by whether they are in OpenMetrics.
        self._wanted: dict[bool, asyncio.Task[bytes]] = {}

    def also(self, ask: Ask) -> None:
        """Show as well what `ask` gives when a page is wanted; nothing, if that fails or takes too long."""
        self._gauges.append(ask)

    def show_pools(self, pools: Callable[[], Mapping[str, PoolFigures]]) -> None:
        """Show how these pools of connections are, each by its name."""
        self._telling.add(partial(self.pools.tell, pools))

    @contextmanager
    def served(self, host: str, port: int) -> Iterator[None]:
        """Serve the page while the block runs, for processes that have no other way to show it.

        Raises:
            Misconfigured: nothing can listen there.
        """
        try:
            server, thread = start_http_server(port, host, self._shown)
        except OSError as error:
            raise Misconfigured(
                f"METRICS_PORT: cannot listen on {host}, port {port}: {error.strerror};"
                " an example: METRICS_PORT=9464"
            ) from error
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    async def page(self, *, as_openmetrics: bool = False) -> bytes:
        """All that is counted, in the text format of Prometheus or in OpenMetrics.

        It is written in a thread, one page at a time, for it reads a file or more of each worker. Who asks
        while one is written shares the next with all who do.
        """
        self._telling.now()
        page = self._wanted.get(as_openmetrics)
        if page is None or page.done():  # done: cancelled before it was begun
            page = asyncio.create_task(self._made(as_openmetrics))
            self._wanted[as_openmetrics] = page
        return await asyncio.shield(page)

    async def _made(self, as_openmetrics: bool) -> bytes:
        loop = asyncio.get_running_loop()
        if loop.time() >= self._ask_at:
            self._asked.gauges = [gauge for gauges in await self._answers() for gauge in gauges]
            self._ask_at = loop.time() + _KEPT
        return await self._thread.run(partial(self._written, as_openmetrics))

    async def _answers(self) -> Sequence[Iterable[Metric]]:
        """What is answered in time; who has not given up the last question is not asked another."""
        for ask in self._gauges:
            if ask not in self._asks or self._asks[ask].done():
                self._asks[ask] = asyncio.create_task(_answer(ask))
        if not self._asks:
            return ()
        answered, late = await asyncio.wait(self._asks.values(), timeout=_PATIENCE)
        for task in late:
            # Not waited for, and once: what waits for a frozen server does not end by being cancelled.
            if not task.cancelling():
                task.cancel()
        return [task.result() for task in answered if not task.cancelled()]

    def _written(self, as_openmetrics: bool) -> bytes:
        self._wanted.pop(as_openmetrics, None)  # whoever asks from now on may have counted more
        write = openmetrics.exposition.generate_latest if as_openmetrics else generate_latest
        for _ in range(_ATTEMPTS - 1):
            with suppress(struct.error):
                return write(self._shown)
        return write(self._shown)


class _Asked(Collector):
    """What was asked for the page that is written."""

    def __init__(self) -> None:
        self.gauges: Sequence[Metric] = ()

    def collect(self) -> Iterable[Metric]:
        """The gauges."""
        return self.gauges


async def _answer(ask: Ask) -> Iterable[Metric]:
    try:
        return await ask()
    except Exception:  # noqa: BLE001 - whatever it is, a page without these is better than none
        return ()


class _Build(Collector):
    """What runs here; of no process, for several cannot lay such a thing together."""

    def __init__(self) -> None:
        self._build = {"version": _version(), "python": platform.python_version()}

    def collect(self) -> Iterable[Metric]:
        """The one metric."""
        yield InfoMetricFamily("watchly_build", "What runs here.", value=self._build)
