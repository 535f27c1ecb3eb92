"""Steps: how they are counted, told and traced, and that parts are watched without being changed."""

from __future__ import annotations

import asyncio
from copy import copy

import pytest
from prometheus_client.parser import text_string_to_metric_families as read_text

from watchly_adapters.metrics import Metrics
from watchly_adapters.steps import Steps, spent
from watchly_adapters.watching import watched
from watchly_core.errors import NotSignedIn

pytestmark = pytest.mark.anyio


class Door:
    """What is watched."""

    def __init__(self, word: str) -> None:
        self.word = word

    async def enter(self, word: str, *, quietly: bool = False) -> str:
        """Let in who knows the word."""
        await asyncio.sleep(0)
        if word != self.word:
            raise NotSignedIn(f"{word} is not the word")
        return "in, quietly" if quietly else "in"

    async def leave(self) -> str:
        return "out"


async def samples(metrics: Metrics) -> dict[tuple[str, str], float]:
    """How many use cases were counted, by their names and outcomes."""
    return {
        (sample.labels["use_case"], sample.labels["outcome"]): sample.value
        for family in read_text((await metrics.page()).decode())
        for sample in family.samples
        if sample.name == "watchly_use_case_seconds_count"
    }


async def test_calls_of_a_watched_part_are_counted_by_how_they_end() -> None:
    metrics = Metrics()
    door = watched(Door("sesame"), Steps(metrics.steps), "use_case", {"enter": "door.enter"})

    assert isinstance(door, Door)
    assert await door.enter("sesame", quietly=True) == "in, quietly"
    with pytest.raises(NotSignedIn, match="barley is not the word"):
        await door.enter("barley")
    with pytest.raises(TypeError):
        await door.enter()  # type: ignore[call-arg]  # what is wrong is for the call to say
    assert await door.leave() == "out"
    left = asyncio.ensure_future(door.enter("sesame"))
    await asyncio.sleep(0)
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left

    found = await samples(metrics)
    assert found == {
        ("door.enter", "ok"): 1,
        ("door.enter", "NotSignedIn"): 1,
        ("door.enter", "TypeError"): 1,
        ("door.enter", "CancelledError"): 1,
    }


async def test_a_copy_is_watched_for_itself() -> None:
    metrics = Metrics()
    door = watched(Door("sesame"), Steps(metrics.steps), "use_case", {"enter": "door.enter"})
    other = copy(door)
    other.word = "barley"

    assert await other.enter("barley") == "in"
    assert await door.enter("sesame") == "in"

    assert await samples(metrics) == {("door.enter", "ok"): 2}


async def test_what_is_not_watched_of_its_class_stays_so() -> None:
    metrics = Metrics()
    watched(Door("sesame"), Steps(metrics.steps), "use_case", {"enter": "door.enter"})

    await Door("sesame").enter("sesame")

    assert await samples(metrics) == {}


async def test_slow_statements_are_told_by_their_names() -> None:
    told: list[str] = []
    steps = Steps(Metrics().steps, slow=0.01, tell=lambda name, seconds: told.append(f"{name} {seconds > 0}"))

    with steps.step("statement", "movies.get"):
        pass
    with steps.step("use_case", "catalogue.get"), steps.step("statement", "movies.find"):
        await asyncio.sleep(0.02)

    assert told == ["movies.find True"]


async def test_a_request_is_told_what_its_steps_took() -> None:
    steps = Steps(Metrics().steps, timed=True)
    token = spent.set({})
    try:
        for _ in range(2):
            with steps.step("statement", "movies.get"):
                await asyncio.sleep(0.01)
        mine = spent.get()
    finally:
        spent.reset(token)
    with steps.step("statement", "movies.get"):
        pass

    assert mine is not None
    assert set(mine) == {"statement"}
    assert mine["statement"] >= 0.02
