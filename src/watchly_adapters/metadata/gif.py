"""GIF: pictures and extensions, each ending in a chain of sub-blocks of at most 255 bytes."""

# ruff: noqa: PLR2004 - the numbers are those of the format

from __future__ import annotations

import re
from typing import Final

from watchly_adapters.metadata.parts import PROFILE_HEAD, Parts, is_profile

#: Of sub-blocks there may be so many: five for each of those that 500 MB of pixels come in.
_MOST_SUB_BLOCKS: Final = 10_000_000

_EXTENSION, _PICTURE, _END = 0x21, 0x2C, 0x3B
_CONTROL, _COMMENT, _APPLICATION = 0xF9, 0xFE, 0xFF

#: Applications that say how often an animation is shown, and one that says what its colours are.
_LOOPS: Final = (b"\x0bNETSCAPE2.0", b"\x0bANIMEXTS1.0")
_PROFILE: Final = b"\x0bICCRGBG1012"

#: As much of a profile as is looked at; profiles for screens are a hundred times smaller.
_MOST_PROFILE: Final = 1024 * 1024

#: Writers leave a few bytes of their own behind the image, or fill a block; what can be read means something.
_MOST_AFTER: Final = 64
_READABLE: Final = re.compile(rb"[ -~]{4}")

#: A loop count, and how much to load before it starts: how long such a sub-block is, and its first byte.
_LOOP_BLOCKS: Final = (b"\x03\x01", b"\x05\x02")


class _SubBlocks:
    """Steps over chains of sub-blocks, and counts what they are made of."""

    def __init__(self, file: Parts) -> None:
        self._file, self._left = file, _MOST_SUB_BLOCKS

    def end(self, at: int) -> int:
        """Where the chain that starts at `at` has ended."""
        tries = 0
        while True:
            block = self._file.ahead(at, tries)
            here = steps = 0
            while here < len(block):
                steps += 1
                length = block[here]
                here += length + 1
                if not length:
                    return at + here
            self._left -= steps
            if self._left < 0:
                raise self._file.broken("has too many parts")
            at += here
            tries += 1


def clean(file: Parts) -> int:
    """Turn the extensions that do not matter into comments of zeros."""
    chains = _SubBlocks(file)
    at, pictures = 13 + _colours(file.read(10, 1)[0]), 0
    while True:
        file.part()
        mark = file.number(at, 1)
        if mark == _END:
            break
        if mark == _PICTURE:
            pictures += 1
            file.allow_pictures(pictures)
            # After the colours there is one byte, the width of the codes, before the chain.
            at = chains.end(at + 11 + _colours(file.read(at + 9, 1)[0]))
        elif mark == _EXTENSION:
            start = at + 2
            end = chains.end(start)
            if not _matters(file, file.number(at + 1, 1), start, end):
                file.write(at + 1, bytes([_COMMENT]))
                _empty(file, start, end)
            at = end
        else:
            raise file.broken("has something between its blocks")
    if not pictures:
        raise file.broken("has no pixels")
    at += 1
    if file.size - at > _MOST_AFTER or _READABLE.search(file.read(at, file.size - at)):
        raise file.broken("is followed by something else")
    file.cut(at)
    return at


def _colours(flags: int) -> int:
    """How many bytes of a palette follow."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _matters(file: Parts, label: int, start: int, end: int) -> bool:
    """Whether an extension says how the image is shown, and nothing else."""
    if label == _CONTROL:
        return end - start == 6
    if label != _APPLICATION:
        return False
    # As much as both sub-blocks of a loop take.
    content = file.read(start, min(end - start, 32))
    if content[:12] == _PROFILE:
        return end - start <= _MOST_PROFILE and _is_profile(file.read(start + 12, end - start - 13))
    at = 12
    while content[at : at + 2] in _LOOP_BLOCKS:
        at += 1 + content[at]
    return content[:12] in _LOOPS and at == end - start - 1


def _is_profile(chain: bytes) -> bool:
    """Whether the sub-blocks of a chain, without its end, hold a colour profile."""
    at, content = 0, bytearray()
    while at < len(chain):
        content += chain[at + 1 : at + 1 + chain[at]]
        at += 1 + chain[at]
    return is_profile(bytes(content[:PROFILE_HEAD]), len(content))


def _empty(file: Parts, start: int, end: int) -> None:
    """Make another chain of the bytes from `start` to `end`: XMP lies in chains that its text is part of."""
    last = end - 1
    full, rest = divmod(last - start, 256)
    file.fill(start, last - rest, b"\xff" + bytes(255))
    file.fill(last - rest, last)
    if rest > 1:
        file.write(last - rest, bytes([rest - 1]))
    elif full and rest:  # a sub-block has two bytes at least: the one before makes room
        file.write(last - 257, b"\xfe")
        file.write(last - 2, b"\x01")
