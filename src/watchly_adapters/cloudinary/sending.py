"""Sending an image to Cloudinary, whole or in chunks."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from typing import IO, Final, NamedTuple

import msgspec

from watchly_adapters.cloudinary.calls import Calls, Patience
from watchly_adapters.cloudinary.wire import File
from watchly_core.errors import ImageRejected, Unavailable

#: Above Cloudinary's least size of a chunk, 5 MB, and small because a chunk that failed is sent again.
CHUNK_BYTES: Final = 5_500_000


class _Kept(msgspec.Struct):
    """What Cloudinary says of an asset that it has kept."""

    public_id: str
    bytes: int


class _Received(msgspec.Struct):
    """What Cloudinary says of a chunk that is not the last one; nothing in it is of use."""


class _Astray(Exception):
    """The chunks of an upload do not make the image, but might if they were sent anew.

    Attributes:
        error: what came of them.
    """

    def __init__(self, error: Unavailable) -> None:
        self.error = error
        super().__init__(str(error))


class Upload(NamedTuple):
    """An image on its way: all of `source`, under the file's `name`, as the `fields` say."""

    source: IO[bytes]
    size: int
    name: str
    fields: Mapping[str, str]


def size_of(source: IO[bytes]) -> int:
    """How many bytes a file has."""
    return source.seek(0, os.SEEK_END)


def send(calls: Calls, upload: Upload, patience: Patience) -> None:
    """Send an image, and be told that this many bytes of it are kept under its public id.

    An upload in chunks that failed is sent once more from its start, as another one: Cloudinary may have
    received a chunk, even the last one, though its answer was lost, and then takes it no second time.
    """
    if upload.size <= CHUNK_BYTES:
        _send_whole(calls, upload, patience)
        return
    try:
        _send_chunks(calls, upload, patience)
    except _Astray:
        try:
            _send_chunks(calls, upload, patience)
        except _Astray as again:
            raise again.error from None


def _send_whole(calls: Calls, upload: Upload, patience: Patience) -> None:
    file = File(upload.name, upload.source, 0, upload.size)

    def attempt() -> None:
        _require_kept(calls.post("upload", upload.fields, _Kept, patience, file=file), upload)

    calls.persist(attempt, patience)


def _send_chunks(calls: Calls, upload: Upload, patience: Patience) -> None:
    upload_id = secrets.token_hex(16)
    for start in range(0, upload.size, CHUNK_BYTES):
        size = min(CHUNK_BYTES, upload.size - start)
        headers = {
            "Content-Range": f"bytes {start}-{start + size - 1}/{upload.size}",
            "X-Unique-Upload-Id": upload_id,
        }
        _send_chunk(calls, upload, File(upload.name, upload.source, start, size), headers, patience)


def _send_chunk(
    calls: Calls, upload: Upload, chunk: File, headers: Mapping[str, str], patience: Patience
) -> None:
    is_last = chunk.start + chunk.size == upload.size
    attempts = 0

    def attempt() -> None:
        nonlocal attempts
        attempts += 1
        if is_last:
            answer = calls.post("upload", upload.fields, _Kept, patience, file=chunk, headers=headers)
            _require_kept(answer, upload)
        else:
            calls.post("upload", upload.fields, _Received, patience, file=chunk, headers=headers)

    try:
        calls.persist(attempt, patience)
    except Unavailable as error:
        raise _Astray(error) from None
    except ImageRejected as error:
        # Refused at once it is refused for what it is; refused when repeated, perhaps for being repeated.
        if attempts == 1:
            raise
        raise _Astray(
            Unavailable("image_store", f"a part that was sent again was refused: {error}")
        ) from None


def _require_kept(kept: _Kept, upload: Upload) -> None:
    if (kept.public_id, kept.bytes) != (upload.fields["public_id"], upload.size):
        raise Unavailable("image_store", f"Cloudinary kept {kept.bytes} bytes instead of {upload.size}")
