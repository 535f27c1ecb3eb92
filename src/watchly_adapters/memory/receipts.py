"""The receipts of writes in memory."""

from __future__ import annotations

from datetime import datetime

import msgspec

from watchly_core.errors import KeyReused, RequestInProgress
from watchly_core.receipts import Claim, KeptReply


class Kept(msgspec.Struct, frozen=True):
    """A receipt: the digest of the request, the reply to it, and until when it is good."""

    digest: bytes
    reply: KeptReply
    until: datetime


class ReceiptBook:
    """What is committed, and the keys that transactions have claimed."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], Kept] = {}
        self.claimed: set[tuple[str, str]] = set()


class MemoryReceipts:
    """Satisfies `ports.Receipts`; unlike the other stores it awaits no turn."""

    def __init__(self, book: ReceiptBook) -> None:
        self._book = book
        self._claimed: set[tuple[str, str]] = set()
        self._new: dict[tuple[str, str], Kept] = {}
        self._expired: dict[tuple[str, str], Kept] = {}

    async def claim(self, claim: Claim, now: datetime) -> KeptReply | None:
        """See the port."""
        name = claim.actor, claim.key
        kept = self._new.get(name) or self._book.kept.get(name)
        if kept is not None and kept.until > now:
            if kept.digest != claim.digest:
                raise KeyReused
            return kept.reply
        if name in self._book.claimed and name not in self._claimed:
            raise RequestInProgress
        self._claimed.add(name)
        self._book.claimed.add(name)
        return None

    async def keep(self, claim: Claim, reply: KeptReply, until: datetime) -> None:
        """See the port."""
        self._new[claim.actor, claim.key] = Kept(claim.digest, reply, until)

    async def expire(self, now: datetime, limit: int) -> int:
        """See the port."""
        due = {
            name: kept
            for name, kept in self._book.kept.items()
            if kept.until <= now and name not in self._expired
        }
        dropped = sorted(due, key=lambda name: due[name].until)[:limit]
        self._expired.update({name: due[name] for name in dropped})
        return len(dropped)

    def commit(self) -> None:
        """Let the others see what was done."""
        for name, kept in self._expired.items():
            if self._book.kept.get(name) is kept:  # else somebody has kept another one meanwhile
                del self._book.kept[name]
        self._book.kept.update(self._new)

    def release(self) -> None:
        """Give up the keys, at the end of the transaction."""
        self._book.claimed -= self._claimed
