"""Tasks in the background."""

from __future__ import annotations

import asyncio

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
