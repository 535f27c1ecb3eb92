"""A service in trouble: a small load of clients, one who follows the feed, and the checker at the end."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from psycopg.conninfo import conninfo_to_dict, make_conninfo
from tests.faults.checker import read_tables, sweep_later, violations
from tests.faults.consumers import Consumer
from tests.faults.stores import Images
from tests.faults.told import Told
from tests.faults.writers import Writers
from tests.proxies import Proxy, Server
from tests.services import as_url, wait_until

from watchly_adapters.settings import Settings

_THREADS: Final = 3
#: Seconds between the operations of a client: the load is a small one.
_PAUSE: Final = 0.01
#: Writes that are acknowledged before the trouble, and after it.
_SOME: Final = 8
#: Seconds in which what clients have left behind is done with.
_SETTLED: Final = 20.0


class Load:
    """Clients that are at work while it is entered.

    Args:
        operate: does one operation, as its number says.
        told: what they were told.
    """

    def __init__(self, operate: Callable[[int], None], told: Told, numbers: Iterator[int]) -> None:
        self._operate, self._told, self._numbers = operate, told, numbers
        self._lock, self._over = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._work, name="client") for _ in range(_THREADS)]

    def goes_on(self, writes: int = _SOME) -> None:
        """Wait until so many more writes are acknowledged."""
        wanted = self._told.acknowledged + writes
        wait_until(lambda: self._told.acknowledged >= wanted, f"{writes} more writes: {self._told.counts}")

    def suffers(self, replies: int = 1) -> None:
        """Wait until so many more requests are answered that the service is in trouble."""
        wanted = self._told.trouble + replies
        wait_until(lambda: self._told.trouble >= wanted, f"it was in trouble: {self._told.counts}")

    def _work(self) -> None:
        while not self._over.wait(_PAUSE):
            with self._lock:
                number = next(self._numbers)
            try:
                self._operate(number)
            except Exception as error:  # noqa: BLE001 - a thread that dies must not do so in silence
                self._told.object(f"operation {number} failed: {error!r}")
                return

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


class Shop(NamedTuple):
    """Where a service keeps images, and its settings, past whatever makes trouble."""

    images: Images
    settings: Settings


class Trial:
    """Services that share a database, and all that clients were told of it.

    Args:
        database_url: of the database, past whatever makes trouble.
        urls: where the services answer.
        seed: of all chance.
        shop: what is swept, and compared with the rest, at the end of all trouble.
        headers: those that say who the writers are.

    Attributes:
        database_url: as given.
        shop: as given.
        told: what clients were told so far.
        operate: does one operation of a client, as its number says.
    """

    def __init__(
        self,
        database_url: str,
        *urls: str,
        seed: int,
        shop: Shop | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.database_url, self._urls, self.shop = database_url, urls, shop
        self._numbers = itertools.count()
        self.told = Told()
        self.operate = Writers(urls, self.told, seed=seed, headers=headers).operate

    @property
    def url(self) -> str:
        """Where the first of the services answers."""
        return self._urls[0]

    @contextmanager
    def trouble(self) -> Iterator[Load]:
        """Make trouble in this block, and end it: clients are at work before, meanwhile and after.

        Then nothing may be wrong.
        """
        with Consumer(*self._urls) as consumer:
            with Load(self.operate, self.told, self._numbers) as load:
                load.goes_on()
                yield load
                load.goes_on()
            self.check(consumer)

    def check(self, consumer: Consumer) -> None:
        """Nothing is wrong, now that services work; what a client has left behind may still be under way."""
        deadline = time.monotonic() + _SETTLED
        while (found := self._found(consumer)) and time.monotonic() < deadline:
            time.sleep(0.1)  # between looks, not in place of one
        assert not found, (found, self.told.counts)

    def _found(self, consumer: Consumer) -> list[str]:
        swept = None if self.shop is None else asyncio.run(sweep_later(self.shop.settings))
        consumed = consumer.finish()
        tables = read_tables(self.database_url)
        images = None if self.shop is None else self.shop.images
        found = violations(
            tables,
            told=self.told,
            consumed=consumed,
            assets=None if images is None else images.assets(),
            uploads=None if images is None else images.uploads(),
        )
        failed = [f"the sweep came to {swept}"] if swept and (swept.failed or swept.dead) else []
        return [*found, *consumer.wrong, *failed]


def server_of(database_url: str) -> Server:
    """Where the server of a database listens."""
    parts = conninfo_to_dict(database_url)
    host, port = str(parts.get("host") or "127.0.0.1"), int(parts.get("port") or 5432)
    return Path(host, f".s.PGSQL.{port}") if host.startswith("/") else (host, port)


def through(proxy: Proxy, database_url: str) -> str:
    """The URL of a database by way of a proxy."""
    return as_url(make_conninfo(database_url, host="127.0.0.1", port=proxy.port))
