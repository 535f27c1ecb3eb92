"""The relay's ledger in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from watchly_adapters.partial import Turn
from watchly_core.errors import TargetNotFound
from watchly_core.messages import Letter, LetterCount, Target


class RelayTables:
    """What is committed: targets by name, and their letters by number."""

    def __init__(self) -> None:
        self.targets: dict[str, Target] = {}
        self.letters: dict[str, dict[int, Letter]] = {}


class MemoryRelayLedger:
    """Satisfies `ports.RelayLedger`; what it changes is kept apart until the commit.

    Args:
        tables: what is committed.
        turn: awaits the turn of the transaction among all of them.
    """

    def __init__(self, tables: RelayTables, turn: Turn) -> None:
        self._tables, self._turn = tables, turn
        self._read = False
        self._targets: dict[str, Target] = {}
        self._letters: dict[str, dict[int, Letter]] = {}

    async def _begin(self) -> None:
        """Read the tables, when nobody else can change them any more."""
        await self._turn()
        if not self._read:
            self._read = True
            self._targets, self._letters = dict(self._tables.targets), dict(self._tables.letters)

    def commit(self) -> None:
        """Make the changes those of everybody."""
        if self._read:
            self._tables.targets, self._tables.letters = self._targets, self._letters

    async def add(self, target: Target) -> bool:
        """See the port."""
        await self._begin()
        if target.name in self._targets:
            return False
        self._targets[target.name], self._letters[target.name] = target, {}
        return True

    async def targets(self) -> Sequence[Target]:
        """See the port."""
        await self._begin()
        return sorted(self._targets.values(), key=lambda target: target.name)

    async def get(self, name: str) -> Target:
        """See the port."""
        await self._begin()
        try:
            return self._targets[name]
        except KeyError:
            raise TargetNotFound(name) from None

    async def replace(self, target: Target) -> None:
        """See the port."""
        await self.get(target.name)
        self._targets[target.name] = target

    async def remove(self, name: str) -> None:
        """See the port."""
        await self.get(name)
        del self._targets[name], self._letters[name]

    async def keep(self, name: str, *letters: Letter) -> None:
        """See the port."""
        await self._begin()
        if letters:
            self._letters[name] = {**self._letters[name], **{each.message.seq: each for each in letters}}

    async def drop(self, name: str, *seqs: int) -> None:
        """See the port."""
        await self._begin()
        if seqs:
            kept = self._letters.get(name, {})
            self._letters[name] = {seq: letter for seq, letter in kept.items() if seq not in seqs}

    async def due(self, name: str, now: datetime, limit: int) -> Sequence[Letter]:
        """See the port."""
        await self._begin()
        due = [
            (letter.due_at, letter.message.seq, letter)
            for letter in self._oldest(name)
            if letter.due_at is not None and letter.due_at <= now
        ]
        return [letter for *_, letter in sorted(due, key=lambda item: item[:2])[:limit]]

    async def heads(self, name: str) -> Mapping[int, datetime]:
        """See the port."""
        await self._begin()
        return {
            letter.message.movie_id: letter.due_at
            for letter in self._oldest(name)
            if letter.due_at is not None
        }

    async def dead(self, name: str, limit: int, *, after: int = 0) -> Sequence[Letter]:
        """See the port."""
        await self._begin()
        dead = [letter for letter in self._of(name) if letter.due_at is None and letter.message.seq > after]
        return dead[:limit]

    async def count(self, name: str) -> LetterCount:
        """See the port."""
        await self._begin()
        dead = sum(letter.due_at is None for letter in self._of(name))
        return LetterCount(len(self._of(name)) - dead, dead)

    def _of(self, name: str) -> list[Letter]:
        letters = self._letters.get(name, {})
        return [letters[seq] for seq in sorted(letters)]

    def _oldest(self, name: str) -> list[Letter]:
        """The oldest letter of each movie that is not dead."""
        oldest: dict[int, Letter] = {}
        for letter in self._of(name):
            if letter.due_at is not None:
                oldest.setdefault(letter.message.movie_id, letter)
        return list(oldest.values())
