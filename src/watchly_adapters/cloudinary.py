"""Images kept by Cloudinary, through its SDK.

Importing the SDK reads every ``CLOUDINARY_…`` variable of the environment into a configuration that is
global to the process, and most calls fall back on it. Here each call names all that it would take from
there, so the arguments of `CloudinaryImages` alone decide, and any number of accounts can live in one
process. What remains shared is the SDK's connection pool, with its proxy from ``CLOUDINARY_API_PROXY``.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Final, Literal, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from watchly_adapters.threads import Threads
from watchly_core.errors import (
    ImageRejected,
    ImageTooLarge,
    ImageUnreadable,
    Misconfigured,
    Unavailable,
    WatchlyError,
)
from watchly_core.images import Image, is_key

try:
    from cloudinary import api, uploader, utils
    from cloudinary import exceptions as sdk
except ValueError as error:
    raise Misconfigured("CLOUDINARY_URL must look like cloudinary://KEY:SECRET@CLOUD") from error

T = TypeVar("T")

#: Above Cloudinary's least size of a chunk, 5 MB, and small because the SDK copies each one twice.
_CHUNK_BYTES: Final = 5_500_000

#: Uploads at a time; with their chunks they need about 70 MB.
_UPLOADS: Final = 4
#: Other calls at a time, which do not wait for uploads.
_CALLS: Final = 4

#: No transformation: the environment's ``CLOUDINARY_DPR`` and the like would change what is stored.
_AS_IT_IS: Final[Mapping[str, object]] = {"dpr": None, "responsive_width": False, "use_fetch_format": False}

#: How much of Cloudinary's own words goes into a message.
_MOST_WORDS: Final = 200

#: The status in the message of an error whose body the SDK could not parse.
_UNPARSED: Final = re.compile(r"Error parsing server response \((\d+)\)")
_CONTENT_TOO_LARGE: Final = "413"

#: What Cloudinary means when it answers 400, by how it begins; anything else is about the image.
_REFUSALS: Final[Sequence[tuple[str, type[ImageRejected | Misconfigured]]]] = (
    ("File size too large", ImageTooLarge),
    ("Invalid image file", ImageUnreadable),
    ("Empty file", ImageUnreadable),
    ("Stale request", Misconfigured),
    ("Upload preset", Misconfigured),
    ("Missing required", Misconfigured),
)


class _Kept(msgspec.Struct):
    """What Cloudinary says of an asset."""

    public_id: str
    bytes: int


class _Dropped(msgspec.Struct):
    result: str


class CloudinaryImages:
    """An `ImageStore` over a Cloudinary account.

    Args:
        cloud_name: the account's cloud.
        api_key: names who asks.
        api_secret: signs what is asked.
        upload_prefix: where the API answers, if not at Cloudinary's own address.
        folder: comes before the keys in the assets' public ids.
        max_bytes: the largest image that the account's plan takes; None to let Cloudinary say.
        timeout: seconds for connecting, for sending a chunk, and for each wait for an answer. The SDK's
            pool connects and reads up to four times, so that a call takes at most four times as long.
        signature_algorithm: the one that the account asks for.
        secure_distribution: the host of a private CDN or CNAME, if the account has one.
    """

    def __init__(  # noqa: PLR0913 - the account's settings, each with its name
        self,
        cloud_name: str,
        api_key: str,
        api_secret: str,
        *,
        upload_prefix: str | None = None,
        folder: str = "watchly",
        max_bytes: int | None = None,
        timeout: float = 60.0,
        signature_algorithm: Literal["sha1", "sha256"] = "sha1",
        secure_distribution: str | None = None,
    ) -> None:
        if not (cloud_name and api_key and api_secret):
            raise Misconfigured("Cloudinary needs a cloud name, an API key and an API secret")
        if upload_prefix is not None and not upload_prefix.startswith(("https://", "http://")):
            raise Misconfigured("Cloudinary's upload_prefix must start with https:// or http://")
        self._cloud_name = cloud_name
        self._api_key = api_key
        self._api_secret = api_secret
        self._upload_prefix = upload_prefix.rstrip("/") if upload_prefix else None
        self._folder = folder.strip("/")
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._signature_algorithm = signature_algorithm
        self._secure_distribution = secure_distribution
        self._uploads = Threads(_UPLOADS, "watchly-cloudinary-upload")
        self._calls = Threads(_CALLS, "watchly-cloudinary")

    @classmethod
    def from_url(
        cls, url: str, *, folder: str = "watchly", max_bytes: int | None = None, timeout: float = 60.0
    ) -> CloudinaryImages:
        """The account of a URL such as ``cloudinary://KEY:SECRET@CLOUD``, as Cloudinary's console shows it.

        A path names the host of a private CDN, and ``?upload_prefix=`` another address of the API.

        Raises:
            Misconfigured: it does not look like that.
        """
        wanted = "a Cloudinary URL must look like cloudinary://KEY:SECRET@CLOUD"
        try:
            parts = urlsplit(url)
        except ValueError:
            raise Misconfigured(wanted) from None
        user, _, cloud_name = parts.netloc.rpartition("@")
        api_key, _, api_secret = user.partition(":")
        if parts.scheme != "cloudinary" or not (api_key and api_secret and cloud_name):
            raise Misconfigured(wanted)
        options = dict(parse_qsl(parts.query))
        upload_prefix = options.pop("upload_prefix", None)
        if options:
            raise Misconfigured(f"{wanted}; it knows no option {min(options)!r}")
        return cls(
            cloud_name,
            unquote(api_key),
            unquote(api_secret),
            upload_prefix=upload_prefix,
            folder=folder,
            max_bytes=max_bytes,
            timeout=timeout,
            secure_distribution=parts.path.strip("/") or None,
        )

    @property
    def max_bytes(self) -> int | None:
        """The largest image that the account takes."""
        return self._max_bytes

    async def put(self, key: str, source: IO[bytes], image: Image) -> None:
        """Keep all of `source`, read from its start, under `key`, in place of what was there.

        A caller that is cancelled waits for the chunk on its way.

        Raises:
            ValueError: `key` has not the form of a key.
            ImageRejected: Cloudinary will never take these bytes.
            Misconfigured: Cloudinary does not take these credentials.
        """
        if not is_key(key):
            raise ValueError(f"{key!r} is no key of an image")
        await self._uploads.lend(lambda stop: self._upload(key, source, image.format, stop))

    async def delete(self, key: str) -> None:
        """Drop what is kept under `key`, in the caches of the CDN as well; dropping nothing is no error."""
        if is_key(key):
            await self._calls.run(lambda: self._destroy(key))

    async def stat(self, key: str) -> int | None:
        """The number of bytes kept under `key`, by the Admin API; None if there is nothing."""
        return await self._calls.run(lambda: self._look_up(key)) if is_key(key) else None

    def url(self, key: str) -> str:
        """Where Cloudinary's CDN serves the original."""
        address, _ = utils.cloudinary_url(
            self._public_id(key),
            cloud_name=self._cloud_name,
            secure=True,
            secure_distribution=self._secure_distribution,
            private_cdn=self._secure_distribution is not None,
            api_secret="",
            auth_token=False,
            cdn_subdomain=False,
            cname=None,
            **_AS_IT_IS,
            force_version=True,
            long_url_signature=False,
            secure_cdn_subdomain=False,
            shorten=False,
            sign_url=False,
            use_root_path=False,
        )
        return str(address)

    def _public_id(self, key: str) -> str:
        return f"{self._folder}/{key}" if self._folder else key

    def _account(self) -> dict[str, object]:
        """All that the SDK would otherwise take from its global configuration."""
        return {
            "cloud_name": self._cloud_name,
            "api_key": self._api_key,
            "api_secret": self._api_secret,
            "oauth_token": None,
            "signature_algorithm": self._signature_algorithm,
            "signature_version": 2,
            "upload_prefix": self._upload_prefix,
            "timeout": self._timeout,
            "resource_type": "image",
            "type": "upload",
        }

    def _upload(self, key: str, source: IO[bytes], format_: str, stop: threading.Event) -> None:
        size = source.seek(0, os.SEEK_END)
        source.seek(0)
        if self._max_bytes is not None and size > self._max_bytes:
            raise ImageTooLarge(f"the image store takes at most {self._max_bytes} bytes, not {size}")
        public_id, name = self._public_id(key), f"{key}.{format_}"
        options = {
            **self._account(),
            "public_id": public_id,
            "overwrite": True,
            "invalidate": True,
            # Dropped as empty; left out, the environment's would be sent.
            "upload_preset": "",
            **_AS_IT_IS,
        }
        if size <= _CHUNK_BYTES:
            answer = self._ask(lambda: uploader.upload((name, source.read()), **options))
        else:
            answer = self._upload_chunks((name, source, size), options, stop)
        kept = _read(answer, _Kept)
        if (kept.public_id, kept.bytes) != (public_id, size):
            raise Unavailable("image_store", f"Cloudinary kept {kept.bytes} bytes instead of {size}")

    def _upload_chunks(
        self, file: tuple[str, IO[bytes], int], options: dict[str, object], stop: threading.Event
    ) -> object:
        """Like the SDK's `upload_large`.

        That one closes its file, cannot be stopped between the chunks, and prefers an OAuth token of the
        environment to the key that it is given.
        """
        name, source, size = file
        upload_id = secrets.token_hex(16)
        answer: object = None
        start = 0
        while chunk := source.read(_CHUNK_BYTES):
            if stop.is_set():
                raise Unavailable("image_store", "the caller left before the image was sent")
            headers = {
                "Content-Range": f"bytes {start}-{start + len(chunk) - 1}/{size}",
                "X-Unique-Upload-Id": upload_id,
            }
            answer = self._ask(_part(name, chunk, headers, options))
            start += len(chunk)
        return answer

    def _destroy(self, key: str) -> None:
        account = self._account()
        answer = self._ask(lambda: uploader.destroy(self._public_id(key), invalidate=True, **account))
        if (result := _read(answer, _Dropped).result) not in {"ok", "not found"}:
            raise Unavailable("image_store", f"Cloudinary answered {result[:_MOST_WORDS]!r} to a deletion")

    def _look_up(self, key: str) -> int | None:
        account = self._account()

        def look_up() -> object:
            try:
                answer: object = api.resource(self._public_id(key), **account)
            except sdk.NotFound:
                return None
            return answer

        answer = self._ask(look_up)
        return None if answer is None else _read(answer, _Kept).bytes

    def _ask(self, call: Callable[[], object]) -> object:
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - beside its own, the SDK raises bare ones and TypeErrors
            words = str(error)
            for secret in (self._api_secret, self._api_key):
                words = words.replace(secret, "…")
            # Not chained: the SDK's messages can quote whole bodies and whatever a proxy put into them.
            raise _translated(error, " ".join(words.split())[:_MOST_WORDS]) from None


