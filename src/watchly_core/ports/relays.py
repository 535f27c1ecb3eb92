"""The ports of the relay: how far each target was told, and telling it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol, runtime_checkable

from watchly_core.messages import Letter, LetterCount, Message, Target


class RelayLedger(Protocol):
    """How far each target has been told of the changes, inside a transaction."""

    async def add(self, target: Target) -> bool:
        """Note a new target, and whether it was one: nothing is done if there is one of its name."""
        ...

    async def targets(self) -> Sequence[Target]:
        """All targets by name, in the order of code points."""
        ...

    async def get(self, name: str) -> Target:
        """The target of this name, held against every other transaction until this one ends.

        Raises:
            TargetNotFound: there is none.
        """
        ...

    async def replace(self, target: Target) -> None:
        """Store `target` in place of the one with its name.

        Raises:
            TargetNotFound: there is none.
        """
        ...

    async def remove(self, name: str) -> None:
        """Forget a target and its letters.

        Raises:
            TargetNotFound: there is none.
        """
        ...

    async def keep(self, name: str, *letters: Letter) -> None:
        """Note letters of a target that is there, each in place of the one with its number."""
        ...

    async def drop(self, name: str, *seqs: int) -> None:
        """Forget letters by their numbers; forgetting what is not there is no error."""
        ...

    async def due(self, name: str, now: datetime, limit: int) -> Sequence[Letter]:
        """At most `limit` letters that are due, the longest due first: of each movie the oldest one.

        Where that one is not due yet, none of its movie is.
        """
        ...

    async def heads(self, name: str) -> Mapping[int, datetime]:
        """The movies that have letters which are not dead, and when the oldest one of each is due."""
        ...

    async def dead(self, name: str, limit: int, *, after: int = 0) -> Sequence[Letter]:
        """At most `limit` dead letters with numbers beyond `after`, in the order of these."""
        ...

    async def count(self, name: str) -> LetterCount:
        """How many letters there are."""
        ...


@runtime_checkable
class Publisher(Protocol):
    """Tells one target of changes."""

    async def publish(self, message: Message) -> None:
        """Hand over `message`; once it returns, the target has it.

        It may be called again with the same message, and for messages of several movies at once. Whoever
        waits has a deadline, but an adapter should have its own: a call that is cancelled may be under way.
        Where a target takes headers, `traceparent` is one: `current_trace()`, or else the message's `trace`.

        Raises:
            Unavailable: the target does not take it now, or did not say so; it may later.
            Overloaded: the same, for a reason that is not this message's.
            PublishRejected: it will never take it.
        """
        ...

    async def close(self) -> None:
        """Give back what it holds."""
        ...
