"""Notifications: what an account tells the address that an upload names, signed."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from http.client import HTTPException
from typing import Final
from urllib.request import ProxyHandler, Request, build_opener

from watchly_adapters.testing.cloudinary.signatures import Credentials

_TRIES: Final = 3
#: Seconds for an answer, and between the tries; the real one waits for minutes.
_TIMEOUT: Final = 5.0
_PAUSE: Final = 0.2


class Notifier:
    """Sends notifications, each from a thread of its own, until it is closed."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._closed = threading.Event()
        # No proxy: the address is one of this machine, most often.
        self._opener = build_opener(ProxyHandler({}))

    def send(self, url: str, body: bytes) -> None:
        """Send this; it is tried again a few times when the receiver does not answer 2xx."""
        # A receiver that never ends its answer holds nobody up.
        threading.Thread(target=self._send, args=(url, body), daemon=True).start()

    def close(self) -> None:
        """Try no more."""
        self._closed.set()

    def _send(self, url: str, body: bytes) -> None:
        for attempt in range(_TRIES):
            if self._closed.wait(_PAUSE * attempt):
                return
            # The URL may be anything; the real one checks no better.
            with suppress(OSError, ValueError, HTTPException):
                request = Request(url, body, self._headers(body), method="POST")  # noqa: S310 - see above
                with self._opener.open(request, timeout=_TIMEOUT):
                    return

    def _headers(self, body: bytes) -> dict[str, str]:
        timestamp = int(time.time())
        return {
            "Content-Type": "application/json",
            "User-Agent": "Cloudinary",
            "X-Cld-Timestamp": str(timestamp),
            "X-Cld-Signature": self._credentials.sign(f"{body.decode()}{timestamp}"),
        }
