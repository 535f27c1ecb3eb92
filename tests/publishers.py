"""Keys that are published on this machine, and tokens that they sign."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from tests.receivers import Behaviour, Received, Receiver, answer, receiving
from watchly_adapters.security import SealedTokens
from watchly_core.clocks import utc_now
from watchly_core.people import Role
from watchly_core.signing_keys import SigningKey
from watchly_core.tokens import ACCESS_FOR, Claims


class Publisher:
    """Publishes keys as the people service does.

    Attributes:
        receiver: answers with the keys, unless it is told to do something else.
        keys: those that are published; the last one signs.
    """

    def __init__(self, receiver: Receiver) -> None:
        self.receiver, self.tokens = receiver, SealedTokens("not a secret, but of more than 32 letters")
        self.keys: list[SigningKey] = []
        self.rotate()
        receiver.choose = self.published

    @property
    def url(self) -> str:
        return self.receiver.url

    @property
    def asked(self) -> int:
        """How often somebody has asked for the keys."""
        return len(self.receiver.received)

    def rotate(self, *, at_once: bool = False) -> None:
        """Let a new key sign; with `at_once` the old ones are not published any more."""
        now = utc_now()
        key = SigningKey(*self.tokens.new_key(), now, now)
        self.keys = [key] if at_once else [*self.keys, key]

    def document(self) -> bytes:
        return msgspec.json.encode({"keys": self.tokens.public(self.keys)})

    def published(self, _: Received) -> Behaviour:
        return answer(200, self.document())

    async def sign(self, claims: Claims) -> str:
        return self.tokens.sign(self.keys[-1], claims)

    def token(self, subject: str = "7") -> str:
        """A token of somebody, that is good for a while."""
        now = utc_now()
        return self.tokens.sign(
            self.keys[-1], Claims(subject, Role.EDITOR, now, now + ACCESS_FOR, "5e55" * 8, 3)
        )


@contextmanager
def publishing() -> Iterator[Publisher]:
    """Keys that are published while the block runs."""
    with receiving() as receiver:
        yield Publisher(receiver)
