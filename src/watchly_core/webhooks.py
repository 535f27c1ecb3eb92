"""Webhooks: the targets that users name, and how they are told that a message is ours.

Messages are signed as Standard Webhooks 1.0.0 says (``v1``: HMAC-SHA256 by a secret of each target).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

import msgspec

from watchly_core.catalogue import Catalogue
from watchly_core.contention import repeated
from watchly_core.errors import Fault, InvalidTarget, TargetNotFound
from watchly_core.messages import LetterCount, Target
from watchly_core.ports import Transactions

__all__ = ["Webhook", "Webhooks", "new_secret", "sign"]

_PREFIX: Final = "whsec_"
#: Bytes of a secret, by the specification.
_SECRET_BYTES: Final = range(24, 65)
_NEW_SECRET_BYTES: Final = 32

_MOST_URL: Final = 2_000
#: What URLs are made of (RFC 3986); everything else is written as %XX.
_URL: Final = re.compile(r"[A-Za-z0-9._~:/?\[\]@!$&'()*+,;=%-]+")


class Webhook(msgspec.Struct, frozen=True):
    """A webhook and its letters."""

    target: Target
    letters: LetterCount


class Webhooks:
    """The use cases on webhooks. Where the store does not answer, that is `Unavailable`.

    Args:
        catalogue: whose changes they are told of.
        transactions: the write side of its store.
    """

    def __init__(self, catalogue: Catalogue, transactions: Transactions) -> None:
        self._catalogue = catalogue
        self._transactions = transactions

    async def add(self, url: str, secret: str | None = None, *, everything: bool = False) -> Target:
        """Note a webhook, which is told of what changes from now on, or of `everything` in the log.

        Without a `secret` it gets a new one.

        Raises:
            InvalidTarget: the URL or the secret is none.
        """
        secret = new_secret() if secret is None else secret
        if faults := [*_faults_of_url(url), *_faults_of_secret(secret)]:
            raise InvalidTarget(faults)
        position = 0 if everything else await self._catalogue.last_change()
        while True:
            target = Target(f"webhook-{secrets.token_hex(4)}", url, secret, position)
            if await self._add(target):
                return target

    @repeated
    async def _add(self, target: Target) -> bool:
        async with self._transactions() as tx:
            return await tx.relays.add(target)

    @repeated
    async def listed(self) -> Sequence[Webhook]:
        """All webhooks by name."""
        async with self._transactions() as tx:
            return [
                Webhook(target, await tx.relays.count(target.name))
                for target in await tx.relays.targets()
                if target.url is not None
            ]

    @repeated
    async def remove(self, name: str) -> None:
        """Forget a webhook and its letters.

        Raises:
            TargetNotFound: there is none of this name.
        """
        async with self._transactions() as tx:
            if (await tx.relays.get(name)).url is None:
                raise TargetNotFound(name)
            await tx.relays.remove(name)


def new_secret() -> str:
    """A fresh secret in the form that receivers' libraries take."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(_NEW_SECRET_BYTES)).decode()


def sign(secret: str, message_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """The headers by which a receiver knows that a message is ours, and was sent at that time.

    Their names are in lower case. Source: Standard Webhooks 1.0.0, scheme ``v1``.

    Raises:
        ValueError: the secret is no base64 after its ``whsec_``.
    """
    seconds = int(at.timestamp())
    signed = b"%b.%d.%b" % (message_id.encode(), seconds, body)
    digest = hmac.new(_key(secret), signed, hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(seconds),
        "webhook-signature": "v1," + base64.b64encode(digest).decode(),
    }


def _key(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)


def _faults_of_url(url: str) -> list[Fault]:
    try:
        parts = urlsplit(url)
        fits = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        fits = fits and parts.username is None and _URL.fullmatch(url) is not None and len(url) <= _MOST_URL
    except ValueError:
        fits = False
    if fits:
        return []
    detail = "must be an http or https URL in ASCII, without user, password or fragment"
    return [Fault("invalid_value", detail, pointer="#/url")]


def _faults_of_secret(secret: str) -> list[Fault]:
    try:
        fits = secret.startswith(_PREFIX) and len(_key(secret)) in _SECRET_BYTES
    except (binascii.Error, ValueError):
        fits = False
    if fits:
        return []
    return [Fault("invalid_value", "must be whsec_ and 24 to 64 bytes in base64", pointer="#/secret")]
