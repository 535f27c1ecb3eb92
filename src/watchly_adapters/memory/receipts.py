"""The receipts of writes in memory."""

from __future__ import annotations

from datetime import datetime
from typing import TypeAlias

import msgspec

from watchly_adapters.partial import Turn
from watchly_core.errors import KeyReused, RequestInProgress
from watchly_core.receipts import Claim, KeptReply


class Receipt(msgspec.Struct, frozen=True):
    """The digest of a request, the reply to it, and until when that is good."""

    digest: bytes
    reply: KeptReply
    until: datetime


#: What a receipt is kept under: the actor, and the key.
ClaimedName: TypeAlias = tuple[str, str]


class MemoryReceipts:
    """Satisfies `ports.Receipts`; claims await no turn.

    Args:
        kept: what is committed.
        turn: that of the transaction among all of them.
    """

    def __init__(self, kept: dict[ClaimedName, Receipt], turn: Turn) -> None:
        self._kept, self._turn = kept, turn
        self._new: dict[ClaimedName, Receipt] = {}
        self._expired: dict[ClaimedName, Receipt] = {}

    async def claim(self, claim: Claim, now: datetime) -> KeptReply | None:
        """See the port."""
        name = claim.actor, claim.key
        if not self._turn.claim(name):
            raise RequestInProgress
        kept = self._new.get(name) or self._kept.get(name)
        if kept is None or kept.until <= now:
            return None
        if kept.digest != claim.digest:
            raise KeyReused
        return kept.reply

    async def keep(self, claim: Claim, reply: KeptReply, until: datetime) -> None:
        """See the port."""
        await self._turn()
        self._new[claim.actor, claim.key] = Receipt(claim.digest, reply, until)

    async def expire(self, now: datetime, limit: int) -> int:
        """See the port."""
        await self._turn()
        due = {
            name: kept for name, kept in self._kept.items() if kept.until <= now and name not in self._expired
        }
        dropped = sorted(due, key=lambda name: due[name].until)[:limit]
        self._expired.update({name: due[name] for name in dropped})
        return len(dropped)

    def commit(self) -> None:
        """Let the others see what was done."""
        for name in self._expired:
            del self._kept[name]
        self._kept.update(self._new)
