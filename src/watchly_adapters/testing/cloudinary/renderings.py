"""Images made of others by Pillow, which the emulator can do without."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Final

from watchly_adapters.testing.cloudinary.messages import Refused
from watchly_adapters.testing.cloudinary.transformations import Resize, Transformation

if TYPE_CHECKING:
    from PIL import Image

#: The formats that hold several pictures.
_ANIMATED: Final = frozenset({"gif", "webp", "png"})


def rendered(source: IO[bytes], transformation: Transformation, format_: str) -> bytes | None:
    """The transformed image in this format, upright and without metadata.

    None says that the original will do: nothing is to be drawn, or Pillow is not installed. What is
    animated stays so, as WebP if the format does not hold several pictures.

    Raises:
        Refused: it is an image by its header only.
    """
    source.seek(0)
    if not transformation.redraws:
        return None
    try:
        from PIL import Image, ImageOps, ImageSequence  # noqa: PLC0415 - see above
    except ImportError:
        return None
    target = io.BytesIO()
    try:
        with Image.open(source) as image:
            # Further pictures of a JPEG are previews and the like.
            if image.format == "MPO" or not getattr(image, "is_animated", False):
                drawn = _drawn(ImageOps.exif_transpose(image), transformation.resizes, format_)
                drawn.save(target, format_, quality=transformation.quality)
                return target.getvalue()
            frames, durations = [], []
            for frame in ImageSequence.Iterator(image):
                frames.append(_drawn(frame, transformation.resizes, format_))
                durations.append(int(frame.info.get("duration", 100)))
            frames[0].save(
                target,
                format_ if format_ in _ANIMATED else "webp",
                save_all=True,
                append_images=frames[1:],
                duration=durations,
                loop=int(image.info.get("loop", 1)),
                quality=transformation.quality,
            )
            return target.getvalue()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Refused(400, "Invalid image file") from error


def _drawn(image: Image.Image, resizes: Sequence[Resize], format_: str) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits
        image = image.convert("I").point(lambda value: value / 256, "L")
    image = image.convert("RGBA" if image.has_transparency_data and format_ != "jpeg" else "RGB")
    for resize in resizes:
        image = image.resize(resize.scaled(*image.size))
        if resize.crop == "fill" and resize.width and resize.height:
            left, top = (image.width - resize.width) // 2, (image.height - resize.height) // 2
            image = image.crop((left, top, left + resize.width, top + resize.height))
    return image
