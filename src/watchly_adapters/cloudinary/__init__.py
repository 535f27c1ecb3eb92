"""Images kept by Cloudinary.

The SDK signs what is asked and names where images are; the requests themselves are sent by `wire`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import IO, Final, TypeVar
from urllib.parse import quote

import msgspec

from watchly_adapters.breakers import Breaker
from watchly_adapters.cloudinary.account import Account, Algorithm, Options
from watchly_adapters.cloudinary.calls import Calls
from watchly_adapters.cloudinary.sending import Upload, send, size_of
from watchly_adapters.cloudinary.signatures import our_format, read_notification, sign_ticket, their_format
from watchly_core.errors import ImageTooLarge, Unavailable
from watchly_core.images import Image, StoredImage, Ticket, is_key, require_key
from watchly_core.threads import Threads

__all__ = ["Account", "Algorithm", "CloudinaryImages"]

T = TypeVar("T")

#: Uploads at a time.
_UPLOADS: Final = 4
#: Other calls at a time, which do not wait for uploads.
_CALLS: Final = 4

#: After how long a caller who did not get a turn may come back.
_NO_TURN: Final = 5


#: Stands for a key in the URLs that others are made from.
_ANY_KEY: Final = "0" * 32


class _Found(msgspec.Struct):
    """What the Admin API says of an asset."""

    public_id: str
    bytes: int
    width: int | None = None
    height: int | None = None
    format: str | None = None


class _Dropped(msgspec.Struct):
    result: str


class CloudinaryImages:
    """An `ImageStore` over a Cloudinary account, with its `ImageNotifications`; it is `Interruptible`.

    What fails for a passing reason is asked three times in all. Five calls in a row that failed so are
    followed by half a minute in which calls fail at once. Look-ups are counted apart: they alone go to the
    Admin API, which answers some hundreds of them an hour.

    Args:
        account: the account.
        max_bytes: the largest image that the account's plan takes; None to let Cloudinary say.
        notification_url: where Cloudinary sends word of the uploads by tickets, if anywhere.
        timeout: seconds for each wait: for a connection, for more to be sent, for an answer. One request
            takes at most as long in all, and a call with all its requests three times as long; both have
            the time beside that in which the image would be sent at 50 kB/s.
        patience: seconds that a call waits for its turn, when as many as there may be are under way.
        backoff: seconds of the longest wait before asking a second time; it doubles for the third.
        breaker: makes what interrupts the store, one for look-ups and one for all else.
    """

    def __init__(  # noqa: PLR0913 - the store's settings, each with its name
        self,
        account: Account,
        *,
        max_bytes: int | None = None,
        notification_url: str | None = None,
        timeout: float = 60.0,
        patience: float = 60.0,
        backoff: float = 1.0,
        breaker: Callable[[], Breaker] | None = None,
    ) -> None:
        self._account = account
        self._urls: dict[str | None, str] = {}
        self._max_bytes = max_bytes
        self._notification_url = notification_url
        self._patience = patience
        breaker = breaker or partial(Breaker, "image_store")
        self._changing, self._looking_up = breaker(), breaker()
        self._ask = Calls(account, _UPLOADS + _CALLS, timeout=timeout, backoff=backoff)
        self._uploads = Threads(_UPLOADS, "watchly-cloudinary-upload")
        self._calls = Threads(_CALLS, "watchly-cloudinary")

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        folder: str = "watchly",
        max_bytes: int | None = None,
        notification_url: str | None = None,
        timeout: float = 60.0,
    ) -> CloudinaryImages:
        """The store on the account that `url` names, as in `Account.from_url`.

        Its options ``folder``, ``max_bytes`` and ``timeout`` come before the arguments.

        Raises:
            Misconfigured: it names none.
        """
        account, options = Account.from_url(url, folder=folder), Options.from_url(url)
        return cls(
            account,
            max_bytes=options.max_bytes or max_bytes,
            notification_url=notification_url,
            timeout=options.timeout or timeout,
        )

    def close(self) -> None:
        """End all calls under way and to come as `Unavailable`; addresses and tickets are still given."""
        self._ask.close()

    @property
    def max_bytes(self) -> int | None:
        """The largest image that the account takes."""
        return self._max_bytes

    @property
    def interrupted(self) -> bool:
        """Whether some calls fail at once at present."""
        return self._changing.interrupted or self._looking_up.interrupted

    async def put(self, key: str, source: IO[bytes], image: Image) -> None:
        """Keep all of `source`, read from its start, under `key`, in place of what was there.

        A caller that is cancelled waits for the request on its way.

        Raises:
            ValueError: `key` has not the form of a key.
            ImageRejected: Cloudinary will never take these bytes.
            Misconfigured: Cloudinary does not take these credentials.
        """
        require_key(key)

        def put(stop: threading.Event) -> None:
            size = size_of(source)
            if self._max_bytes is not None and size > self._max_bytes:
                raise ImageTooLarge(f"the image store takes at most {self._max_bytes} bytes, not {size}")
            fields = {**self._account.placed(key), "overwrite": "true", "invalidate": "true"}
            upload = Upload(source, size, f"{key}.{their_format(image.format)}", fields)
            with self._changing:
                send(self._ask, upload, self._ask.patience(stop, size))

        await self._in_turn(self._changing, self._uploads.lend, put)

    async def delete(self, key: str) -> None:
        """Drop what is kept under `key`, in the caches of the CDN as well; dropping nothing is no error."""
        if is_key(key):
            await self._in_turn(self._changing, self._run, lambda stop: self._destroy(key, stop))

    async def stat(self, key: str) -> StoredImage | None:
        """What is kept under `key`, by the Admin API; None if there is nothing."""
        if not is_key(key):
            return None
        return await self._in_turn(self._looking_up, self._run, lambda stop: self._look_up(key, stop))

    def url(self, key: str, variant: str | None = None) -> str:
        """Where Cloudinary's CDN serves the original or a variant, which it makes itself.

        Raises:
            ValueError: there is no such variant.
        """
        # The SDK takes as long for one URL as PostgreSQL for a row: it is asked for one of each kind.
        if variant not in self._urls:
            self._urls[variant] = self._account.url(_ANY_KEY, variant)
        return self._urls[variant].replace(_ANY_KEY, quote(key, safe=""))

    def ticket(self, key: str, image: Image, expires_at: datetime) -> Ticket:
        """A signed form that a client posts to Cloudinary; `expires_at` is at most an hour ahead.

        What arrives is kept without its metadata, so its size may be another than was sent.

        Raises:
            ValueError: `key` has not the form of a key.
        """
        return sign_ticket(self._account, key, image, expires_at, self._notification_url)

    def notified(self, body: bytes, headers: Mapping[str, str], now: datetime) -> str | None:
        """The key of the image whose upload a notification tells of; None if it tells of something else.

        Raises:
            SignatureRejected: it is not signed with the account's secret, or not within the last two hours.
        """
        return read_notification(self._account, body, headers, now)

    async def _run(self, call: Callable[[threading.Event], T]) -> T:
        """The result of a short call; a caller who leaves does not wait for it, and it asks no more."""
        stop = threading.Event()
        try:
            return await self._calls.run(lambda: call(stop))
        finally:
            stop.set()

    async def _in_turn(
        self,
        breaker: Breaker,
        run: Callable[[Callable[[threading.Event], T]], Awaitable[T]],
        call: Callable[[threading.Event], T],
    ) -> T:
        """What `call` comes to when there is a thread for it, which must not take too long."""
        breaker.require()
        loop = asyncio.get_running_loop()
        turn = asyncio.timeout(self._patience)

        def begin() -> None:
            if not turn.expired():
                turn.reschedule(None)

        def in_turn(stop: threading.Event) -> T:
            with suppress(RuntimeError):  # the loop of a caller who left may be closed
                loop.call_soon_threadsafe(begin)
            return call(stop)

        try:
            async with turn:
                return await run(in_turn)
        except TimeoutError:
            words = "Cloudinary is being asked by as many as may at a time"
            raise Unavailable("image_store", words, retry_after=_NO_TURN) from None

    def _destroy(self, key: str, stop: threading.Event) -> None:
        fields = {"public_id": self._account.public_id(key), "invalidate": "true"}
        patience = self._ask.patience(stop)

        def attempt() -> None:
            result = self._ask.post("destroy", fields, _Dropped, patience).result
            if result not in {"ok", "not found"}:
                raise Unavailable("image_store", "Cloudinary did not understand a deletion")

        with self._changing:
            self._ask.persist(attempt, patience)

    def _look_up(self, key: str, stop: threading.Event) -> StoredImage | None:
        public_id = self._account.public_id(key)
        patience = self._ask.patience(stop)

        def attempt() -> _Found | None:
            found = self._ask.resource(public_id, _Found, patience)
            if found is not None and found.public_id != public_id:
                raise Unavailable("image_store", "Cloudinary answered about another image")
            return found

        with self._looking_up:
            found = self._ask.persist(attempt, patience)
        if found is None:
            return None
        form = None if found.format is None else our_format(found.format)
        return StoredImage(found.bytes, found.width, found.height, form)
