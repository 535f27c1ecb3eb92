"""Where this service serves images and takes them in: URLs, and signed tickets to send to one."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import datetime
from typing import Final
from urllib.parse import quote

from watchly_core.errors import SignatureRejected
from watchly_core.images import VARIANTS, Image, Ticket, require_key

#: What is signed begins with this, so that no signature made for something else by the same secret fits.
_PURPOSE: Final = "watchly image upload"


def image_url(base_url: str, key: str, variant: str | None = None) -> str:
    """Where the HTTP layer serves an image, or a variant of it.

    Raises:
        ValueError: there is no such variant.
    """
    path = f"{base_url}/images/{quote(key, safe='')}"
    if variant is None:
        return path
    if variant not in VARIANTS:
        raise ValueError(f"{variant!r} is not one of {', '.join(VARIANTS)}")
    return f"{path}?variant={variant}"


class Tickets:
    """Makes tickets for uploads to this service, and knows them again.

    Args:
        base_url: what comes before ``/images/`` in their URLs.
        secret: signs them; None for one of its own, so that no other process knows its tickets.
    """

    def __init__(self, base_url: str, secret: bytes | None = None) -> None:
        self._base_url = base_url
        self._secret = secret or secrets.token_bytes(32)

    def ticket(self, key: str, image: Image, expires_at: datetime) -> Ticket:
        """A ticket to send `image` under `key`, good until the last whole second before `expires_at`.

        Raises:
            ValueError: `key` has not the form of a key.
        """
        require_key(key)
        expires_at = expires_at.replace(microsecond=0)
        expires = str(int(expires_at.timestamp()))
        return Ticket(
            key,
            "PUT",
            f"{image_url(self._base_url, key)}?expires={expires}&signature={self._signature(key, expires)}",
            {"Content-Type": f"image/{image.format}"},
            {},
            expires_at,
        )

    def admit(self, key: str, expires: str, signature: str, now: datetime) -> None:
        """Check what the URL of a ticket said.

        Raises:
            SignatureRejected: it is not signed so, or is not good any more.
        """
        # Compared as bytes: as text, letters outside of ASCII would be an error of another kind.
        right = self._signature(key, expires)
        if not hmac.compare_digest(right.encode(), signature.encode(errors="replace")):
            raise SignatureRejected("this URL is not signed by this service")
        # What is signed was written above, so that it is a number.
        if now.timestamp() > int(expires):
            raise SignatureRejected("this URL was good until a while ago; ask for another one")

    def _signature(self, key: str, expires: str) -> str:
        signed = f"{_PURPOSE}\n{key}\n{expires}".encode(errors="replace")
        return hmac.new(self._secret, signed, hashlib.sha256).hexdigest()
