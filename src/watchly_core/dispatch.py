"""Dispatch: the relay at work on all targets at once, so that none waits for another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from watchly_core.contention import repeated
from watchly_core.errors import TargetNotFound
from watchly_core.messages import Target
from watchly_core.ports import ChangeSignal, Publisher, Transactions
from watchly_core.relays import Relay, Round
from watchly_core.tasks import cancelled

__all__ = ["Dispatch", "Tell"]

#: Is told of a round of the target of that name.
Tell: TypeAlias = Callable[[str, Round], None]

#: Seconds between looks at the list of targets.
_LOOK: Final = 2.0


def _say_nothing(_: str, __: Round) -> None:
    """Tell nobody."""


class Dispatch:
    """Tells all targets of the changes, each at its own pace.

    Args:
        relay: tells one of them.
        transactions: where they are noted.
        signal: tells of new changes.
        brokers: makes the publishers of targets that are there by configuration, by their names.
        webhook: makes the publisher of a target that has a URL.

    Attributes:
        brokers: see the argument.
        webhook: see the argument.
    """

    def __init__(
        self,
        relay: Relay,
        transactions: Transactions,
        signal: ChangeSignal,
        *,
        brokers: Mapping[str, Callable[[], Publisher]],
        webhook: Callable[[Target], Publisher],
    ) -> None:
        self._relay = relay
        self._transactions = transactions
        self._signal = signal
        self.brokers: Mapping[str, Callable[[], Publisher]] = brokers
        self.webhook: Callable[[Target], Publisher] = webhook

    async def run(self, stop: asyncio.Event, tell: Tell = _say_nothing) -> None:
        """Go on until `stop`, with targets that come, and without those that go.

        Rounds that are under way at the stop end first, which takes as long as the targets do; who cannot
        wait cancels. `tell` is told of each round of a target that sent something, or failed to.

        Raises:
            Unavailable: the database does not answer.
            RelaySuperseded: another relay is at work.
        """
        tasks: dict[str, asyncio.Task[None]] = {}
        stopped = asyncio.create_task(_wait(stop))
        try:
            await self._note_brokers()
            while not stop.is_set():
                targets = {target.name: target for target in await self._targets()}
                await cancelled(*(task for name, task in tasks.items() if name not in targets))
                for name, target in targets.items():
                    if name not in tasks and (publisher := self._publisher(target)):
                        tasks[name] = asyncio.create_task(self._serve(name, publisher, tell, stop))
                await asyncio.wait(
                    [stopped, *tasks.values()], timeout=_LOOK, return_when=asyncio.FIRST_COMPLETED
                )
                for name in [name for name, task in tasks.items() if task.done()]:
                    if not (task := tasks.pop(name)).cancelled():
                        task.result()
            await asyncio.gather(*tasks.values())
        finally:
            await cancelled(stopped, *tasks.values())
            # Retrieved, or asyncio would log them as lost: the first one tells enough.
            await asyncio.gather(*tasks.values(), return_exceptions=True)

    @repeated
    async def _note_brokers(self) -> None:
        async with self._transactions() as tx:
            for name in self.brokers:
                await tx.relays.add(Target(name))

    @repeated
    async def _targets(self) -> Sequence[Target]:
        async with self._transactions() as tx:
            return await tx.relays.targets()

    def _publisher(self, target: Target) -> Publisher | None:
        """What tells a target; None for a broker that is not configured any more."""
        if target.url is not None:
            return self.webhook(target)
        make = self.brokers.get(target.name)
        return None if make is None else make()

    async def _serve(self, name: str, publisher: Publisher, tell: Tell, stop: asyncio.Event) -> None:
        """Tell one target, until the stop or until it is removed."""
        try:
            while not stop.is_set():
                seen = self._signal.count
                done = await self._relay.round(name, publisher)
                if done.sent or done.reason:
                    tell(name, done)
                if done.wait:
                    await self._pause(None if done.down else seen, done.wait, stop)
        except TargetNotFound:
            return
        finally:
            await publisher.close()

    async def _pause(self, seen: int | None, seconds: float, stop: asyncio.Event) -> None:
        """Wait for so long, or for new changes where they matter, or for the stop."""
        waits = [asyncio.create_task(_wait(stop))]
        if seen is not None:
            waits.append(asyncio.create_task(self._signal.beyond(seen)))
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancelled(*waits)


async def _wait(stop: asyncio.Event) -> None:
    await stop.wait()
