"""What is still to be done in memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

from watchly_adapters.memory.events import Log
from watchly_adapters.memory.relays import RelayTables
from watchly_core.backlogs import MOST_COUNTED, Backlog, RelayBacklog
from watchly_core.images import ImageRecord
from watchly_core.messages import Target


class MemoryBacklogs:
    """Satisfies `ports.Backlogs`.

    Args:
        log: the committed events, which have their numbers at once.
        images: the committed records of images.
        relays: the committed targets and letters.
    """

    def __init__(self, log: Log, images: Mapping[str, ImageRecord], relays: RelayTables) -> None:
        self._log, self._images, self._relays = log, images, relays

    async def backlog(self, now: datetime) -> Backlog:
        """See the port."""
        due = [each.due_at for each in self._images.values() if each.due_at and each.due_at <= now]
        targets = self._relays.targets.values()
        return Backlog(
            numbered_up_to=self._log.last,
            broker=self._of_targets([target for target in targets if target.url is None]),
            webhook=self._of_targets([target for target in targets if target.url is not None]),
            images_due=min(len(due), MOST_COUNTED),
            images_dead=min(sum(record.is_dead for record in self._images.values()), MOST_COUNTED),
            overdue=(now - min(due, default=now)).total_seconds(),
        )

    def _of_targets(self, targets: Collection[Target]) -> RelayBacklog:
        letters = [letter for target in targets for letter in self._relays.letters[target.name].values()]
        dead = sum(letter.due_at is None for letter in letters)
        return RelayBacklog(
            behind=max([0, *(self._log.last - target.position for target in targets)]),
            waiting=min(len(letters) - dead, MOST_COUNTED),
            dead=min(dead, MOST_COUNTED),
            down=sum(target.failing_since is not None for target in targets),
        )
