"""Delivery: what the CDN serves, originals and what is made of them."""

from __future__ import annotations

import base64
import collections
import hashlib
import io
import re
from collections.abc import Mapping
from typing import IO, Final

from watchly_adapters.headers import measure
from watchly_adapters.testing.cloudinary.assets import Asset, Assets
from watchly_adapters.testing.cloudinary.messages import Refused, Reply, in_header
from watchly_adapters.testing.cloudinary.renderings import rendered
from watchly_adapters.testing.cloudinary.transformations import (
    FORMATS,
    Transformation,
    for_client,
    is_component,
    parse,
)

_VERSION: Final = re.compile("v[0-9]+")

#: A transparent pixel, which stands where an image should be.
_NOTHING: Final = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")


def deliver(assets: Assets, path: str, headers: Mapping[str, str]) -> Reply:
    """The image that a URL's path names: ``[transformations/][v123/]public_id[.format]``."""
    try:
        transformation, public_id = _named(path)
        asset, file, suffix = _found(assets, public_id)
        # The name's format is the one to deliver, if no other is asked for.
        if suffix and transformation.format is None and suffix != asset.measured.format:
            transformation = transformation._replace(format=suffix)
        return _reply(asset, file, transformation, headers)
    except Refused as refused:
        return Reply(refused.status, _NOTHING, "image/gif", {"X-Cld-Error": in_header(refused.message)})


def _named(path: str) -> tuple[Transformation, str]:
    segments = collections.deque(path.split("/"))
    components: list[str] = []
    while segments and is_component(segments[0]):
        components.append(segments.popleft())
    if segments and _VERSION.fullmatch(segments[0]):
        segments.popleft()
    return parse("/".join(components)), "/".join(segments)


def _found(assets: Assets, public_id: str) -> tuple[Asset, IO[bytes], str | None]:
    if (found := assets.open(public_id)) is not None:
        return *found, None
    stem, _, suffix = public_id.rpartition(".")
    if suffix in FORMATS and (found := assets.open(stem)) is not None:
        return *found, FORMATS[suffix]
    raise Refused(404, f"Resource not found - {public_id}")


def _reply(
    asset: Asset, file: IO[bytes], transformation: Transformation, headers: Mapping[str, str]
) -> Reply:
    format_ = for_client(transformation.format, asset.measured.format, headers.get("accept", ""))
    of_what = f"{asset.etag} {transformation.text} {format_}"
    etag = f'"{hashlib.md5(of_what.encode(), usedforsecurity=False).hexdigest()}"'
    with_it = {"ETag": etag, "Cache-Control": "private, no-transform, immutable, max-age=2592000"}
    if transformation.format == "auto":
        with_it["Vary"] = "Accept"
    if etag in headers.get("if-none-match", ""):
        file.close()
        return Reply(304, b"", "", with_it)
    try:
        content = rendered(file, transformation, format_)
    except Refused:
        file.close()
        raise
    if content is None:
        return Reply(200, b"", f"image/{asset.measured.format}", with_it, file)
    file.close()
    return Reply(200, content, f"image/{measure(io.BytesIO(content)).format}", with_it)
