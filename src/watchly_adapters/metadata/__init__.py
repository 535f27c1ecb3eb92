"""Metadata taken out of image files, in place, and their structure walked to the last byte.

Of each format it is known what is needed to show an image, and that stays: pixels, palettes, gamma and
colour profiles, frames and loops, orientation. Whatever else is in the file (EXIF, XMP, IPTC, comments,
previews, gain maps, what this version does not know) is overwritten with zeros, and where it has a name it
gets that of filling. No part changes its size, so nothing that counts bytes has to be written again.

What cannot be walked is refused, and so is what follows the image, which could make one file an archive or a
page as well; only a JPEG is cut, because cameras append films and previews to theirs, and a GIF where a few
bytes are left over. A colour profile is kept if it looks like one. Nothing is decoded: bytes that stand in
compressed pixels, and are not used, stay. Time and memory are bounded, whatever the file says: parts are
read in blocks, and counted.

The formats: PNG 3rd edition, GIF89a, ITU T.81 with EXIF 2.32, RFC 9649 (WebP), ISO 14496-12 and 23008-12.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import IO, Final

from watchly_adapters.metadata import avif, gif, jpeg, png, webp
from watchly_adapters.metadata.parts import Parts
from watchly_core.images import SNIFF_BYTES, sniff

_CLEANERS: Final[Mapping[str, Callable[[Parts], int]]] = {
    "png": png.clean,
    "gif": gif.clean,
    "jpeg": jpeg.clean,
    "webp": webp.clean,
    "avif": avif.clean,
}


def clean(source: IO[bytes]) -> int:
    """What `ImageInspector.clean` promises; `source` is left at its start, and what was refused in any state.

    Raises:
        ImageTypeUnsupported: the content is of no format that the catalogue keeps.
        ImageUnreadable: the structure is broken, or something follows the image.
        ImageTooLarge: it has too many pictures.
    """
    try:
        source.seek(0)
        format_ = sniff(source.read(SNIFF_BYTES))
        return _CLEANERS[format_](Parts(source, format_))
    finally:
        source.seek(0)
        source.flush()  # others may read the same file by its descriptor
