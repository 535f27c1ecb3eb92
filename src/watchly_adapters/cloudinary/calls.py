"""Calls of Cloudinary's API: what its answers mean, and asking again when there was none."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final, TypeVar
from weakref import WeakSet

import msgspec
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential
from tenacity.nap import sleep_using_event

from watchly_adapters.cloudinary.account import Account
from watchly_adapters.cloudinary.wire import Answer, File, Request, Wire
from watchly_core.errors import (
    ImageRejected,
    ImageTooLarge,
    ImageUnreadable,
    Misconfigured,
    Unavailable,
    WatchlyError,
)

T = TypeVar("T")

#: How often a call is asked before it has failed.
ATTEMPTS: Final = 3
_LONGEST_WAIT: Final = 10.0

#: Bytes a second that a line to Cloudinary sends at least; what is slower has failed.
_SLOWEST: Final = 50_000

#: What is given to a request whose time is over; sockets take zero for something else.
_LEAST_TIMEOUT: Final = 0.001

#: How much of Cloudinary's own words goes into a message.
_MOST_WORDS: Final = 200

_FORBIDDING: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_LIMITED: Final = (420, HTTPStatus.TOO_MANY_REQUESTS)

#: Seconds after which to come back to who limits the rate of requests, if it does not say, and at most.
_RATE_PAUSE: Final = 10
_LONGEST_RATE_PAUSE: Final = 3600

#: What Cloudinary means when it answers 400, by how it begins; anything else is about the image.
_REFUSALS: Final[Sequence[tuple[str, type[ImageRejected | Misconfigured]]]] = (
    ("File size too large", ImageTooLarge),
    ("Invalid image file", ImageUnreadable),
    ("Empty file", ImageUnreadable),
    ("Stale request", Misconfigured),
    ("Upload preset", Misconfigured),
    ("Missing required", Misconfigured),
)


#: What reading an answer may come to that is not JSON, or not in the form expected.
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class CallerLeft(Exception):
    """Whoever asked does not wait for the answer any more, so nothing more was asked."""


class RateLimited(Unavailable):
    """Cloudinary takes no more of these requests for a while."""


class Patience:
    """How long a call goes on, with all its requests: `seconds`, or until its caller leaves.

    Attributes:
        stop: ends the waits of the call; set by a caller who leaves, and when the store is closed.
    """

    def __init__(self, seconds: float, stop: threading.Event, closed: threading.Event) -> None:
        self._until = time.monotonic() + seconds
        self._closed = closed
        self.stop = stop

    @property
    def left(self) -> float:
        """Seconds until it is over."""
        return self._until - time.monotonic()

    def require(self) -> None:
        """Go on only for a caller that is still there, and while there is time.

        Raises:
            CallerLeft: it is not.
            Unavailable: there is none, or the store is closed.
        """
        if self._closed.is_set():
            raise Unavailable("image_store", "the store on Cloudinary is closed")
        if self.stop.is_set():
            raise CallerLeft
        if self.left <= 0:
            raise Unavailable("image_store", "Cloudinary took too long in all")


class _Said(msgspec.Struct):
    message: str


class _Error(msgspec.Struct):
    error: _Said


class Calls:
    """Asks Cloudinary.

    Args:
        account: whose calls they are.
        connections: how many are kept open.
        timeout: seconds for each wait, and for one request in all, beside the time for sending it.
        backoff: seconds of the longest wait before asking a second time; it doubles for the third.
    """

    def __init__(self, account: Account, connections: int, *, timeout: float, backoff: float) -> None:
        self._account = account
        self._wire = Wire(connections)
        self._timeout = timeout
        self._backoff = backoff
        self._lock = threading.Lock()
        self._stops: WeakSet[threading.Event] = WeakSet()
        self._closed = threading.Event()

    def close(self) -> None:
        """End all calls, also those that are yet to come, as `Unavailable`."""
        with self._lock:
            self._closed.set()
            stops = tuple(self._stops)
        for stop in stops:
            stop.set()
        self._wire.close()

    def patience(self, stop: threading.Event, size: int = 0) -> Patience:
        """How long a call may take that sends so many bytes: all its attempts, and all their requests."""
        with self._lock:
            self._stops.add(stop)
            if self._closed.is_set():
                stop.set()
        return Patience(ATTEMPTS * self._timeout + size / _SLOWEST, stop, self._closed)

    def persist(self, attempt: Callable[[], T], patience: Patience) -> T:
        """What an attempt comes to, the first one that is not `Unavailable`, or is `RateLimited`.

        The waits between them are random, so that those who failed together do not come back together.
        """

        def is_over(state: RetryCallState) -> bool:
            no_more = state.attempt_number >= ATTEMPTS or patience.stop.is_set()
            return no_more or state.upcoming_sleep >= patience.left

        def once() -> T:
            patience.require()
            return attempt()

        return Retrying(
            retry=retry_if_exception(
                lambda error: isinstance(error, Unavailable) and not isinstance(error, RateLimited)
            ),
            stop=is_over,
            wait=wait_random_exponential(multiplier=self._backoff, max=_LONGEST_WAIT),
            sleep=sleep_using_event(patience.stop),
            reraise=True,
        )(once)

    def post(  # noqa: PLR0913 - what a request is made of, each part with its name
        self,
        action: str,
        fields: Mapping[str, str],
        answer: type[T],
        patience: Patience,
        *,
        file: File | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> T:
        """The answer of the Upload API, asked once, in the form of `answer`."""
        signed = self._account.signed(fields, int(time.time()))
        request = Request(self._account.address("image", action), headers or {}, signed, file)
        return self._read(self._send(request, patience), answer)

    def resource(self, public_id: str, answer: type[T], patience: Patience) -> T | None:
        """The answer of the Admin API about an asset, asked once; None if there is no such asset.

        Raises:
            RateLimited: it has answered as often as it does within an hour.
        """
        url = self._account.address("resources", "image", "upload", public_id)
        said = self._send(Request(url, {"Authorization": self._account.basic}), patience)
        if said.status in _LIMITED:
            words = "Cloudinary answers no more questions for now"
            raise RateLimited("image_store", words, retry_after=_until_reset(said.headers))
        if said.status == HTTPStatus.NOT_FOUND and _words(said) is not None:
            return None
        return self._read(said, answer)

    def _send(self, request: Request, patience: Patience) -> Answer:
        size = 0 if request.file is None else request.file.size
        left = max(patience.left, _LEAST_TIMEOUT)
        wait, whole = self._timeout, self._timeout + size / _SLOWEST
        return self._wire.ask(request, wait=min(wait, left), whole=min(whole, left))

    def _read(self, answer: Answer, form: type[T]) -> T:
        if answer.status != HTTPStatus.OK:
            words = _words(answer)
            raise _refusal(answer.status, None if words is None else self._masked(words))
        try:
            return msgspec.json.decode(answer.body, type=form)
        except _UNREADABLE as error:
            # What msgspec says names members and types, and quotes nothing.
            words = f"Cloudinary's answer is not to be understood: {error}"
            raise Unavailable("image_store", words) from None

    def _masked(self, words: str) -> str:
        """What Cloudinary says, in short and on one line, without what it may quote of the account's keys."""
        for secret in (self._account.api_secret, self._account.api_key):
            words = words.replace(secret, "…")
        return " ".join(words.split())[:_MOST_WORDS]


