"""An inspector that has images decoded and rendered by Pillow in another process."""

from __future__ import annotations

from typing import IO, Final

from watchly_adapters import metadata
from watchly_adapters.pillow.messages import Job, Limits
from watchly_adapters.pillow.turns import Turns
from watchly_core.images import Measured, Rendition
from watchly_core.threads import Threads

__all__ = ["Limits", "PillowInspector"]

_THREADS: Final = 4

#: Cleaning walks whole files: slowly, and after all that answers requests.
_CLEANERS: Final = 2
_NICE: Final = 10


class PillowInspector:
    """Satisfies `ports.ImageInspector`: it accepts what Pillow can decode.

    Decoding and rendering happen in one process beside this one, which starts when it is first needed, so
    that what images do to Pillow, this process outlives.

    Args:
        limits: what that process may take.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._threads = Threads(_THREADS, "watchly-pillow")
        self._cleaners = Threads(_CLEANERS, "watchly-cleaner", nice=_NICE)
        self._decoder = Turns(limits or Limits())

    @property
    def decoder_pid(self) -> int | None:
        """The id of the process that decodes, if it runs at present."""
        return self._decoder.pid

    def close(self) -> None:
        """End the process that decodes; whoever waits for it is told that it is unavailable."""
        self._decoder.close()

    async def measure(self, source: IO[bytes]) -> Measured:
        """The format and the size in pixels of the image in `source`, which is left at its start.

        The size is that of the image as it is shown, turned as its EXIF orientation says.

        Raises:
            ImageTypeUnsupported: the content is of no format that the catalogue keeps.
            ImageUnreadable: the header is broken.
        """
        return await self._threads.lend(lambda _: _measure(source))

    async def clean(self, source: IO[bytes]) -> int:
        """See the port."""
        return await self._cleaners.lend(lambda _: metadata.clean(source))

    async def decode(self, source: IO[bytes]) -> None:
        """Decode every picture of `source`, which is left at its start.

        Raises:
            ImageTooLarge: its pictures are too many, or have too many pixels in all.
            ImageUnreadable: that is not possible, or takes too much processor time or memory.
            Unavailable: too many others wait, or the machine has too much to do for this.
        """
        await self._decoder.do(Job(), source)

    async def render(self, source: IO[bytes], rendition: Rendition) -> bytes:
        """The image in `source` as `rendition` asks for it; `source` is left at its start.

        Raises:
            ImageUnreadable: that is not possible.
            Unavailable: too many others wait, or it took too much time or memory, which an image that was
                accepted does not.
        """
        return await self._decoder.do(Job(rendition), source)


def _measure(source: IO[bytes]) -> Measured:
    # Loaded when it is needed: Pillow takes as long to load as everything else.
    from watchly_adapters.pillow.measuring import measure  # noqa: PLC0415 - as above

    return measure(source)
