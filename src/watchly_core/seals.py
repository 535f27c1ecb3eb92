"""Seals: opaque texts that clients send back, with a checksum against cuts and typing errors; no secret."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

_BYTES: Final = 6


def checksum(payload: bytes, purpose: bytes) -> bytes:
    """A short digest, which is another one for each purpose."""
    return hashlib.blake2b(payload, digest_size=_BYTES, person=purpose).digest()


def seal(payload: bytes, purpose: bytes, context: bytes = b"") -> str:
    """A URL-safe text that holds `payload`, for this purpose and where the context is the same."""
    return urlsafe_b64encode(checksum(context + payload, purpose) + payload).decode().rstrip("=")


def unseal(text: str, purpose: bytes, context: bytes = b"") -> bytes:
    """What `seal` made such a text of.

    Raises:
        ValueError: it made none such.
    """
    payload = urlsafe_b64decode(text + "=" * (-len(text) % 4))[_BYTES:]
    # Comparing texts refuses the other spellings that base64 tolerates.
    if seal(payload, purpose, context) != text:
        raise ValueError("is not sealed")
    return payload
