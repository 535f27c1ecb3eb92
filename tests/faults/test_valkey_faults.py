"""A shared cache in trouble, behind two services: every read is answered, and none is stale."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import pytest
from tests.faults.trials import Load, Trial
from tests.proxies import Bandwidth, Latency, LimitData, Proxy, ResetPeer, Timeout, Toxic
from tests.services import Service, wait_until
from tests.valkeys import ValkeyServer

SEED: Final = int(os.environ.get("FAULTS_SEED", "5"))


class Site(NamedTuple):
    """Two services, and their cache behind a proxy."""

    trial: Trial
    proxy: Proxy
    server: ValkeyServer

    def filled(self) -> bool:
        """Whether answers are in the cache."""
        with self.server.client() as client:
            return bool(client.dbsize())


@pytest.fixture(scope="module")
def site(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("cached")
    with ExitStack() as stack:
        server = stack.enter_context(ValkeyServer(folder / "valkey"))
        proxy = stack.enter_context(Proxy(("127.0.0.1", urlsplit(server.url).port or 0), seed=SEED))
        services = [
            stack.enter_context(served(folder / name, module_database, proxy)) for name in ("first", "second")
        ]
        yield Site(Trial(module_database, *(service.url for service in services), seed=SEED), proxy, server)
        for service in services:
            assert service.stop() == 0
            assert "Traceback" not in service.log


def served(folder: Path, database_url: str, proxy: Proxy) -> Service:
    folder.mkdir()
    return Service(
        folder / "log",
        *("--workers", "1"),
        DATABASE_URL=database_url,
        SECRET_KEY="0123456789abcdef" * 4,
        WATCHLY_HOME=str(folder / "home"),
        CACHE="shared",
        VALKEY_URL=f"valkey://{proxy.address}",
        LOG_LEVEL="error",
    )


@pytest.fixture
def load(site: Site) -> Iterator[Load]:
    """Clients at work while the cache is in use; whatever befalls it, they are told of no trouble."""
    with site.trial.trouble() as load:
        wait_until(site.filled, "answers are kept")
        yield load
    assert site.trial.told.trouble == 0


def test_it_is_killed(site: Site, load: Load) -> None:
    site.server.stop()
    load.goes_on()
    site.server.start()
    wait_until(site.filled, "it is used again")


def test_it_is_frozen(site: Site, load: Load) -> None:
    site.server.freeze()
    load.goes_on()
    site.server.thaw()


def test_it_is_flushed(site: Site, load: Load) -> None:
    with site.server.client() as client:
        for _ in range(3):
            client.flushall()
            load.goes_on(2)


def test_it_comes_back_with_what_is_old(site: Site, load: Load) -> None:
    """As one does that was restored: its answers are of versions that have passed since."""
    with site.server.client() as client:
        old = {key: client.dump(key) for key in client.scan_iter()}
        load.goes_on(20)
        for key, value in old.items():
            if value is not None:
                client.restore(key, 60_000, value, replace=True)
        load.goes_on(20)


@pytest.mark.parametrize(
    "toxic",
    [
        pytest.param(Latency(10, jitter=8), id="latency"),
        pytest.param(Latency(200, stream="upstream"), id="latency-too-long"),
        pytest.param(Bandwidth(50), id="bandwidth"),
        pytest.param(ResetPeer(), id="reset_peer"),
        pytest.param(LimitData(1_001), id="limit_data"),
        pytest.param(Timeout(), id="timeout"),
    ],
)
def test_the_way_to_it_is_bad(site: Site, load: Load, toxic: Toxic) -> None:
    with site.proxy.toxic(toxic) as active:
        load.goes_on()
        # It is left alone for some seconds once it has failed, and may be just now.
        wait_until(lambda: active.hits > 0, "there was trouble")


def test_the_way_to_it_is_cut(site: Site, load: Load) -> None:
    site.proxy.down()
    load.goes_on()
    site.proxy.up()
