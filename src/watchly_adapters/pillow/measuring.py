"""The header of an image as Pillow reads it.

Pillow's plug-ins are opened without `PIL.Image.open`, whose guard against decompression bombs warns or
raises at limits that are global to the process; how many pixels are too many is the core's to say.
They hold all that comes before the pixels in memory, so here they are shown the head of the file only.
"""

from __future__ import annotations

import io
from typing import IO, Final

from PIL.Image import DecompressionBombError, DecompressionBombWarning

from watchly_adapters import headers
from watchly_adapters.exif import orientation, shown
from watchly_adapters.pillow.plugins import PLUGINS
from watchly_core.errors import ImageTooLarge, ImageUnreadable
from watchly_core.images import SNIFF_BYTES, Measured, sniff

#: The formats whose header Pillow reads by itself. To open a WebP or an AVIF it reads the whole file
#: into memory and makes room for the pixels: those are left to `watchly_adapters.headers`.
_READ_BY_HEADER: Final = frozenset({"jpeg", "png", "gif"})

#: What Pillow is shown of a file. Few headers are longer (XMP data can make them so).
_HEAD_BYTES: Final = 1024 * 1024


def measure(source: IO[bytes]) -> Measured:
    """What `PillowInspector.measure` says, for callers that are in a thread already."""
    try:
        source.seek(0)
        head = source.read(_HEAD_BYTES + 1)
    finally:
        source.seek(0)
    format_ = sniff(head[:SNIFF_BYTES])
    if format_ not in _READ_BY_HEADER:
        return headers.measure(source)
    try:
        return _opened(format_, head[:_HEAD_BYTES])
    except ImageUnreadable:
        if len(head) <= _HEAD_BYTES:
            raise
        return headers.measure(source)


def _opened(format_: str, head: bytes) -> Measured:
    try:
        with PLUGINS[format_](io.BytesIO(head)) as image:
            (width, height), exif = image.size, image.info.get("exif")
    except (DecompressionBombError, DecompressionBombWarning) as error:
        raise ImageTooLarge(f"the {format_} has too many pixels") from error
    except Exception as error:  # Pillow meets broken bytes with errors of any kind
        raise ImageUnreadable(f"the header of the {format_} is broken") from error
    if isinstance(exif, bytes):
        width, height = shown(width, height, orientation(exif))
    return Measured(format_, width, height)
