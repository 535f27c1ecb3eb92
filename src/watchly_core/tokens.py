"""Tokens: what an access token says, as services that verify one read it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import msgspec

from watchly_core.people import Role

__all__ = ["ACCESS_FOR", "MOST_ACCESS", "Claims"]

#: How long the access token of a session is good for.
ACCESS_FOR: Final = timedelta(minutes=15)
#: How long any token may be.
MOST_ACCESS: Final = timedelta(hours=24)


class Claims(msgspec.Struct, frozen=True):
    """What an access token says (RFC 9068).

    `subject` is the id of a user in decimal, or ``system`` for the service itself. `session` and `version`
    say which session of the user it belongs to, and at which version the user was; the service has none.
    """

    subject: str
    role: Role
    issued_at: datetime
    expires_at: datetime
    session: str | None = None
    version: int | None = None
