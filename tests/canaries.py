"""Secrets that tests use in place of others, so that they would be found wherever they must not be.

`tests/conftest.py` looks for them, and for whatever looks as if it could be replayed, in every line that is
logged.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final
from urllib.parse import unquote_plus

_WORD: Final = "canary"

#: Twenty of them, by what they stand for.
CANARIES: Final[Mapping[str, str]] = {
    name: f"{_WORD}.{name}.{number:02}f3d1c0ffee5eed4b1d"
    for number, name in enumerate(
        (
            "password",
            "new-password",
            "wrong-password",
            "common-password",
            "secret-key",
            "previous-secret-key",
            "access-token",
            "refresh-token",
            "cookie",
            "api-key",
            "operator-key",
            "database-password",
            "replica-password",
            "cloudinary-secret",
            "cloudinary-key",
            "webhook-secret",
            "nats-password",
            "upload-signature",
            "proxy-credentials",
            "idempotency-key",
        )
    )
}

#: What could be used by whoever reads it: tokens, refresh tokens, API keys.
_BEARERS: Final = re.compile(
    r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}|wrt_[A-Za-z0-9_-]{16,}|whsec_[A-Za-z0-9+/=]{8,}|watchly_[0-9a-f]{12}_[A-Za-z0-9_-]{8,}"
)
_CANARIES: Final = re.compile("|".join(map(re.escape, CANARIES.values())))


def secrets_in(text: str) -> list[str]:
    """The secrets that a text tells, be they spelled as in a URL."""
    return [
        found
        for spelled in {text, unquote_plus(text)}
        for kind in (_CANARIES, _BEARERS)
        for found in kind.findall(spelled)
    ]


class Guard(logging.Handler):
    """Looks through whatever is logged."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what a line tells that it must not."""
        for secret in secrets_in(_text_of(record)):
            self.found.append(f"{record.name}: {secret}")

    def attach(self) -> None:
        """Listen; what configures the logs may have shut it out."""
        for name in (None, "watchly"):
            logger = logging.getLogger(name)
            if self not in logger.handlers:
                logger.addHandler(self)

    def take(self) -> list[str]:
        """What was found since the last time."""
        found, self.found = list(dict.fromkeys(self.found)), []
        return found


@contextmanager
def guarded(guard: Guard) -> Iterator[None]:
    """Fail where a secret is logged during the block, or anything that could be replayed."""
    guard.attach()
    guard.take()
    yield
    assert not (found := guard.take()), f"the log tells secrets: {found}"


def _text_of(record: logging.LogRecord) -> str:
    """All that a line could show."""
    lines = [record.getMessage(), repr(record.__dict__)]
    event = record.msg if isinstance(record.msg, dict) else {}
    for info in (record.exc_info, event.get("exc_info")):
        error = info[1] if isinstance(info, tuple) else info
        if isinstance(error, BaseException):
            lines += traceback.format_exception(error)
    return "\n".join(lines)
