"""Renditions: small, upright, in sRGB, without metadata.

An image is made smaller before anything else happens to it, by the decoder itself where it can (JPEG), and
else strip by strip, so that a rendition takes hardly more memory than decoding does.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from contextlib import suppress
from itertools import pairwise
from typing import Final, NamedTuple

from PIL import Image, ImageCms
from PIL.ImageFile import ImageFile

from watchly_core.images import MAX_PIXELS, Rendition, Variant

#: How to turn pixels upright, by the EXIF orientation.
_TURNS: Final[Mapping[int, Image.Transpose]] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE: Final = 5

#: What is made smaller quickly stays this many times as large as it will be, for the good filter.
_GAP: Final = 2

_STRIP_PIXELS: Final = 4_000_000

_WEBP_QUALITY: Final = 80
_WEBP_METHOD: Final = 4
#: With hundreds of pictures to save, speed counts for more.
_ANIMATED_METHOD: Final = 2
_AVIF_QUALITY: Final = 60
_AVIF_SPEED: Final = 8

_ANIMATED_SPEED: Final = 10

#: An animation of more pixels in all takes too long to save, and to load.
_ANIMATED_PIXELS: Final[Mapping[str, int]] = {"webp": MAX_PIXELS // 3, "avif": MAX_PIXELS // 4}

_DEPTH_16: Final = range(65_536)
_HIGH_BYTE: Final = [round(value / 257) for value in _DEPTH_16]


class _Size(NamedTuple):
    width: int
    height: int


def render(image: ImageFile, rendition: Rendition, orientation: int) -> bytes:
    """The image, which is not loaded yet, as `rendition` asks for it.

    An animated one stays so. One with very many pictures loses some of them, but no time.

    Args:
        image: the image.
        rendition: which variant of it, in which format.
        orientation: the EXIF orientation of the image.
    """
    first, frames = _pictures(image)
    view = _View(_Size(*image.size), rendition.variant, orientation)
    if frames == 1:
        image.draft(None, view.enough)
    colours = _Colours(image.info.get("icc_profile"))
    step = math.ceil(frames * view.size.width * view.size.height / _ANIMATED_PIXELS[rendition.format])
    pictures: list[Image.Image] = []
    starts: list[float] = []
    time = 0.0
    for index in range(frames):
        image.seek(first + index)
        image.load()
        if index % step == 0:
            pictures.append(view.upright(colours.srgb(view.small(image))))
            starts.append(time)
        time += image.info.get("duration", 0)
    output = io.BytesIO()
    more: dict[str, object] = {}
    if frames > 1:
        # Whole milliseconds, as AVIF has no others; the fractions of a PNG do not add up to an error.
        durations = [round(end) - round(start) for start, end in pairwise([*starts, time])]
        more = {"save_all": True, "append_images": pictures[1:], "duration": durations}
    if rendition.format == "avif":
        speed = _AVIF_SPEED if frames == 1 else _ANIMATED_SPEED
        pictures[0].save(
            output, "AVIF", quality=_AVIF_QUALITY, speed=speed, max_threads=1, icc_profile=b"", **more
        )
    else:
        method = _WEBP_METHOD if frames == 1 else _ANIMATED_METHOD
        pictures[0].save(output, "WEBP", quality=_WEBP_QUALITY, method=method, loop=_plays(image), **more)
    return output.getvalue()


def _pictures(image: ImageFile) -> tuple[int, int]:
    """The index of the first picture that is shown, and how many there are."""
    frames = getattr(image, "n_frames", 1)
    # An animated PNG may begin with a picture for those that show one only.
    hidden = 1 if frames > 1 and image.info.get("default_image") else 0
    return hidden, frames - hidden


def _plays(image: ImageFile) -> int:
    """How often an animation is played; 0 for ever. A GIF says how often it is played again."""
    loop = image.info.get("loop")
    if image.format != "GIF":
        return int(loop or 0)
    return 1 if loop is None else int(loop) + 1 if loop else 0


class _View:
    """How the pictures of an image become those of a variant.

    Attributes:
        size: the size of the variant, before it is turned upright.
        enough: how large the whole image has to be for it.
    """

    def __init__(self, whole: _Size, variant: Variant, orientation: int) -> None:
        self._turn = _TURNS.get(orientation)
        room = _Size(variant.width, variant.height)
        if orientation >= _ON_ITS_SIDE:
            room = _Size(room.height, room.width)
        shown, self.size = _filled(whole, room) if variant.fill else _fitted(whole, room)
        #: The part that is shown, as a share of the whole.
        self._share = shown[0] / whole.width, shown[1] / whole.height
        self.enough = _Size(
            math.ceil(_GAP * self.size.width / self._share[0]),
            math.ceil(_GAP * self.size.height / self._share[1]),
        )

    def small(self, picture: Image.Image) -> Image.Image:
        """The part of `picture` that is shown, at the size of the variant."""
        across = max(1, picture.width // self.enough.width)
        down = max(1, picture.height // self.enough.height)
        reduced = _reduced(picture, across, down)
        # Not by the size of what was reduced, whose last column and row may be made of fewer pixels.
        width, height = picture.width / across, picture.height / down
        left, top = width * (1 - self._share[0]) / 2, height * (1 - self._share[1]) / 2
        return reduced.resize(self.size, Image.Resampling.LANCZOS, (left, top, width - left, height - top))

    def upright(self, picture: Image.Image) -> Image.Image:
        """The picture as it is shown, and nothing that is known of it."""
        picture.info.clear()
        return picture if self._turn is None else picture.transpose(self._turn)


def _filled(whole: _Size, room: _Size) -> tuple[tuple[float, float], _Size]:
    """The part of `whole` that has the shape of `room`, and the size that it takes there: all of it."""
    scale = min(whole.width / room.width, whole.height / room.height)
    # Rounding may come to a little more than there is.
    return (min(whole.width, room.width * scale), min(whole.height, room.height * scale)), room


def _fitted(whole: _Size, room: _Size) -> tuple[tuple[float, float], _Size]:
    """All of `whole`, and the size that it takes in `room`: never more than it has."""
    scale = min(1, room.width / whole.width, room.height / whole.height)
    return whole, _Size(max(1, round(whole.width * scale)), max(1, round(whole.height * scale)))


def _reduced(picture: Image.Image, across: int, down: int) -> Image.Image:
    """The means of so many pixels, in a mode that can be resized: L, RGB, RGBA or CMYK."""
    mode = _mode(picture)
    size = math.ceil(picture.width / across), math.ceil(picture.height / down)
    reduced = Image.new(mode, size)
    height = down * max(1, _STRIP_PIXELS // (picture.width * down))
    for top in range(0, picture.height, height):
        strip = picture.crop((0, top, picture.width, min(top + height, picture.height)))
        reduced.paste(_converted(strip, mode).reduce((across, down)), (0, top // down))
    return reduced


def _mode(picture: Image.Image) -> str:
    if picture.has_transparency_data:
        return "RGBA"
    if picture.mode in {"1", "L"} or picture.mode.startswith("I"):
        return "L"
    return "CMYK" if picture.mode == "CMYK" else "RGB"


def _converted(strip: Image.Image, mode: str) -> Image.Image:
    if not strip.mode.startswith("I"):
        return strip.convert(mode)
    # Greys of 16 bits, of which Pillow's own conversion shows everything above 255 as white.
    deep = strip.convert("I")
    grey = deep.point(_HIGH_BYTE, "L")
    if mode == "L":
        return grey
    transparent = strip.info.get("transparency")
    alpha = deep.point([0 if value == transparent else 255 for value in _DEPTH_16], "L")
    return Image.merge("RGBA", (grey, grey, grey, alpha))


class _Colours:
    """Turns what a colour profile means into sRGB; without one, and with a broken one, colours stay."""

    def __init__(self, profile: object) -> None:
        self._transform: ImageCms.ImageCmsTransform | None = None
        if isinstance(profile, bytes):
            # Pillow and its library meet broken profiles with errors of any kind.
            with suppress(Exception):
                self._use(ImageCms.ImageCmsProfile(io.BytesIO(profile)))

    def _use(self, profile: ImageCms.ImageCmsProfile) -> None:
        mode = _PROFILED[profile.profile.xcolor_space.strip()]
        srgb = ImageCms.createProfile("sRGB")
        self._transform = ImageCms.buildTransform(profile, srgb, mode, "RGB")

    def srgb(self, picture: Image.Image) -> Image.Image:
        """The picture in RGB, or RGBA if it was so."""
        if self._transform is None or (self._transform.input_mode == "CMYK") != (picture.mode == "CMYK"):
            return picture if picture.mode == "RGBA" else picture.convert("RGB")
        shown = self._transform.apply(picture.convert(self._transform.input_mode))
        if picture.mode == "RGBA":
            shown.putalpha(picture.getchannel("A"))
        return shown


#: The modes of pictures by the colour space that profiles for them are of.
_PROFILED: Final[Mapping[str, str]] = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
