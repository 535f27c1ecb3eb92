"""The ledger of images in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from watchly_adapters.memory.rows import Rows
from watchly_adapters.partial import Turn
from watchly_core.errors import IllegalTransition, ImageNotFound
from watchly_core.images import ImageRecord


class MemoryImageLedger:
    """Satisfies `ports.ImageLedger`; what it changes is kept apart until the commit.

    Args:
        images: what is committed.
        turn: awaits the turn of the transaction among all of them.
    """

    def __init__(self, images: dict[str, ImageRecord], turn: Turn) -> None:
        self._images, self._turn = Rows(images), turn
        self.commit: Callable[[], None] = self._images.commit

    async def add(self, record: ImageRecord) -> None:
        """See the port."""
        await self._turn()
        key = record.image.key
        if self._images.get(key) is not None:
            raise IllegalTransition(f"image {key} is noted already")
        self._images.put(key, record)

    async def get(self, key: str) -> ImageRecord:
        """See the port."""
        await self._turn()
        record = self._images.get(key)
        if record is None:
            raise ImageNotFound(f"no image has the key {key}")
        return record

    async def of_movie(self, movie_id: int) -> Sequence[ImageRecord]:
        """See the port."""
        await self._turn()
        records = self._images.all()
        return [records[key] for key in sorted(records) if records[key].movie_id == movie_id]

    async def replace(self, record: ImageRecord) -> None:
        """See the port."""
        await self.get(record.image.key)
        self._images.put(record.image.key, record)

    async def due(self, now: datetime, limit: int) -> Sequence[ImageRecord]:
        """See the port."""
        await self._turn()
        waiting = [
            (record.due_at, key, record)
            for key, record in self._images.all().items()
            if record.due_at is not None and record.due_at <= now
        ]
        return [record for *_, record in sorted(waiting, key=lambda due: due[:2])[:limit]]

    async def dead(self, limit: int) -> Sequence[ImageRecord]:
        """See the port."""
        await self._turn()
        records = self._images.all()
        return [records[key] for key in sorted(records) if records[key].is_dead][:limit]

    async def remove(self, key: str) -> None:
        """See the port."""
        await self._turn()
        self._images.drop(key)
