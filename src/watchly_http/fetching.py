"""Fetching published keys while the service runs: those that are published no longer are soon forgotten."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import structlog

from watchly_core.errors import Unavailable
from watchly_core.tasks import cancelled

if TYPE_CHECKING:
    from watchly_adapters.security import PublishedKeys

_log = structlog.stdlib.get_logger("watchly.fetching")

#: Seconds between requests for the keys, and after one that got no answer.
EVERY: Final = 10.0
_AGAIN: Final = 1.0


@asynccontextmanager
async def fetching(keys: PublishedKeys | None, *, every: float = EVERY) -> AsyncIterator[None]:
    """Fetch the keys at once, and now and then, while the block runs, if there are any to fetch."""
    if keys is None:
        yield
        return
    task = asyncio.create_task(_fetch(keys, every))
    try:
        yield
    finally:
        await cancelled(task)
        keys.close()


async def _fetch(keys: PublishedKeys, every: float) -> None:
    failing = False
    while True:
        try:
            await keys.fetch()
        except Unavailable as error:
            if not failing:
                _log.warning("keys cannot be fetched", reason=str(error), known=keys.known)
            failing = True
        except Exception as error:  # noqa: BLE001 - whatever it is, it may do better in a while
            _log.exception("keys cannot be fetched", exc_info=error)
            failing = True
        else:
            if failing:
                _log.info("keys were fetched again", known=keys.known)
            failing = False
        # Not all workers at once.
        await asyncio.sleep(min(every, _AGAIN) if failing else every * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