def _translated(error: Exception, words: str) -> WatchlyError:
    match error:
        case sdk.AuthorizationRequired() | sdk.NotAllowed():
            return Misconfigured("Cloudinary refuses the credentials or what they may do")
        case sdk.BadRequest():
            meanings = (meaning for start, meaning in _REFUSALS if words.startswith(start))
            return next(meanings, ImageRejected)(f"Cloudinary says: {words}")
        case sdk.RateLimited():
            return Unavailable("image_store", "Cloudinary limits the rate of requests", retry_after=10)
    if not (unparsed := _UNPARSED.match(words)):
        return Unavailable("image_store", f"Cloudinary did not do as asked: {words}")
    if unparsed[1] == _CONTENT_TOO_LARGE:
        return ImageTooLarge("Cloudinary takes no image as large as this")
    return Unavailable("image_store", f"Cloudinary answered {unparsed[1]} with something else than JSON")


def _part(
    name: str, chunk: bytes, headers: dict[str, str], options: dict[str, object]
) -> Callable[[], object]:
    return lambda: uploader.upload_large_part((name, chunk), http_headers=headers, **options)


def _read(answer: object, form: type[T]) -> T:
    try:
        return msgspec.convert(answer, form)
    except msgspec.ValidationError as error:
        raise Unavailable("image_store", f"Cloudinary's answer is not to be understood: {error}") from None
