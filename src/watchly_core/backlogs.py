"""Backlogs: what is still to be done in the background, for whoever watches over the service."""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["MOST_COUNTED", "Backlog", "RelayBacklog"]

#: What is counted is counted up to here: by then nobody needs to know how many there are.
MOST_COUNTED: Final = 10_000


class RelayBacklog(msgspec.Struct, frozen=True):
    """What the targets of one kind have not been told, all of them taken together; see `relays`.

    Attributes:
        behind: changes that come after those which the last of the targets has dealt with.
        waiting: letters that will be tried again, at most `MOST_COUNTED`.
        dead: letters that were given up, at most `MOST_COUNTED`.
        down: targets that take nothing at present.
    """

    behind: int = 0
    waiting: int = 0
    dead: int = 0
    down: int = 0


class Backlog(msgspec.Struct, frozen=True, kw_only=True):
    """What is still to be done.

    Attributes:
        numbered_up_to: the number of the last change that has one; 0 for none.
        unnumbered: events that were committed and have none yet, at most `MOST_COUNTED`.
        broker: of the targets that are there by configuration, also if they are not in it any more.
        webhook: of all webhooks.
        images_due: images that the sweeper should have deleted by now, at most `MOST_COUNTED`.
        images_dead: those that it gave up, at most `MOST_COUNTED`.
        overdue: seconds for which the first of the images has been due; 0 if none is.
    """

    numbered_up_to: int = 0
    unnumbered: int = 0
    broker: RelayBacklog = RelayBacklog()
    webhook: RelayBacklog = RelayBacklog()
    images_due: int = 0
    images_dead: int = 0
    overdue: float = 0.0
