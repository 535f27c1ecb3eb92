"""The program that decodes: ``python -m watchly_adapters.pillow.decoder MEMORY SECONDS``.

It does what it is asked over the socket that is its standard input, and it is meant to be killed by images
that take too much. Whatever a file makes of Pillow, it holds this process alone, which has no secret, no
other file and no connection.
"""

from __future__ import annotations

import fcntl
import math
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec
from PIL import AvifImagePlugin, Image
from PIL.ImageFile import ImageFile

from watchly_adapters.exif import orientation
from watchly_adapters.pillow.messages import JOB_BYTES, LENGTH_BYTES, Job, Reply
from watchly_adapters.pillow.plugins import PLUGINS
from watchly_adapters.pillow.rendering import render
from watchly_core.errors import ImageRejected, ImageTooLarge
from watchly_core.images import MAX_FRAMES, MAX_PIXELS, SNIFF_BYTES, sniff

#: The pixels of all pictures of an image together: 1,000 of 640x460, or 144 of 1920x1080. Every rendition
#: decodes all of them.
_MAX_PIXELS_IN_ALL: Final = 3 * MAX_PIXELS

#: Of the processor time for a rendition an image may take so much to be accepted, and has room left then:
#: a rendition takes as much, for every picture is decoded, and some seconds more.
_SHARE: Final = 3

_DESCRIPTORS: Final = 16
_NICE: Final = 10


def main() -> None:
    """Do jobs until nobody is there to ask for more."""
    memory, seconds = (int(argument) for argument in sys.argv[1:])
    # The core has judged the number of pixels, and for all others there are the limits of this process.
    Image.MAX_IMAGE_PIXELS = None
    # More threads take more memory, and time from the requests that are served beside.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    _restrict(memory)
    with socket.socket(fileno=0) as parent:
        _send(parent, Reply())
        while True:
            message, descriptors, _, _ = socket.recv_fds(parent, JOB_BYTES, 1)
            if not message:
                return
            job = msgspec.msgpack.decode(message, type=Job)
            _allow(seconds if job.rendition else math.ceil(seconds / _SHARE))
            with _ended_by(parent):
                reply = _do(job, descriptors[0])
            _send(parent, reply)


def _restrict(memory: int) -> None:
    # The first to go when the machine has no memory left, and the last to run when it has much to do.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
    os.nice(_NICE)
    for limit, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, _DESCRIPTORS),
    ):
        _, hard = resource.getrlimit(limit)
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (allowed, allowed))
    # Service managers tell all of a service to stop; what its parent has begun is finished first.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _allow(seconds: int) -> None:
    """So much more processor time; whoever takes more is killed by the kernel."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + 1 + seconds
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


@contextmanager
def _ended_by(parent: socket.socket) -> Iterator[None]:
    """The kernel ends this process if its parent goes away during the block: SIGIO is deadly by default."""
    fcntl.fcntl(parent, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(parent, fcntl.F_GETFL)
    fcntl.fcntl(parent, fcntl.F_SETFL, flags | os.O_ASYNC)
    try:
        yield
    finally:
        fcntl.fcntl(parent, fcntl.F_SETFL, flags)


def _do(job: Job, descriptor: int) -> Reply:
    format_ = "image"
    try:
        with open(descriptor, "rb") as file:
            format_ = sniff(file.read(SNIFF_BYTES))
            file.seek(0)
            with PLUGINS[format_](file) as image:
                if job.rendition is None:
                    _decode(image)
                    return Reply()
                exif = image.info.get("exif")
                turn = orientation(exif) if isinstance(exif, bytes) else 1
                return Reply(render(image, job.rendition, turn))
    except MemoryError:
        # There is no telling what else failed with it: the next job deserves another process.
        os._exit(1)
    except ImageRejected as error:
        return Reply(refused=str(error), too_large=isinstance(error, ImageTooLarge))
    except Exception:  # noqa: BLE001 - Pillow meets broken bytes with errors of any kind
        return Reply(refused=f"the {format_} cannot be decoded: it is broken or cut off")


def _decode(image: ImageFile) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > MAX_FRAMES:
        raise ImageTooLarge(f"an image may have at most {MAX_FRAMES} pictures, not {frames}")
    for frame in range(frames):
        image.seek(frame)
        # A GIF may grow from one picture to the next.
        if frames * image.width * image.height > _MAX_PIXELS_IN_ALL:
            raise ImageTooLarge(f"the pictures of an image may have {_MAX_PIXELS_IN_ALL:,} pixels in all")
        image.load()


def _send(parent: socket.socket, reply: Reply) -> None:
    message = msgspec.msgpack.encode(reply)
    parent.sendall(len(message).to_bytes(LENGTH_BYTES) + message)


if __name__ == "__main__":
    with suppress(BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        main()
