"""Jobs for the decoder, one after the other."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Final

from watchly_adapters.pillow.messages import Job, Limits, Reply
from watchly_adapters.pillow.process import Decoder, DecoderDied, DecoderLate
from watchly_core.errors import ImageTooLarge, ImageUnreadable, Unavailable
from watchly_core.threads import Threads

#: Files up to this size are copied: that takes less than having them written to a disk.
_COPIED: Final = 256 * 1024

_RETRY_AFTER: Final = 10


class Turns:
    """Has jobs done by one decoder, which starts with the first of them and again after each death.

    Args:
        limits: what a job, and waiting for it, may take.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._thread = Threads(1, "watchly-decoder")
        self._places = threading.BoundedSemaphore(limits.places)
        self._working = threading.Lock()
        self._decoder: Decoder | None = None
        self._closed = 0

    @property
    def pid(self) -> int | None:
        """The id of the decoder's process, if it runs."""
        decoder = self._decoder
        return decoder.pid if decoder is not None and decoder.runs else None

    def close(self) -> None:
        """End the decoder, also in the middle of a job, after which the thread that has it done tidies up.

        Those whose turn has not come yet are turned away as well.
        """
        self._closed += 1
        if (decoder := self._decoder) is not None:
            decoder.kill()
        if self._working.acquire(blocking=False):
            try:
                self._end()
            finally:
                self._working.release()

    async def do(self, job: Job, source: IO[bytes]) -> bytes:
        """What the decoder makes of `source`, which is left at its start.

        A caller that is cancelled leaves the queue, or takes the decoder with it: what Pillow has begun
        nothing else can stop.

        Raises:
            ImageTooLarge, ImageUnreadable: the decoder refuses it, or dies of it when it is first decoded.
            Unavailable: the job's turn does not come, there is no decoder, or it is no fault of the image
                that nothing came of the job.
        """
        if not self._places.acquire(blocking=False):
            raise Unavailable("decoder", "too many images wait", retry_after=_RETRY_AFTER)
        loop = asyncio.get_running_loop()
        closed = self._closed
        turn = asyncio.timeout(self._limits.turn_seconds)

        def begun() -> None:
            if not turn.expired():
                turn.reschedule(None)

        def work(stop: threading.Event) -> Reply:
            loop.call_soon_threadsafe(begun)
            with self._working:
                return self._do(job, source, stop, closed)

        try:
            async with turn:
                reply = await self._thread.lend(work)
        except TimeoutError as error:
            raise Unavailable("decoder", "too many images wait", retry_after=_RETRY_AFTER) from error
        finally:
            self._places.release()
        # Raised here: an error that a thread has raised refers to this object, and goes with the garbage.
        if reply.refused is not None:
            raise (ImageTooLarge if reply.too_large else ImageUnreadable)(reply.refused)
        return reply.content

    def _do(self, job: Job, source: IO[bytes], stop: threading.Event, closed: int) -> Reply:
        try:
            with _descriptor(source) as descriptor:
                decoder = self._running(stop, closed)
                return decoder.ask(job, descriptor, stop)
        except DecoderDied as error:
            self._end()
            if closed != self._closed:
                raise Unavailable("decoder", "it was closed") from error
            # What was decoded once can be decoded: the machine is short of memory, or has much to do.
            if job.rendition is not None or isinstance(error, DecoderLate):
                raise Unavailable("decoder", "it gave an image up", retry_after=_RETRY_AFTER) from error
            raise ImageUnreadable(
                "the image could not be decoded within the limits of memory and time"
            ) from error
        except OSError as error:
            self._end()  # which may be in the middle of something
            raise Unavailable("decoder", f"it cannot be asked: {error.strerror}") from error

    def _running(self, stop: threading.Event, closed: int) -> Decoder:
        decoder = self._decoder
        if closed == self._closed and (decoder is None or not decoder.runs):
            self._end()
            self._decoder = decoder = Decoder(self._limits, stop)
        if decoder is None or closed != self._closed:  # perhaps while it started
            raise DecoderDied
        return decoder

    def _end(self) -> None:
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None


@contextmanager
def _descriptor(source: IO[bytes]) -> Iterator[int]:
    """A descriptor of the bytes of `source` that has a position of its own, and ends with the block."""
    source.seek(0, io.SEEK_END)
    size = source.tell()
    source.seek(0)
    descriptor = _opened_again(source) if size > _COPIED else None
    if descriptor is None:
        descriptor = _copied(source)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
        source.seek(0)


def _opened_again(source: IO[bytes]) -> int | None:
    """For reading only, as whoever has it is not to be trusted; None if it is no file."""
    try:
        source.flush()
        return os.open(f"/proc/self/fd/{source.fileno()}", os.O_RDONLY)
    except OSError:
        return None


def _copied(source: IO[bytes]) -> int:
    descriptor = os.memfd_create("watchly-image")
    try:
        with open(descriptor, "wb", closefd=False) as copy:
            shutil.copyfileobj(source, copy)
            copy.seek(0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
