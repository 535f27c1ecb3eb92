"""Image, the ledger's record of one, its legal states, and what an acceptable image is."""

from __future__ import annotations

import enum
import re
import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Final

import msgspec

from watchly_core.errors import IllegalTransition, ImageTypeUnsupported, ImageUnreadable

__all__ = [
    "MAX_FRAMES",
    "MAX_PIXELS",
    "MEDIA_TYPES",
    "RENDERED",
    "SNIFF_BYTES",
    "VARIANTS",
    "Image",
    "ImageRecord",
    "ImageState",
    "Measured",
    "Rendition",
    "StoredImage",
    "Ticket",
    "Variant",
    "claimed_format",
    "is_key",
    "new_key",
    "require_key",
    "sniff",
]

#: Formats that the catalogue keeps, by the media types that clients may call them.
MEDIA_TYPES: Final[Mapping[str, str]] = {
    "image/jpeg": "jpeg",
    "image/jpg": "jpeg",
    "image/png": "png",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/avif": "avif",
}

#: Width times height of an image at most.
MAX_PIXELS: Final = 100_000_000

#: Pictures that an animated image may be made of.
MAX_FRAMES: Final = 1_000

#: How many leading bytes `sniff` needs: an AVIF says that it is one among a dozen brands.
SNIFF_BYTES: Final = 64


class Image(msgspec.Struct, frozen=True):
    """An image of a movie, as clients see it.

    `width` and `height` are in pixels, `bytes` is the size of the original; `variants` maps the name
    of a rendering to its URL.
    """

    key: str
    width: int
    height: int
    format: str
    bytes: int
    variants: Mapping[str, str] = {}


class Variant(msgspec.Struct, frozen=True):
    """A smaller image that is made of another one; sizes are in pixels.

    With `fill` it has exactly this size, and what stands out of it is cut off on both sides; without, it is
    the largest that fits into it, and never larger than the original.
    """

    name: str
    width: int
    height: int
    fill: bool


#: What clients can load of every image, beside the original.
VARIANTS: Final[Mapping[str, Variant]] = {
    variant.name: variant
    for variant in (Variant("thumbnail", 300, 450, fill=True), Variant("card", 600, 900, fill=False))
}

#: The formats that variants are rendered in, the one that more browsers know first.
RENDERED: Final = ("webp", "avif")


class Rendition(msgspec.Struct, frozen=True):
    """A variant in one of the formats of `RENDERED`."""

    variant: Variant
    format: str

    @property
    def name(self) -> str:
        """What tells it from the other renditions of its image, such as ``thumbnail.webp``."""
        return f"{self.variant.name}.{self.format}"


class StoredImage(msgspec.Struct, frozen=True):
    """What a store says of an image that it keeps; None is what it does not look into."""

    bytes: int
    width: int | None = None
    height: int | None = None
    format: str | None = None


class Ticket(msgspec.Struct, frozen=True):
    """How a client sends an image straight to where it is kept, until `expires_at`.

    With `fields` the body is a form (multipart/form-data) of them and the file, last, as ``file``; without,
    it is the image itself.
    """

    key: str
    method: str
    url: str
    headers: Mapping[str, str]
    fields: Mapping[str, str]
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)]


class Measured(msgspec.Struct, frozen=True):
    """What an inspector found in the header of an image: its format and its size in pixels.

    `format` is one of those of `MEDIA_TYPES`; the size is that of the image as it is shown.
    """

    format: str
    width: int
    height: int


class ImageState(enum.Enum):
    """Where an image is on its way; see `ImageRecord.moved` for the ways between them."""

    PENDING = "pending"
    """A key was chosen; its bytes may be on their way to the store."""
    ATTACHED = "attached"
    """A movie shows it."""
    DISCARDED = "discarded"
    """No movie shows it any more; it can come back until it is due."""
    DELETING = "deleting"
    """The sweeper has claimed it; the store may have lost it already, so it never comes back."""


