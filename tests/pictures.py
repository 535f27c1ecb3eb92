"""Pictures that tests are told apart by."""

from __future__ import annotations

import io
import struct
import zlib

from watchly_adapters.metadata import clean


def cleaned(content: bytes) -> bytes:
    """What is kept of an image."""
    file = io.BytesIO(content)
    clean(file)
    return file.getvalue()


def blank_png(width: int, height: int) -> bytes:
    """A PNG of any size that is small all the same, and quickly decoded: one bit a pixel."""
    rows = zlib.compress(bytes((1 + (width + 7) // 8) * height))
    header = struct.pack(">LLBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))
        for kind, data in chunks
    )