def _until_reset(headers: Mapping[str, str]) -> int:
    """Seconds until a rate is counted anew, as far as Cloudinary tells."""
    try:
        reset = parsedate_to_datetime(headers["X-FeatureRateLimit-Reset"]).timestamp()
    except (LookupError, ValueError, OverflowError):
        return _RATE_PAUSE
    return max(1, min(math.ceil(reset - time.time()), _LONGEST_RATE_PAUSE))


def _words(answer: Answer) -> str | None:
    """What Cloudinary says is wrong; None if it is not Cloudinary that says it."""
    try:
        return msgspec.json.decode(answer.body, type=_Error).error.message
    except _UNREADABLE:
        return None


def _refusal(status: int, words: str | None) -> WatchlyError:
    """What an answer other than 200 means."""
    if status in _LIMITED:
        return Unavailable("image_store", "Cloudinary limits the rate of requests", retry_after=_RATE_PAUSE)
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return ImageTooLarge("Cloudinary takes no image as large as this")
    if words is None:
        return Unavailable("image_store", f"Cloudinary answered {status} with something else than JSON")
    if status in _FORBIDDING:
        return Misconfigured("Cloudinary refuses the credentials or what they may do")
    if status == HTTPStatus.BAD_REQUEST:
        meanings = (meaning for start, meaning in _REFUSALS if words.startswith(start))
        return next(meanings, ImageRejected)(f"Cloudinary says: {words}")
    return Unavailable("image_store", f"Cloudinary did not do as asked: {words}")
