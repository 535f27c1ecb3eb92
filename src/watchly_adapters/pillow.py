"""Image headers as Pillow reads them.

Pillow's plug-ins are opened without `PIL.Image.open`, whose guard against decompression bombs warns or
raises at limits that are global to the process; how many pixels are too many is the core's to say.
They hold all that comes before the pixels in memory, so they are shown the head of the file only.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import IO, Final

from PIL.GifImagePlugin import GifImageFile
from PIL.Image import DecompressionBombError, DecompressionBombWarning
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from watchly_adapters import headers
from watchly_adapters.threads import Threads
from watchly_core.errors import ImageTooLarge, ImageUnreadable
from watchly_core.images import SNIFF_BYTES, Measured, sniff

#: The formats whose header Pillow reads by itself. To open a WebP or an AVIF it reads the whole file
#: into memory and makes room for the pixels: those are left to `watchly_adapters.headers`.
_OPENERS: Final[Mapping[str, Callable[[IO[bytes]], ImageFile]]] = {
    "jpeg": JpegImageFile,
    "png": PngImageFile,
    "gif": GifImageFile,
}

#: What Pillow is shown of a file. Few headers are longer (XMP data can make them so).
_HEAD_BYTES: Final = 1024 * 1024

_THREADS: Final = 4


class PillowInspector:
    """An `ImageInspector` that accepts what Pillow would open; nothing is decoded."""

    def __init__(self) -> None:
        self._threads = Threads(_THREADS, "watchly-pillow")

    async def measure(self, source: IO[bytes]) -> Measured:
        """The format and the size in pixels of the image in `source`, which is left at its start.

        The size is that of the image as it is shown, turned as its EXIF orientation says.

        Raises:
            ImageTypeUnsupported: the content is of no format that the catalogue keeps.
            ImageUnreadable: the header is broken.
        """
        return await self._threads.lend(lambda _: _measure(source))


def _measure(source: IO[bytes]) -> Measured:
    try:
        source.seek(0)
        head = source.read(_HEAD_BYTES + 1)
    finally:
        source.seek(0)
    format_ = sniff(head[:SNIFF_BYTES])
    if format_ not in _OPENERS:
        return headers.measure(source)
    try:
        return _opened(format_, head[:_HEAD_BYTES])
    except ImageUnreadable:
        if len(head) <= _HEAD_BYTES:
            raise
        return headers.measure(source)


def _opened(format_: str, head: bytes) -> Measured:
    try:
        with _OPENERS[format_](io.BytesIO(head)) as image:
            (width, height), exif = image.size, image.info.get("exif")
    except (DecompressionBombError, DecompressionBombWarning) as error:
        raise ImageTooLarge(f"the {format_} has too many pixels") from error
    except Exception as error:  # Pillow meets broken bytes with errors of any kind
        raise ImageUnreadable(f"the header of the {format_} is broken") from error
    if isinstance(exif, bytes):
        width, height = headers.shown(width, height, headers.orientation(exif))
    return Measured(format_, width, height)
