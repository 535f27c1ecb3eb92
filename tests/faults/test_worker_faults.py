"""Workers and whole services that are killed, or told to leave, under a load of writers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from tests.faults.havoc import workers
from tests.faults.trials import Trial
from tests.services import Service, wait_until

SEED: Final = int(os.environ.get("FAULTS_SEED", "5"))


class Site:
    """A service that is started again at the same address, and those who write to it.

    Attributes:
        service: the one that runs.
        trial: those who write to it.
    """

    def __init__(self, folder: Path, database_url: str, stack: ExitStack) -> None:
        self._folder, self._database_url, self._stack = folder, database_url, stack
        self._started = 0
        self.service = self.start("0")
        self.trial = Trial(database_url, self.service.url, seed=SEED)

    def start(self, port: str) -> Service:
        self._started += 1
        self.service = self._stack.enter_context(
            Service(
                self._folder / f"log-{self._started}",
                *("--workers", "2", "--port", port),
                DATABASE_URL=self._database_url,
                SECRET_KEY="0123456789abcdef" * 4,
                WATCHLY_HOME=str(self._folder / "home"),
                LOG_LEVEL="error",
            )
        )
        return self.service

    def start_again(self) -> None:
        assert "Traceback" not in self.service.log
        self.start(self.service.url.rpartition(":")[2])


@pytest.fixture(scope="module")
def site(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(tmp_path_factory.mktemp("services"), module_database, stack)


def test_a_killed_worker_is_replaced(site: Site) -> None:
    with site.trial.trouble() as load:
        victim, other = workers(site.service)
        os.kill(victim, signal.SIGKILL)
        wait_until(
            lambda: len(now := workers(site.service)) == 2 and victim not in now,
            "another has taken its place",
        )
        assert other in workers(site.service)
        load.goes_on()


@pytest.mark.parametrize("times", [1, 2])
def test_a_worker_that_is_told_to_leave_by_a_stranger_stays(site: Site, times: int) -> None:
    with site.trial.trouble() as load:
        before = workers(site.service)
        for _ in range(times):
            os.kill(before[0], signal.SIGTERM)
            load.goes_on(3)
        assert workers(site.service) == before


@pytest.mark.parametrize("times", [1, 2])
def test_a_service_that_is_told_to_leave_loses_nothing(site: Site, times: int) -> None:
    with site.trial.trouble():
        for _ in range(times):
            site.service.process.send_signal(signal.SIGTERM)
        assert site.service.process.wait(60) == 0
        site.start_again()


def test_a_killed_service_leaves_nothing_half_done(site: Site) -> None:
    with site.trial.trouble():
        site.service.kill()
        site.start_again()
