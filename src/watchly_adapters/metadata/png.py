"""PNG: chunks, each with its length, type and checksum."""

# ruff: noqa: PLR2004 - the numbers are those of the format

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import Final

from watchly_adapters.metadata.parts import BLOCK, PROFILE_HEAD, Parts, is_profile

_LONGEST: Final = 2**31 - 1

#: Chunks that say how the image is shown, with the most that they can hold; longer ones are none.
_KEPT: Final[Mapping[bytes, int]] = {
    b"IHDR": 13,
    b"PLTE": 3 * 256,
    b"IDAT": _LONGEST,
    b"IEND": 0,
    b"tRNS": 256,
    b"gAMA": 4,
    b"cHRM": 32,
    b"sRGB": 1,
    b"iCCP": _LONGEST,
    b"cICP": 4,
    b"mDCV": 24,
    b"cLLI": 8,
    b"sBIT": 4,
    b"bKGD": 6,
    b"pHYs": 9,
    b"acTL": 8,
    b"fcTL": 26,
    b"fdAT": _LONGEST,
}

#: What a chunk becomes that is taken out: ancillary, private, safe to copy, of no use to anyone.
_FILLING: Final = b"waTc"

#: Chunks that are compressed, and what they may inflate to.
_COMPRESSED: Final[Mapping[bytes, int]] = {
    b"zTXt": 1024 * 1024,
    b"iTXt": 1024 * 1024,
    b"iCCP": 10 * 1024 * 1024,
}

#: What stands before compressed data, names and languages, is far shorter.
_MOST_HEAD: Final = 4096

_LONGEST_NAME: Final = 79


class _Animation:
    """Says which chunks an animation is made of: those of as many pictures as it announces."""

    def __init__(self, file: Parts) -> None:
        self._file = file
        self._announced = self._begun = 0
        #: How many pictures had begun before the pixels that every PNG has; None before those.
        self._first: int | None = None

    def has(self, kind: bytes, start: int, length: int) -> bool:
        """Whether the chunk that comes next is shown, if it is one of an animation."""
        if kind == b"IDAT" and self._first is None:
            self._first = self._begun
        elif kind == b"acTL":
            if self._announced or self._first is not None:
                return False
            self._announced = self._file.number(start, min(length, 4))
            self._file.allow_pictures(self._announced)
        elif kind == b"fcTL":
            self._begun += 1
            self._file.allow_pictures(self._begun)
            return self._begun <= self._announced
        elif kind == b"fdAT":
            return self._first is not None and self._first < self._begun <= self._announced
        return True


def clean(file: Parts) -> int:
    """Overwrite the chunks that do not matter; all of them are checked first."""
    at, last, animation = 8, b"", _Animation(file)
    seen: set[bytes] = set()
    while last != b"IEND":
        file.part()
        length, kind = struct.unpack(">L4s", file.read(at, 8))
        start, end = at + 8, at + 8 + length
        if length > _LONGEST or not kind.isalpha():
            raise file.broken("has something between its chunks")
        if _checksum(file, kind, start, end) != file.number(end, 4):
            raise file.broken(f"has a {kind.decode()} chunk with a wrong checksum")
        _require_order(file, kind, length, last, seen)
        inflated = _inflated(file, kind, start, end) if kind in _COMPRESSED else None
        if kind == b"eXIf":
            turn = file.turn(start, end) if not seen & {b"eXIf", b"IDAT"} else b""
            _overwrite(file, at, end, kind if turn else _FILLING, turn)
        elif length > _KEPT.get(kind, -1) or not animation.has(kind, start, length):
            _overwrite(file, at, end, _FILLING)
        elif kind == b"iCCP":
            _clean_profile(file, at, end, inflated)
        seen.add(kind)
        at, last = end + 4, kind
    if at < file.size:
        raise file.broken("is followed by something else")
    return at


def _require_order(file: Parts, kind: bytes, length: int, last: bytes, seen: set[bytes]) -> None:
    if (kind == b"IHDR") != (not last) or (kind == b"IHDR" and length != 13):
        raise file.broken("does not start with one sound IHDR")
    if kind[:1].isupper() and length > _KEPT.get(kind, -1):
        raise file.broken(f"has a {kind.decode()} chunk that it cannot have")
    if kind == b"PLTE" and (length % 3 or not length or seen & {b"PLTE", b"IDAT"}):
        raise file.broken("has a palette that it cannot have")
    if kind == b"IDAT" and kind in seen and last != kind:
        raise file.broken("has its pixels in two places")
    if kind == b"IEND" and b"IDAT" not in seen:
        raise file.broken("has no pixels")


def _checksum(file: Parts, kind: bytes, start: int, end: int) -> int:
    checksum = zlib.crc32(kind)
    for block in file.blocks(start, end):
        checksum = zlib.crc32(block, checksum)
    return checksum


def _overwrite(file: Parts, at: int, end: int, kind: bytes, content: bytes = b"") -> None:
    """Make the chunk from `at` to `end` another one, with `content`, or else zeros."""
    start = at + 8
    file.write(at + 4, kind)
    if content:
        file.write(start, content)
    else:
        file.fill(start, end)
    file.write(end, _checksum(file, kind, start, end).to_bytes(4))


def _clean_profile(file: Parts, at: int, end: int, inflated: tuple[bytes, int] | None) -> None:
    """Take the name from the profile from `at` to `end`, which everybody can choose; it may be none."""
    start = at + 8
    name = file.read(start, min(end - start, _LONGEST_NAME + 1)).find(b"\0")
    if name < 1 or inflated is None or not is_profile(*inflated):
        _overwrite(file, at, end, _FILLING)
        return
    file.fill(start, start + name, b"i")
    file.write(end, _checksum(file, b"iCCP", start, end).to_bytes(4))


def _inflated(file: Parts, kind: bytes, start: int, end: int) -> tuple[bytes, int] | None:
    """The first bytes of what the compressed data of a chunk inflate to, and its size.

    None if they are broken, or something follows them.

    Raises:
        ImageUnreadable: to more than they should.
    """
    skipped = _compressed_from(kind, file.read(start, min(end - start, _MOST_HEAD)))
    if skipped is None:
        return None
    inflater, head, size = zlib.decompressobj(), b"", 0
    try:
        for block in file.blocks(start + skipped, end):
            if inflater.eof:
                return None
            rest = block
            while rest and not inflater.eof:
                data = inflater.decompress(rest, BLOCK)
                head += data[: PROFILE_HEAD - len(head)]
                size += len(data)
                if size > _COMPRESSED[kind]:
                    raise file.broken(f"has a {kind.decode()} chunk that grows beyond all measure")
                rest = inflater.unconsumed_tail
    except zlib.error:
        return None
    return (head, size) if inflater.eof and not inflater.unused_data else None


def _compressed_from(kind: bytes, head: bytes) -> int | None:
    """How far the compressed data of a chunk are from its start, which is `head`; None if there are none."""
    name, *rest = head.split(b"\0", 1)
    if not rest:
        return None
    if kind != b"iTXt":
        return len(name) + 2
    texts = rest[0][2:].split(b"\0", 2)  # a language, and the name in that language
    if rest[0][:1] != b"\1" or len(texts) < 3:
        return None
    return len(head) - len(texts[2])
