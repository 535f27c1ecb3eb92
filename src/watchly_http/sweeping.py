"""Sweeping while the service runs: images that are due and what is good no longer go by themselves."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import structlog

from watchly_adapters.databases import Database
from watchly_adapters.settings import Settings
from watchly_core import Catalogue, Gallery
from watchly_core.api_keys import KEPT_FOR
from watchly_core.clocks import utc_now
from watchly_core.errors import Unavailable, WatchlyError
from watchly_core.expiry import drop_all, expire_signing_keys
from watchly_core.tasks import cancelled

#: Seconds for which a command waits until others have swept, or backed up; and between looks.
TURN_SECONDS: Final = 120.0
_TURN_INTERVAL: Final = 0.1

_log = structlog.stdlib.get_logger("watchly.sweeping")


@asynccontextmanager
async def sweeping(
    database: Database,
    gallery: Gallery | None,
    catalogue: Catalogue,
    settings: Settings,
    *,
    at_once: bool = False,
) -> AsyncIterator[None]:
    """Sweep now and then while the block runs, one process of all at a time; never if the interval is zero.

    The first sweep comes after a while as well, unless it is wanted `at_once`. Without a gallery there are
    no images.
    """
    if not settings.sweep_interval:
        yield
        return
    task = asyncio.create_task(_sweep(database, gallery, catalogue, settings, at_once=at_once))
    try:
        yield
    finally:
        await cancelled(task)


@asynccontextmanager
async def turn_to_sweep(database: Database, patience: float = TURN_SECONDS) -> AsyncIterator[None]:
    """Let nobody else sweep while the block runs; a sweep that is under way is waited for.

    Raises:
        Unavailable: others have been at it for `patience` seconds, or the database does not answer.
    """
    deadline = asyncio.get_running_loop().time() + patience
    while True:
        async with database.alone("sweep") as alone:
            if alone:
                yield
                return
        if asyncio.get_running_loop().time() > deadline:
            raise Unavailable(
                "database", f"others have been sweeping, or backing up, for {patience:g} s; try again later"
            )
        await asyncio.sleep(_TURN_INTERVAL)


async def drop_old(database: Database, catalogue: Catalogue, settings: Settings) -> int:
    """Drop what is good no longer, and events that are kept no longer; how many events."""
    now = utc_now()
    await drop_all(database.transactions, lambda tx, limit: tx.receipts.expire(now, limit))
    if "people" in database.keeps:
        await drop_all(database.transactions, lambda tx, limit: tx.sessions.expire(now, limit))
        await drop_all(database.transactions, lambda tx, limit: tx.throttles.expire(now, limit))
        await drop_all(database.transactions, lambda tx, limit: tx.api_keys.expire(now - KEPT_FOR, limit))
        await expire_signing_keys(database.people, database.transactions, utc_now)
    retention = settings.log_retention
    return 0 if retention is None else await catalogue.prune(retention)


async def _sweep(
    database: Database, gallery: Gallery | None, catalogue: Catalogue, settings: Settings, *, at_once: bool
) -> None:
    seconds = settings.sweep_interval.total_seconds()
    while True:
        # Not all workers at once.
        pause = 0.0 if at_once else seconds * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        at_once = False
        await asyncio.sleep(pause)
        try:
            async with database.alone("sweep") as alone:
                pruned = await drop_old(database, catalogue, settings) if alone else 0
                report = await gallery.sweep() if alone and gallery else None
        except WatchlyError as error:
            _log.warning("the sweep failed", reason=str(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, the next sweep may do better
            _log.exception("the sweep failed", exc_info=error)
        else:
            if pruned:
                _log.info("pruned events", events=pruned)
            if report and report.deleted + report.failed:
                tell = _log.warning if report.failed else _log.info
                tell(
                    "swept images",
                    deleted=report.deleted,
                    failed=report.failed,
                    dead=report.dead,
                    reasons=report.reasons,
                )
