"""Tasks in the background."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from watchly_core.tasks import cancelled


def test_a_task_that_loses_a_cancellation_ends_all_the_same() -> None:
    async def run() -> tuple[int, bool]:
        lost = 0

        async def work() -> None:
            nonlocal lost
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    lost += 1
                    if lost > 1:
                        raise

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        await asyncio.wait_for(cancelled(task), 30)
        return lost, task.cancelled()

    assert asyncio.run(run()) == (2, True)


def test_who_is_cancelled_while_tasks_end_sees_them_end_all_the_same() -> None:
    async def run() -> list[bool]:
        go_on, stubborn = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                stubborn.set()
                while not go_on.is_set():
                    with suppress(asyncio.CancelledError):
                        await go_on.wait()

        tasks = [asyncio.create_task(work()) for _ in range(2)]
        await asyncio.sleep(0)
        ending = asyncio.create_task(cancelled(*tasks))
        async with asyncio.timeout(30):
            await stubborn.wait()
            ending.cancel()
            await asyncio.sleep(0)
            assert not ending.done()
            go_on.set()
            await asyncio.wait({ending})
        return [task.cancelled() for task in (ending, *tasks)]

    assert asyncio.run(run()) == [True, True, True]
