"""Transformations: what is asked of an image, in a URL or with an upload."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from watchly_adapters.testing.cloudinary.messages import Refused

#: What is understood of Cloudinary's parameters: crop, width, height, format, quality, gravity, flags.
_COMPONENT: Final = re.compile(r"(?:c|w|h|f|q|g|fl)_[^,/]+(?:,(?:c|w|h|f|q|g|fl)_[^,/]+)*")
_CROPS: Final = frozenset({"scale", "fit", "limit", "fill"})
#: The formats that can be asked for, by what Cloudinary calls them.
FORMATS: Final[Mapping[str, str]] = {
    "jpg": "jpeg",
    "jpeg": "jpeg",
    "png": "png",
    "webp": "webp",
    "gif": "gif",
    "avif": "avif",
}
_QUALITY: Final = 80
_LARGEST: Final = 10_000


class Resize(NamedTuple):
    """One step: how to fit an image to a width and a height, of which one may be open."""

    crop: str
    width: int | None
    height: int | None

    def scaled(self, width: int, height: int) -> tuple[int, int]:
        """The size to scale an image of this size to, before what stands out of the step's is cut off."""
        across, down = (self.width or math.inf) / width, (self.height or math.inf) / height
        match self.crop:
            case "fill" if self.width and self.height:
                factor = max(across, down)
            case "limit":
                factor = min(across, down, 1)
            case "scale" if self.width and self.height:
                return self.width, self.height
            case _:
                factor = min(across, down)
        return max(1, round(width * factor)), max(1, round(height * factor))


class Transformation(NamedTuple):
    """All that is asked of an image; `format` is one of ours, or "auto", or None to keep it."""

    text: str
    resizes: tuple[Resize, ...] = ()
    format: str | None = None
    quality: int = _QUALITY
    strip: bool = False

    @property
    def redraws(self) -> bool:
        """Whether it asks for more than to leave out metadata."""
        return bool(self.resizes or self.format)


def is_component(segment: str) -> bool:
    """Whether a segment of a URL is of a transformation."""
    return _COMPONENT.fullmatch(segment) is not None


def parse(text: str) -> Transformation:
    """The transformation that a text such as ``c_fill,h_450,w_300/f_auto/q_auto`` asks for.

    Raises:
        Refused: it means nothing, here at least.
    """
    resizes: list[Resize] = []
    format_: str | None = None
    quality, strip = _QUALITY, False
    for component in filter(None, text.split("/")):
        if not is_component(component):
            raise Refused(400, f"Invalid transformation component - {component}")
        values: dict[str, str] = dict(part.split("_", 1) for part in component.split(","))
        if values.keys() & {"c", "w", "h"}:
            resizes.append(_resize(values, component))
        if (wanted := values.get("f")) is not None:
            if wanted != "auto" and wanted not in FORMATS:
                raise Refused(400, f"Invalid extension in transformation: {wanted}")
            format_ = FORMATS.get(wanted, wanted)
        if (level := values.get("q", "auto").partition(":")[0]) != "auto":
            quality = _number(level, 100, component)
        strip = strip or "force_strip" in values.get("fl", "").split(".")
    return Transformation(text, tuple(resizes), format_, quality, strip)


def _resize(values: dict[str, str], component: str) -> Resize:
    crop = values.get("c", "scale")
    width = _number(values["w"], _LARGEST, component) if "w" in values else None
    height = _number(values["h"], _LARGEST, component) if "h" in values else None
    if crop not in _CROPS or not (width or height):
        raise Refused(400, f"Invalid transformation component - {component}")
    return Resize(crop, width, height)


def _number(text: str, most: int, component: str) -> int:
    if not (re.fullmatch("[0-9]{1,5}", text) and 0 < int(text) <= most):
        raise Refused(400, f"Invalid transformation component - {component}")
    return int(text)


def for_client(asked: str | None, original: str, accept: str) -> str:
    """The format to deliver in, given what the client accepts."""
    if asked != "auto":
        return asked or original
    return next((format_ for format_ in ("avif", "webp") if f"image/{format_}" in accept), original)
