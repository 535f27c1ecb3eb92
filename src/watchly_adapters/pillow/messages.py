"""What a process and its decoder say to each other over a pair of sockets.

The decoder says that it is ready, by a reply to no job. A job is one small message, with the descriptor of
the file beside it; a reply is its length in `LENGTH_BYTES`, and then itself.
"""

from __future__ import annotations

from typing import Final

import msgspec

from watchly_core.images import Rendition

LENGTH_BYTES: Final = 4

#: No job is longer.
JOB_BYTES: Final = 4096


class Limits(msgspec.Struct, frozen=True):
    """What decoding may take.

    `memory` is the address space of the decoder in bytes: an animated WebP of 100 megapixels, the greediest
    of all, takes half of it. A job may take `cpu_seconds` of processor time (a third of it if an image is to
    be accepted) and `seconds` in all, and wait for its turn as long as `turn_seconds`. There are `places` for
    jobs, those that wait included.
    """

    memory: int = 3 * 1024**3
    cpu_seconds: int = 60
    seconds: float = 180
    turn_seconds: float = 300
    places: int = 200


class Job(msgspec.Struct, frozen=True):
    """Decode an image, or make a rendition of it."""

    rendition: Rendition | None = None


class Reply(msgspec.Struct, frozen=True):
    """The rendition, if one was asked for, or why there is none; `too_large` is a reason of its own kind."""

    content: bytes = b""
    refused: str | None = None
    too_large: bool = False
