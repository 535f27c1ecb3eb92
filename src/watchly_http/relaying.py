"""Relaying while the service, or the command, runs: one process of all at a time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import structlog

from watchly_adapters.container import Container
from watchly_adapters.databases import Database
from watchly_core.dispatch import Dispatch
from watchly_core.errors import WatchlyError
from watchly_core.relays import Round
from watchly_core.tasks import cancelled

_log = structlog.stdlib.get_logger("watchly.relaying")

#: Seconds between attempts to be the one that relays.
_TURN: Final = 1.0
#: Seconds that messages which are under way have to arrive when the block ends.
_NOTICE: Final = 2.0


@asynccontextmanager
async def relaying(container: Container, *, on: bool = True) -> AsyncIterator[None]:
    """Tell targets of changes while the block runs, if no other process does; never if it is not `on`.

    Raises:
        Misconfigured: a library is missing.
    """
    if not on:
        yield
        return
    stop = asyncio.Event()
    task = asyncio.create_task(_relay(container.database(), container.dispatch(), stop))
    try:
        yield
    finally:
        stop.set()
        try:
            await asyncio.wait({task}, timeout=_NOTICE)
        finally:
            await cancelled(task)


async def _relay(database: Database, dispatch: Dispatch, stop: asyncio.Event) -> None:
    while not stop.is_set():
        try:
            async with database.alone("relay") as alone:
                if alone:
                    _log.info("this process relays")
                    await dispatch.run(stop, _tell)
        except WatchlyError as error:
            _log.warning("the relay was interrupted", reason=str(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, it may do better in a while
            _log.exception("the relay was interrupted", exc_info=error)
        # Not all workers at once.
        with suppress(TimeoutError):
            async with asyncio.timeout(_TURN * random.uniform(0.5, 1.0)):  # noqa: S311 - no secret
                await stop.wait()


def _tell(name: str, done: Round) -> None:
    tell = _log.warning if done.reason else _log.debug
    tell(
        "the target takes nothing" if done.down else "told a target of changes",
        target=name,
        sent=done.sent,
        failed=done.failed,
        dead=done.dead,
        reason=done.reason or None,
    )
