"""Rows in memory as one transaction sees them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Rows(Generic[K, V]):
    """What is committed with the changes of one transaction, which are kept apart until the commit.

    Nothing here awaits the turn of the transaction; whoever asks has.
    """

    def __init__(self, committed: dict[K, V]) -> None:
        self._committed = committed
        self._changes: dict[K, V | None] = {}

    def get(self, key: K) -> V | None:
        """The row with this key."""
        return (self._changes if key in self._changes else self._committed).get(key)

    def put(self, key: K, row: V) -> None:
        """Keep a row in place of the one with its key, if there is one."""
        self._changes[key] = row

    def drop(self, key: K) -> None:
        """Forget the row with this key, if there is one."""
        self._changes[key] = None

    def drop_where(self, which: Callable[[V], bool], limit: int | None = None) -> int:
        """Forget such rows, at most so many; how many those were."""
        keys = [key for key, row in self.all().items() if which(row)][:limit]
        self._changes.update(dict.fromkeys(keys))
        return len(keys)

    def all(self) -> dict[K, V]:
        """Every row."""
        rows = {**self._committed, **self._changes}
        return {key: row for key, row in rows.items() if row is not None}

    def commit(self) -> None:
        """Make the changes those of everybody."""
        for key, row in self._changes.items():
            if row is not None:
                self._committed[key] = row
            else:
                self._committed.pop(key, None)
