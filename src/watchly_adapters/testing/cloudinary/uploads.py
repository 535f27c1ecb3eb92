"""Uploads: what arrives in one piece or in chunks, until it is an asset."""

from __future__ import annotations

import io
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Final

from watchly_adapters import metadata
from watchly_adapters.headers import measure
from watchly_adapters.testing.cloudinary.assets import Asset, Assets, their_name
from watchly_adapters.testing.cloudinary.forms import Form
from watchly_adapters.testing.cloudinary.messages import BLOCK, Refused
from watchly_adapters.testing.cloudinary.renderings import rendered
from watchly_adapters.testing.cloudinary.transformations import Transformation, for_client, parse
from watchly_core.errors import ImageRejected

_LEAST_CHUNK: Final = 5_000_000
#: After so many seconds without another chunk, an upload is given up.
_ABANDONED: Final = 600
_RANGE: Final = re.compile(r"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15})")


class _Parts:
    """The chunks of an upload so far, the latest of which came at `touched`."""

    def __init__(self, file: Path, total: int, public_id: str) -> None:
        self.file, self.total, self.public_id = file, total, public_id
        self.received, self.touched = 0, 0.0


class Uploads:
    """Takes uploads into `assets`.

    Args:
        assets: where they go.
        directory: where the files lie.
        max_bytes: the size of the largest.
        most_unfinished: so many uploads in chunks may be unfinished; another one ends the oldest.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        assets: Assets,
        directory: Path,
        max_bytes: int | None,
        *,
        most_unfinished: int = 100,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._assets, self._directory, self._max_bytes = assets, directory, max_bytes
        self._most_unfinished, self._clock = most_unfinished, clock
        self._lock = threading.Lock()
        self._parts: dict[str, _Parts] = {}

    def receive(self, form: Form, headers: Mapping[str, str]) -> dict[str, object]:
        """What to answer to an upload, or to a chunk of one.

        Raises:
            Refused: the real one would not take it.
        """
        fields = form.fields
        self._give_up()
        if form.file is None:
            raise Refused(400, "Missing required parameter - file")
        incoming = parse(fields.get("transformation", ""))
        eager = [parse(text) for text in fields.get("eager", "").split("|") if text]
        public_id = fields.get("public_id", "")
        if (content_range := headers.get("content-range")) is None:
            path = self._new_file()
            with path.open("wb") as file:
                shutil.copyfileobj(form.file, file, BLOCK)
        else:
            parts = self._append(headers.get("x-unique-upload-id", ""), public_id, form.file, content_range)
            if parts.received < parts.total:
                return {"done": False, "public_id": public_id, "bytes": parts.received}
            path = parts.file
        public_id = public_id or secrets.token_hex(10)
        try:
            self._check(path, fields.get("allowed_formats", ""))
            _transform(path, incoming)
            asset, existing = self._assets.keep(
                public_id,
                path,
                overwrite=fields.get("overwrite") not in {"0", "false"},
                folder=fields.get("asset_folder", ""),
            )
        except BaseException:
            path.unlink()
            raise
        if existing:
            path.unlink()
        answer = self._assets.described(public_id, asset)
        if eager:
            answer["eager"] = [self._derived(public_id, asset, wanted) for wanted in eager]
        answer["original_filename"] = Path(form.filename).stem
        return answer | ({"existing": True} if existing else {})

    def _append(self, upload_id: str, public_id: str, chunk: IO[bytes], content_range: str) -> _Parts:
        if not (match := _RANGE.fullmatch(content_range)):
            raise Refused(400, f"Invalid Content-Range {content_range}")
        first, last, total = map(int, match.groups())
        if not upload_id:
            raise Refused(400, "Missing X-Unique-Upload-Id header")
        size = chunk.seek(0, os.SEEK_END)
        chunk.seek(0)
        if last + 1 - first != size or last >= total:
            raise Refused(400, f"Content-Range {content_range} does not fit {size} bytes")
        if last + 1 < total and size < _LEAST_CHUNK:
            raise Refused(400, "All parts except EOF-chunk must be larger than 5mb")
        self._require_size(total)
        with self._lock:
            parts = self._parts.get(upload_id) or _Parts(self._new_file(), total, public_id)
            if (parts.total, parts.public_id, parts.received) != (total, public_id, first):
                # The real one may know a chunk again that was lost on its way back; who begins anew is right
                # with either.
                raise Refused(400, f"Unexpected Content-Range {content_range} after {parts.received} bytes")
            # Put at the end: the first one is always the one that was touched longest ago.
            self._parts.pop(upload_id, None)
            self._parts[upload_id] = parts
            parts.touched = self._clock()
            with parts.file.open("ab") as file:
                shutil.copyfileobj(chunk, file, BLOCK)
            parts.received = last + 1
            if parts.received == total:
                del self._parts[upload_id]
            elif len(self._parts) > self._most_unfinished:
                self._drop_first()
        return parts

    def _give_up(self) -> None:
        """Drop what nobody goes on with."""
        with self._lock:
            while self._parts and self._clock() - next(iter(self._parts.values())).touched > _ABANDONED:
                self._drop_first()

    def _drop_first(self) -> None:
        self._parts.pop(next(iter(self._parts))).file.unlink(missing_ok=True)

    def _check(self, path: Path, allowed_formats: str) -> None:
        size = path.stat().st_size
        if size == 0:
            raise Refused(400, "Empty file")
        self._require_size(size)
        with path.open("rb") as file:
            try:
                format_ = their_name(measure(file).format)
            except ImageRejected:
                raise Refused(400, "Invalid image file") from None
        allowed = {their_name(name.strip().lower()) for name in allowed_formats.split(",") if name.strip()}
        if allowed and format_ not in allowed:
            raise Refused(400, f"Image file format {format_} not allowed")

    def _require_size(self, size: int) -> None:
        if self._max_bytes is not None and size > self._max_bytes:
            raise Refused(400, f"File size too large. Got {size}. Maximum is {self._max_bytes}.")

    def _derived(self, public_id: str, asset: Asset, wanted: Transformation) -> dict[str, object]:
        format_ = for_client(wanted.format, asset.measured.format, "")
        with asset.file.open("rb") as file:
            content = rendered(file, wanted, format_)
        measured = asset.measured if content is None else measure(io.BytesIO(content))
        url = self._assets.url(public_id, asset, wanted.text)
        return {
            "transformation": wanted.text,
            "width": measured.width,
            "height": measured.height,
            "bytes": asset.size if content is None else len(content),
            "format": their_name(measured.format),
            "url": f"http{url}",
            "secure_url": f"https{url}",
        }

    def _new_file(self) -> Path:
        return self._directory / secrets.token_hex(8)


def _transform(path: Path, incoming: Transformation) -> None:
    """Make the file what an incoming transformation asks for; the original is not kept."""
    with path.open("r+b") as file:
        if incoming.strip:
            try:
                metadata.clean(file)
            except ImageRejected:
                raise Refused(400, "Invalid image file") from None
        format_ = for_client(incoming.format, measure(file).format, "")
        content = rendered(file, incoming, format_)
    if content is not None:
        path.write_bytes(content)
