"""Images in memory: what the service serves itself."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import IO, Final
from weakref import WeakValueDictionary

from watchly_adapters.tickets import Tickets, image_url
from watchly_core.errors import ImageNotFound, ImageTooLarge, UploadConflict
from watchly_core.images import Image, Rendition, StoredImage, Ticket, require_key
from watchly_core.ports import ImageFile, Render

_CHUNK: Final = 256 * 1024


class MemoryImages:
    """Satisfies `ports.ImageStore`, `ports.ImageFiles` and `ports.ImageUploads`."""

    max_bytes: int | None = None

    def __init__(self, *, base_url: str = "", secret: bytes | None = None) -> None:
        self._base_url = base_url.rstrip("/")
        self._tickets = Tickets(self._base_url, secret)
        self._kept: dict[str, _Kept] = {}
        self._uploads: dict[str, _Upload] = {}
        self._rendering: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def put(self, key: str, source: IO[bytes], image: Image) -> None:  # noqa: ARG002 - the port's
        """See the port."""
        require_key(key)
        source.seek(0)
        self._kept[key] = _Kept(source.read())

    async def delete(self, key: str) -> None:
        """See the port."""
        self._kept.pop(key, None)
        self._uploads.pop(key, None)

    async def stat(self, key: str) -> StoredImage | None:
        """See the port."""
        kept = self._kept.get(key)
        return None if kept is None else StoredImage(len(kept.content))

    def url(self, key: str, variant: str | None = None) -> str:
        """See the port."""
        return image_url(self._base_url, key, variant)

    def ticket(self, key: str, image: Image, expires_at: datetime) -> Ticket:
        """See the port."""
        return self._tickets.ticket(key, image, expires_at)

    @asynccontextmanager
    async def read(self, key: str, rendition: Rendition | None = None) -> AsyncIterator[ImageFile]:
        """See the port."""
        file = _File(self._content(key, rendition))
        try:
            yield file
        finally:
            file.closed = True

    async def content(self, key: str, rendition: Rendition | None = None, *, at_most: int) -> bytes | None:
        """See the port."""
        content = self._content(key, rendition)
        return content if len(content) <= at_most else None

    async def is_empty(self) -> bool:
        """See the port."""
        return not self._kept

    async def render(self, key: str, rendition: Rendition, render: Render) -> None:
        """See the port."""
        async with self._rendering.setdefault(key, asyncio.Lock()):
            while rendition.name not in (kept := self._find(key)).renditions:
                with io.BytesIO(kept.content) as original:
                    made = await render(original)
                # Of an original that was replaced or dropped meanwhile this is nobody's any more.
                kept.renditions[rendition.name] = made

    def admit(self, key: str, expires: str, signature: str, now: datetime) -> None:
        """See the port."""
        self._tickets.admit(key, expires, signature, now)

    async def receive(self, key: str, content: AsyncIterable[bytes], start: int, total: int) -> int:
        """See the port."""
        require_key(key)
        upload = self._uploads.get(key, _Upload())
        if upload.busy or start not in {0, len(upload.content)}:
            raise UploadConflict(len(upload.content))
        self._uploads[key] = upload
        del upload.content[start:]
        upload.busy = True
        try:
            async for chunk in content:
                self._add(key, upload, chunk, total)
            self._add(key, upload, b"", total)
        finally:
            upload.busy = False
        return len(upload.content)

    async def received(self, key: str) -> int:
        """See the port."""
        upload = self._uploads.get(key)
        return 0 if upload is None else len(upload.content)

    @asynccontextmanager
    async def uploaded(self, key: str) -> AsyncIterator[IO[bytes]]:
        """See the port."""
        upload = self._uploads.get(key)
        if upload is None or not (upload.busy or upload.content):
            raise ImageNotFound(f"nothing was uploaded for {key!r}")
        if upload.busy:
            raise UploadConflict(len(upload.content))
        upload.busy = True
        file = io.BytesIO(upload.content)
        try:
            yield file
            self._drop(key, upload)
        finally:
            if not file.closed:
                upload.content[:] = file.getvalue()
            upload.busy = False

    def _content(self, key: str, rendition: Rendition | None) -> bytes:
        kept = self._find(key)
        content = kept.content if rendition is None else kept.renditions.get(rendition.name)
        if content is None:
            raise ImageNotFound(f"that rendition of {key} was not made")
        return content

    def _find(self, key: str) -> _Kept:
        try:
            return self._kept[key]
        except KeyError:
            raise ImageNotFound(f"no image has the key {key}") from None

    def _add(self, key: str, upload: _Upload, chunk: bytes, total: int) -> None:
        if self._uploads.get(key) is not upload:
            raise UploadConflict(0)  # it was dropped meanwhile
        if len(upload.content) + len(chunk) > total:
            self._drop(key, upload)
            raise ImageTooLarge(f"more arrived than the {total} bytes that were to come")
        upload.content += chunk

    def _drop(self, key: str, upload: _Upload) -> None:
        # Under its key may be another one by now.
        if self._uploads.get(key) is upload:
            del self._uploads[key]


class _Kept:
    """An image and what was rendered of it."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.renditions: dict[str, bytes] = {}


class _Upload:
    """What has arrived, and whether more is arriving or it is in use."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.busy = False


class _File:
    """An `ImageFile`."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.size: Final = len(content)
        self.closed = False

    async def chunks(self, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        end = self.size if end is None else min(end, self.size)
        for at in range(start, end, _CHUNK):
            if self.closed:
                raise ValueError("the image is closed")
            yield self._content[at : min(at + _CHUNK, end)]
