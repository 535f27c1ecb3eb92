"""The routes by which others tell this service something."""

from __future__ import annotations

from typing import Final

from litestar import post

from watchly_adapters.container import NOTIFICATIONS
from watchly_http.openapi import Operation, Parameter, Reply
from watchly_http.parts import Gallery
from watchly_http.requests import Request, read_body, require_plain
from watchly_http.routes import Routes

#: What a store tells of one image has a few thousand bytes.
_MOST_BYTES: Final = 1_000_000


class NotificationController(Routes):
    """What image stores elsewhere tell."""

    path = NOTIFICATIONS

    @post(
        "/",
        opt=Operation(
            "notifyOfImage",
            "Tell that an upload has arrived",
            needs=None,
            tag="Images",
            parameters=(
                Parameter("X-Cld-Timestamp", "When it was signed.", str, "1795000000", place="header"),
                Parameter("X-Cld-Signature", "Of body, time and secret.", str, "5e3b…", place="header"),
            ),
            body={"application/json": bytes},
            replies={204: Reply("It was heard.")},
            problems=("signature_rejected", "upload_conflict", "too_large"),
        ).opt(),
        status_code=204,
    )
    async def hear(self, request: Request, gallery: Gallery) -> None:
        """Complete the ticket of an upload that Cloudinary tells of, after asking it whether that is so."""
        require_plain(request)
        body = await read_body(request, _MOST_BYTES)
        headers = {name.lower(): value for name, value in request.headers.items()}
        await gallery.uploads.notified(body, headers)
