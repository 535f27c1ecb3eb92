"""What the account keeps: each asset is a file in a directory and a few facts."""

from __future__ import annotations

import datetime as dt
import hashlib
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, NamedTuple
from urllib.parse import quote

from watchly_adapters.headers import measure
from watchly_adapters.testing.cloudinary.messages import Refused
from watchly_core.errors import ImageRejected
from watchly_core.images import Measured

#: What Cloudinary calls formats, where it is not what we do.
_THEIR_NAMES: Final[Mapping[str, str]] = {"jpeg": "jpg"}


def their_name(format_: str) -> str:
    """What Cloudinary calls a format of ours."""
    return _THEIR_NAMES.get(format_, format_)


class Asset(NamedTuple):
    """One asset: its file and what is known of it."""

    file: Path
    measured: Measured
    size: int
    etag: str
    version: int
    created_at: str
    folder: str


class Assets:
    """All assets of an account.

    Attributes:
        kept: the assets by public id.
    """

    def __init__(self, cloud_name: str) -> None:
        self.kept: dict[str, Asset] = {}
        self._cloud_name = cloud_name
        self._lock = threading.Lock()

    def keep(self, public_id: str, path: Path, *, overwrite: bool, folder: str) -> tuple[Asset, bool]:
        """Make the file at `path` the content of an asset, unless it has one that is not to be overwritten.

        Returns:
            The asset as it is now, and whether it was left as it was.

        Raises:
            Refused: the file is no image.
        """
        with path.open("rb") as file:
            try:
                measured = measure(file)
            except ImageRejected:
                raise Refused(400, "Invalid image file") from None
            etag = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        now = int(time.time())
        with self._lock:
            before = self.kept.get(public_id)
            if before and not overwrite:
                return before, True
            asset = self.kept[public_id] = Asset(
                path,
                measured,
                path.stat().st_size,
                etag,
                max(now, before.version + 1) if before else now,
                dt.datetime.fromtimestamp(now, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                folder,
            )
        if before:
            before.file.unlink()
        return asset, False

    def drop(self, public_id: str) -> bool:
        """Forget an asset; whether there was one."""
        with self._lock:
            asset = self.kept.pop(public_id, None)
        if asset is not None:
            asset.file.unlink()
        return asset is not None

    def open(self, public_id: str) -> tuple[Asset, IO[bytes]] | None:
        """An asset and its file, if there is one."""
        # One that is overwritten just now is found again.
        while (asset := self.kept.get(public_id)) is not None:
            with suppress(FileNotFoundError):
                return asset, asset.file.open("rb")
        return None

    def url(self, public_id: str, asset: Asset, transformation: str = "") -> str:
        """Where the CDN would have an asset, or what is derived of it, without the scheme."""
        path = "/".join(
            part
            for part in (
                transformation,
                f"v{asset.version}",
                f"{public_id}.{their_name(asset.measured.format)}",
            )
            if part
        )
        return f"://res.cloudinary.com/{self._cloud_name}/image/upload/{quote(path, safe='/,:')}"

    def described(self, public_id: str, asset: Asset) -> dict[str, object]:
        """What Cloudinary says of an asset."""
        url = self.url(public_id, asset)
        return {
            "asset_id": hashlib.sha256(public_id.encode()).hexdigest()[:32],
            "public_id": public_id,
            "version": asset.version,
            "width": asset.measured.width,
            "height": asset.measured.height,
            "format": their_name(asset.measured.format),
            "resource_type": "image",
            "created_at": asset.created_at,
            "tags": [],
            "bytes": asset.size,
            "type": "upload",
            "etag": asset.etag,
            "placeholder": False,
            "url": f"http{url}",
            "secure_url": f"https{url}",
            "asset_folder": asset.folder,
            "display_name": public_id.rpartition("/")[2],
        }