_TRANSITIONS: Final[Mapping[ImageState, frozenset[ImageState]]] = {
    ImageState.PENDING: frozenset({ImageState.ATTACHED, ImageState.DISCARDED, ImageState.DELETING}),
    ImageState.ATTACHED: frozenset({ImageState.DISCARDED}),
    ImageState.DISCARDED: frozenset({ImageState.ATTACHED, ImageState.DISCARDED, ImageState.DELETING}),
    ImageState.DELETING: frozenset({ImageState.DELETING}),
}


class ImageRecord(msgspec.Struct, frozen=True):
    """The ledger's line on one image.

    `due_at` is when the sweeper may take it (None: never, it is attached, or the sweeper has given it up);
    `attempts` counts the sweeper's tries. A ticket lets somebody write under the key until `open_until`:
    the sweeper comes after that, so that nothing arrives behind it.
    """

    image: Image
    state: ImageState
    movie_id: int
    due_at: datetime | None
    attempts: int = 0
    open_until: datetime | None = None

    @property
    def is_dead(self) -> bool:
        """Whether the sweeper has given it up: its store would not drop it, however often it was asked."""
        return self.state is ImageState.DELETING and self.due_at is None

    def moved(self, state: ImageState, *, due_at: datetime | None, attempts: int = 0) -> ImageRecord:
        """This record in another state.

        Raises:
            IllegalTransition: there is no way from its state to that one.
        """
        if state not in _TRANSITIONS[self.state]:
            raise IllegalTransition(
                f"image {self.image.key} is {self.state.value} and cannot become {state.value}"
            )
        if due_at is not None and self.open_until is not None:
            due_at = max(due_at, self.open_until)
        return msgspec.structs.replace(self, state=state, due_at=due_at, attempts=attempts)


_KEY: Final = re.compile("[0-9a-f]{32}")


def new_key() -> str:
    """A fresh key: 32 lower-case hexadecimal digits, safe in URLs and file names, never guessed."""
    return secrets.token_hex(16)


def is_key(text: str) -> bool:
    """Whether `text` has the form of a key; anything else names no image."""
    return _KEY.fullmatch(text) is not None


def require_key(key: str) -> None:
    """Refuse what has not the form of a key; keys come from `new_key`, so that it is a mistake of the caller.

    Raises:
        ValueError: it has not.
    """
    if not is_key(key):
        raise ValueError(f"{key!r} is no key of an image")


def sniff(head: bytes) -> str:
    """The format of the image that starts with `head` (`SNIFF_BYTES` of it are enough).

    The signatures are those of the WHATWG MIME Sniffing Standard, section 6.1, and for AVIF the
    brands of AV1 Image File Format v1.1, section 6.

    Raises:
        ImageTypeUnsupported: it is none of the formats that the catalogue keeps.
    """
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if head[:4] == b"RIFF" and head[8:14] == b"WEBPVP":
        return "webp"
    if head[4:8] == b"ftyp":
        # The major brand, the minor version (no brand), then compatible brands to the end of the box.
        end = min(int.from_bytes(head[:4]), SNIFF_BYTES)
        if any(head[at : at + 4] in {b"avif", b"avis"} for at in (8, *range(16, end, 4))):
            return "avif"
    raise ImageTypeUnsupported("the content is not JPEG, PNG, WebP, GIF or AVIF")


def claimed_format(media_type: str) -> str:
    """The format that a Content-Type claims; parameters are ignored.

    Raises:
        ImageTypeUnsupported: the catalogue does not keep that type.
    """
    essence = media_type.partition(";")[0].strip().lower()
    try:
        return MEDIA_TYPES[essence]
    except KeyError:
        accepted = ", ".join(sorted(set(MEDIA_TYPES) - {"image/jpg"}))
        raise ImageTypeUnsupported(f"{essence or 'no type'} is not one of {accepted}") from None


def require_same(claimed: str, found: str) -> None:
    """Refuse content that is another format than its sender says.

    Raises:
        ImageUnreadable: they differ.
    """
    if claimed != found:
        raise ImageUnreadable(f"the content is {found}, not {claimed} as its type says")
