"""The trace of the work under way."""

from __future__ import annotations

import asyncio

import pytest

from watchly_core.traces import current_trace, is_traceparent, traced_by

ONE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OTHER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


def test_nobody_traces_unless_somebody_does() -> None:
    assert current_trace() is None
    with traced_by(ONE):
        assert current_trace() == ONE
        with traced_by(OTHER):
            assert current_trace() == OTHER
        with traced_by(None):
            assert current_trace() is None
        assert current_trace() == ONE
    assert current_trace() is None


def test_a_block_that_fails_ends_its_trace() -> None:
    with pytest.raises(ZeroDivisionError), traced_by(ONE):
        raise ZeroDivisionError
    assert current_trace() is None


def test_tasks_have_the_trace_of_who_began_them() -> None:
    async def begin() -> None:
        gate = asyncio.Event()

        async def look() -> str | None:
            await gate.wait()
            return current_trace()

        with traced_by(ONE):
            task = asyncio.create_task(look())
        with traced_by(OTHER):
            gate.set()
            assert await task == ONE
            assert current_trace() == OTHER

    asyncio.run(begin())


@pytest.mark.parametrize(
    "text",
    [
        "",
        ONE.upper(),
        ONE.replace("4bf9", "4bfg"),
        ONE.replace("4bf9", "٤٤٤٤"),
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
        "01" + ONE[2:],
        "ff" + ONE[2:],
        ONE + "-",
        ONE + "0",
        ONE + "\n",
        " " + ONE,
        ONE[:-1],
        ONE.replace("-", ""),
        ONE.replace("-", "_"),
        f"{ONE}\r\nEvil: yes",
    ],
)
def test_what_is_no_traceparent_is_no_trace(text: str) -> None:
    assert not is_traceparent(text)
    with traced_by(ONE), traced_by(text):
        assert current_trace() is None


@pytest.mark.parametrize("text", [ONE, OTHER, ONE[:-2] + "ff", "00-" + "0" * 31 + "1-" + "0" * 15 + "1-00"])
def test_what_is_one_is_taken_as_it_is(text: str) -> None:
    assert is_traceparent(text)
    with traced_by(text):
        assert current_trace() == text
