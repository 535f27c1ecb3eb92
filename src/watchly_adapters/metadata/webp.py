"""WebP: chunks in a RIFF file, those of frames with chunks inside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from watchly_adapters.metadata.parts import PROFILE_HEAD, Parts, is_profile

_KEPT: Final = frozenset({b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF", b"ICCP"})
_KEPT_IN_FRAMES: Final = frozenset({b"VP8 ", b"VP8L", b"ALPH"})
_PIXELS: Final = frozenset({b"VP8 ", b"VP8L", b"ANMF"})

#: What RIFF calls a chunk that is of no use.
_FILLING: Final = b"JUNK"

#: How many bytes of a frame, before its chunks, say where and how it is shown.
_FRAME_HEAD: Final = 16

#: Bits of the first byte of VP8X.
_HAS_EXIF, _HAS_XMP, _HAS_PROFILE, _HAS_ALPHA = 0x08, 0x04, 0x20, 0x10

#: Chunks that nobody looks at unless they are announced by such a bit.
_ANNOUNCED: Final[Mapping[bytes, int]] = {
    b"ICCP": _HAS_PROFILE,
    b"ALPH": _HAS_ALPHA,
    b"ANIM": 0x02,
    b"ANMF": 0x02,
}

#: How many bytes of ANIM say something: a background and how often an animation is shown.
_ANIM_BYTES: Final = 6


class _Chunk(NamedTuple):
    kind: bytes
    start: int
    end: int


def clean(file: Parts) -> int:
    """Overwrite the chunks that do not matter, and no longer say that they are there."""
    end = 8 + file.number(4, 4, "little")
    file.require(end)
    if file.size > end + end % 2:
        raise file.broken("is followed by something else")
    flags_at = flags = kept = pictures = 0
    has_pixels = False
    for chunk in _chunks(file, 12, end):
        if chunk.kind == b"VP8X" and not flags_at:
            flags_at, flags = chunk.start, file.number(chunk.start, 1)
            kept = flags & ~(_HAS_EXIF | _HAS_XMP | _HAS_PROFILE)
        elif chunk.kind == b"EXIF" and flags & _HAS_EXIF:
            # Readers go by the first, and only if they were told of it.
            turn = file.turn(chunk.start, chunk.end)
            _overwrite(file, chunk, turn)
            flags, kept = flags & ~_HAS_EXIF, kept | (_HAS_EXIF if turn else 0)
        elif chunk.kind not in _KEPT or not _matters(file, chunk, flags, end):
            _overwrite(file, chunk)
        elif chunk.kind == b"ICCP":
            flags, kept = flags & ~_HAS_PROFILE, kept | _HAS_PROFILE
        else:
            pictures += chunk.kind == b"ANMF"
            file.allow_pictures(pictures)
            _clean_inside(file, chunk)
            has_pixels = has_pixels or chunk.kind in _PIXELS
    if not has_pixels:
        raise file.broken("has no pixels")
    if flags_at:
        file.write(flags_at, bytes([kept]))
    return file.size


def _clean_inside(file: Parts, chunk: _Chunk) -> None:
    """Overwrite what does not matter in a chunk that does."""
    if chunk.kind == b"ANIM":
        file.fill(chunk.start + _ANIM_BYTES, chunk.end)
    elif chunk.kind == b"ANMF":
        for inner in _chunks(file, chunk.start + _FRAME_HEAD, chunk.end):
            # The transparency of a picture counts without having been announced.
            if inner.kind not in _KEPT_IN_FRAMES or not _matters(file, inner, _HAS_ALPHA, chunk.end):
                _overwrite(file, inner)


def _matters(file: Parts, chunk: _Chunk, flags: int, end: int) -> bool:
    """Whether anybody looks at a chunk before `end`."""
    announced = _ANNOUNCED.get(chunk.kind, 0)
    if flags & announced != announced:
        return False
    if chunk.kind == b"ALPH":
        after = chunk.end + chunk.end % 2
        return after + 4 <= end and file.read(after, 4) == b"VP8 "
    if chunk.kind == b"ICCP":
        size = chunk.end - chunk.start
        return is_profile(file.read(chunk.start, min(size, PROFILE_HEAD)), size)
    return True


def _chunks(file: Parts, at: int, end: int) -> Iterator[_Chunk]:
    """The chunks between `at` and `end`, each of which begins at an even place."""
    while at < end:
        file.part()
        if at + 8 > end:
            raise file.broken("has something between its chunks")
        start = at + 8
        chunk = _Chunk(file.read(at, 4), start, start + file.number(at + 4, 4, "little"))
        if chunk.end > end:
            raise file.broken("has a chunk that ends too late")
        yield chunk
        at = chunk.end + chunk.end % 2


def _overwrite(file: Parts, chunk: _Chunk, content: bytes = b"") -> None:
    if content:
        file.write(chunk.start, content)
    else:
        file.write(chunk.start - 8, _FILLING)
        file.fill(chunk.start, chunk.end)
