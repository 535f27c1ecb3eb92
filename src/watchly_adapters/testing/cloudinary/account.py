"""An account: what it answers to requests, by the rules that the real one has for them."""

from __future__ import annotations

import collections
import datetime as dt
import email.utils
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from watchly_adapters.testing.cloudinary.assets import Assets
from watchly_adapters.testing.cloudinary.deliveries import deliver
from watchly_adapters.testing.cloudinary.faults import Action
from watchly_adapters.testing.cloudinary.forms import read_form
from watchly_adapters.testing.cloudinary.messages import Refused, Reply, Request, refusal, said
from watchly_adapters.testing.cloudinary.signatures import Credentials
from watchly_adapters.testing.cloudinary.uploads import Uploads

_HOUR: Final = 3600
_REMEMBERED: Final = 10_000


class Account:
    """Answers for one account.

    Args:
        credentials: who it is.
        directory: where its files go.
        notify: sends a notification to a URL.
        max_bytes: the largest image that its plan takes.
        hourly_lookups: how often the Admin API may be asked between two full hours.

    Attributes:
        assets: what it keeps.
        invalidated: the public ids whose copies on the CDN were asked to go.
    """

    def __init__(
        self,
        credentials: Credentials,
        directory: Path,
        notify: Callable[[str, bytes], None],
        *,
        max_bytes: int | None,
        hourly_lookups: int,
    ) -> None:
        self.assets: Assets = Assets(credentials.cloud_name)
        self.invalidated: collections.deque[str] = collections.deque(maxlen=_REMEMBERED)
        self._credentials, self._directory, self._notify = credentials, directory, notify
        self._uploads = Uploads(self.assets, directory, max_bytes)
        self._lookups = _Hourly(hourly_lookups)

    def answer(self, request: Request) -> Reply:
        """What the real one would answer."""
        try:
            return self._route(request)
        except Refused as refused:
            return refusal(refused.status, refused.message)

    def _route(self, request: Request) -> Reply:
        match request.method, *request.path.strip("/").split("/"):
            case "OPTIONS", *_:
                asked = request.headers.get("access-control-request-headers", "")
                return Reply(200, headers={**_PREFLIGHT, "Access-Control-Allow-Headers": asked})
            case "POST", "v1_1", cloud, "image", ("upload" | "destroy") as action:
                self._credentials.require_cloud(cloud)
                with read_form(request, self._directory) as form:
                    self._credentials.require_signed(form.fields)
                    if action == "destroy":
                        return self._destroy(form.fields)
                    return self._uploaded(self._uploads.receive(form, request.headers), form.fields)
            case "GET", "v1_1", cloud, "resources", "image", "upload", *public_id:
                self._credentials.require_password(request.headers)
                self._credentials.require_cloud(cloud)
                return self._look_up("/".join(public_id))
            case (("GET" | "HEAD"), self._credentials.cloud_name, "image", "upload", *rest):
                return deliver(self.assets, "/".join(rest), request.headers)
        raise Refused(404, f"Cannot {request.method} {request.path}")

    def _uploaded(self, answer: dict[str, object], fields: Mapping[str, str]) -> Reply:
        if answer.get("done") is False:
            return said(answer)
        public_id = str(answer["public_id"])
        self._invalidate(public_id, fields)
        signature = self._credentials.sign(f"public_id={public_id}&version={answer['version']}")
        answer |= {"signature": signature, "api_key": self._credentials.api_key}
        if url := fields.get("notification_url"):
            now = dt.datetime.now(dt.UTC).isoformat()
            told = {"notification_type": "upload", "timestamp": now, **answer}
            self._notify(url, msgspec.json.encode(told))
        return said(answer)

    def _destroy(self, fields: Mapping[str, str]) -> Reply:
        if not (public_id := fields.get("public_id")):
            raise Refused(400, "Missing required parameter - public_id")
        self._invalidate(public_id, fields)
        return said({"result": "ok" if self.assets.drop(public_id) else "not found"})

    def _invalidate(self, public_id: str, fields: Mapping[str, str]) -> None:
        if fields.get("invalidate") in {"1", "true"}:
            self.invalidated.append(public_id)

    def _look_up(self, public_id: str) -> Reply:
        limits, exceeded = self._lookups.count()
        if exceeded:
            reply = refusal(
                420, f"Rate Limit Exceeded. Limit of {self._lookups.limit} api operations reached"
            )
        elif (asset := self.assets.kept.get(public_id)) is None:
            reply = refusal(404, f"Resource not found - {public_id}")
        else:
            reply = said(self.assets.described(public_id, asset))
        return reply._replace(headers={**reply.headers, **limits})


_PREFLIGHT: Final[Mapping[str, str]] = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST, OPTIONS",
    "Access-Control-Max-Age": "86400",
}


class _Hourly:
    """A limit that is counted anew from each full hour."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._hour, self._used = 0, 0

    def count(self) -> tuple[Mapping[str, str], bool]:
        """Count a request: the headers that tell of the limit, and whether it is exceeded."""
        with self._lock:
            hour = int(time.time()) // _HOUR
            if hour != self._hour:
                self._hour, self._used = hour, 0
            self._used += 1
            headers = {
                "X-FeatureRateLimit-Limit": str(self.limit),
                "X-FeatureRateLimit-Remaining": str(max(0, self.limit - self._used)),
                "X-FeatureRateLimit-Reset": email.utils.formatdate((hour + 1) * _HOUR, usegmt=True),
            }
            return headers, self._used > self.limit


def action_of(method: str, path: str) -> Action | None:
    """What a request asks for; None if it is nothing that an image store asks."""
    match method, *path.strip("/").split("/"):
        case "POST", "v1_1", _, "image", "upload":
            return "upload"
        case "POST", "v1_1", _, "image", "destroy":
            return "destroy"
        case "GET", "v1_1", _, "resources", "image", "upload", *_:
            return "resource"
        case (("GET" | "HEAD"), _, "image", "upload", *_):
            return "delivery"
    return None
