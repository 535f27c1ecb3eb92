"""Who the account is, and what is signed: requests by clients, answers and notifications by the account."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, TypeAlias

from watchly_adapters.testing.cloudinary.messages import Refused

#: How requests to it have to be signed.
Algorithm: TypeAlias = Literal["sha1", "sha256"]

_TIMESTAMPS_HOLD: Final = 3600
_UNSIGNED: Final = frozenset({"file", "api_key", "signature", "resource_type", "cloud_name"})
#: By how many digits a signature has.
_ALGORITHMS: Final[Mapping[int, Algorithm]] = {40: "sha1", 64: "sha256"}


class Credentials(NamedTuple):
    """An account, its key and secret, and the algorithm by which it signs what it sends."""

    cloud_name: str
    api_key: str
    api_secret: str
    algorithm: Algorithm

    def sign(self, text: str, algorithm: Algorithm | None = None) -> str:
        """The account's signature of a text."""
        return hashlib.new(algorithm or self.algorithm, f"{text}{self.api_secret}".encode()).hexdigest()

    def require_cloud(self, name: str) -> None:
        """Refuse what is meant for another account."""
        if name != self.cloud_name:
            raise Refused(401, f"Invalid cloud_name {name}")

    def require_signed(self, fields: Mapping[str, str]) -> None:
        """Refuse fields that the secret did not sign, or too long ago."""
        signature = fields.get("signature", "")
        if not signature:
            raise Refused(400, "Upload preset must be specified when using unsigned upload")
        if fields.get("api_key") != self.api_key:
            raise Refused(401, f"Invalid api_key {fields.get('api_key')}")
        signed = "&".join(
            f"{name}={value}".replace("&", "%26")
            for name, value in sorted(fields.items())
            if value and name not in _UNSIGNED
        )
        expected = self.sign(signed, _ALGORITHMS.get(len(signature), "sha1"))
        if not hmac.compare_digest(signature.encode(), expected.encode()):
            raise Refused(401, f"Invalid Signature {signature}. String to sign - '{signed}'.")
        timestamp = fields.get("timestamp", "")
        if not (timestamp.isascii() and timestamp.isdigit()):
            raise Refused(400, "Missing required parameter - timestamp")
        if abs(int(time.time()) - int(timestamp)) > _TIMESTAMPS_HOLD:
            raise Refused(400, f"Stale request - reported time is {timestamp} which is more than 1 hour ago")

    def require_password(self, headers: Mapping[str, str]) -> None:
        """Refuse who does not name the key and the secret themselves, as the Admin API wants it."""
        expected = base64.b64encode(f"{self.api_key}:{self.api_secret}".encode()).decode()
        if not hmac.compare_digest(headers.get("authorization", "").encode(), f"Basic {expected}".encode()):
            raise Refused(401, "api_secret mismatch")
