"""Sweeping while the service runs: what is due goes from the image store by itself."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import structlog

from watchly_adapters.container import Database
from watchly_core import Gallery
from watchly_core.errors import WatchlyError

_log = structlog.stdlib.get_logger("watchly.sweeping")


@asynccontextmanager
async def sweeping(database: Database, gallery: Gallery, every: timedelta) -> AsyncIterator[None]:
    """Sweep now and then while the block runs, one worker of all at a time; never if `every` is zero."""
    if not every:
        yield
        return
    task = asyncio.create_task(_sweep(database, gallery, every.total_seconds()))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _sweep(database: Database, gallery: Gallery, seconds: float) -> None:
    while True:
        # Not all workers at once.
        await asyncio.sleep(seconds * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
        try:
            async with database.alone("sweep") as alone:
                report = await gallery.sweep() if alone else None
        except WatchlyError as error:
            _log.warning("the sweep failed", reason=str(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, the next sweep may do better
            _log.exception("the sweep failed", exc_info=error)
        else:
            if report and report.deleted + report.failed:
                tell = _log.warning if report.failed else _log.info
                tell(
                    "swept images",
                    deleted=report.deleted,
                    failed=report.failed,
                    dead=report.dead,
                    reasons=report.reasons,
                )
