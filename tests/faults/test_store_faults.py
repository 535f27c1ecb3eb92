"""A bad way between a service and its image store, and between its clients and itself, while images travel.

Whoever vanishes, and wherever it breaks off, nothing is left that nobody refers to, and nothing is shown that
is not there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final, NamedTuple
from urllib.parse import quote, urlsplit

import pytest
from tests.faults.stores import Cloud
from tests.faults.trials import Load, Shop, Trial
from tests.faults.uploaders import Odds, Uploaders
from tests.faults.wire import send
from tests.proxies import (
    Bandwidth,
    Latency,
    LimitData,
    Proxy,
    ResetPeer,
    SlowClose,
    Timeout,
    Toxic,
)
from tests.services import Service, wait_until

from watchly_adapters.settings import read_settings
from watchly_adapters.testing.cloudinary import CloudinaryEmulator

SEED: Final = int(os.environ.get("FAULTS_SEED", "5"))


class Site(NamedTuple):
    """A service between two proxies: its clients', and the one to its store."""

    trial: Trial
    front: Proxy
    back: Proxy


def host_of(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


@pytest.fixture(scope="module")
def site(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("images")
    with ExitStack() as stack:
        emulator = stack.enter_context(CloudinaryEmulator())
        back = stack.enter_context(Proxy(host_of(emulator.upload_prefix), seed=SEED))
        variables = {
            "DATABASE_URL": module_database,
            "SECRET_KEY": "0123456789abcdef" * 4,
            "WATCHLY_HOME": str(folder / "home"),
            "SWEEP_INTERVAL": "1 h",
            "LOG_LEVEL": "error",
        }
        direct, proxied = (quote(f"http://{place}", safe="") for place in (host(emulator), back.address))
        url = emulator.url.replace(f"upload_prefix={direct}", f"upload_prefix={proxied}", 1)
        assert url != emulator.url
        service = stack.enter_context(
            Service(folder / "log", *("--workers", "1"), CLOUDINARY_URL=url, **variables)
        )
        front = stack.enter_context(Proxy(host_of(service.url), seed=SEED))
        settings = read_settings({**variables, "CLOUDINARY_URL": emulator.url})
        images = Cloud(emulator)
        trial = Trial(module_database, service.url, seed=SEED, shop=Shop(images, settings))
        odds = Odds(leave=0.1, pause=0.2)
        clients = Uploaders(f"http://{front.address}", images.deliver, trial.told, seed=SEED, odds=odds)
        clients.begin(12)
        trial.operate = clients.operate
        yield Site(trial, front, back)
        assert service.stop() == 0
        assert "Traceback" not in service.log


def host(emulator: CloudinaryEmulator) -> str:
    return urlsplit(emulator.upload_prefix).netloc


@pytest.fixture
def load(site: Site) -> Iterator[Load]:
    """Clients that write images, before, in and after the trouble."""
    with site.trial.trouble() as load:
        yield load


@pytest.mark.parametrize(
    "toxic",
    [
        pytest.param(Latency(60, jitter=40), id="latency"),
        pytest.param(ResetPeer(), id="reset_peer"),
        pytest.param(ResetPeer(stream="upstream"), id="reset_peer-upstream"),
        pytest.param(LimitData(100), id="limit_data"),
        pytest.param(LimitData(5_001, stream="upstream"), id="limit_data-upstream"),
        pytest.param(Timeout(50), id="timeout"),
    ],
)
def test_the_way_to_the_store_is_bad(site: Site, load: Load, toxic: Toxic) -> None:
    accepted = site.back.accepted
    with site.back.toxic(toxic) as active:
        # It is left alone for a while once it has failed.
        wait_until(lambda: active.hits > 0 and site.back.accepted > accepted, "the store was asked")
        if isinstance(toxic, Latency):
            load.goes_on()
        else:
            load.suffers()


def test_the_way_to_the_store_is_cut(site: Site, load: Load) -> None:
    site.back.down()
    load.suffers()
    assert send("GET", f"{site.trial.url}/api/movies").status == 200
    site.back.up()


@pytest.mark.parametrize(
    "toxic",
    [
        pytest.param(Latency(20, jitter=20, stream="upstream"), id="slow"),
        pytest.param(Bandwidth(100, stream="upstream"), id="bandwidth"),
        pytest.param(ResetPeer(5, stream="upstream", toxicity=0.6), id="reset_peer"),
        pytest.param(ResetPeer(toxicity=0.6), id="reset_peer-downstream"),
        pytest.param(LimitData(2_001, stream="upstream", toxicity=0.6), id="limit_data"),
        pytest.param(LimitData(300, toxicity=0.6), id="limit_data-downstream"),
        pytest.param(SlowClose(50, stream="upstream"), id="slow_close"),
        pytest.param(Timeout(20, stream="upstream", toxicity=0.6), id="timeout"),
    ],
)
def test_the_way_of_clients_is_bad(site: Site, load: Load, toxic: Toxic) -> None:
    accepted = site.front.accepted
    with site.front.toxic(toxic) as active:
        wait_until(lambda: active.hits > 5 and site.front.accepted > accepted + 8, "there was trouble")
        load.goes_on(2)


def test_clients_vanish_and_cost_nothing(site: Site, load: Load) -> None:
    for reset in (True, False):
        load.goes_on(3)
        wait_until(lambda: site.front.links > 0, "some are in the middle of it")
        site.front.cut(reset=reset)
