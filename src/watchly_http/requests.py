"""Reading requests: bodies, parameters, ids, without the tolerance that frameworks have."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import suppress
from hashlib import sha256
from typing import Final, TypeAlias, TypeVar
from urllib.parse import parse_qsl, quote

import litestar
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.types import Scope

from watchly_core.errors import Fault, InvalidQuery, NotFound, WatchlyError
from watchly_core.imports import decode_json
from watchly_core.movies import MAX_ID
from watchly_core.ports import Clock

T = TypeVar("T")

Request: TypeAlias = litestar.Request[None, None, State]

#: Looks at a request before its handler does, and raises what is wrong with it.
Check: TypeAlias = Callable[[Request], Awaitable[None]]

#: Where these stand in the scope of a request: its id, whether it is a HEAD that is answered as a GET, the
#: name of the header that chose among several forms of the reply, the headers that tell how many more there
#: may be, the code of the problem that the reply is, and what its body is digested by.
REQUEST_ID: Final = "watchly.request_id"
HEAD_ONLY: Final = "watchly.head_only"
VARY: Final = "watchly.vary"
RATE_LIMIT: Final = "watchly.rate_limit"
PROBLEM: Final = "watchly.problem"
_DIGEST: Final = "watchly.digest"

#: The methods that routes have handlers for.
METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")

#: Where those ask who watch the service: under any name, and however much there is to do.
_WATCHING: Final = ("/health", "/metrics")

#: Bytes of a body that holds a few short texts: as many as two of the longest passwords, all escaped.
SMALL_BODY: Final = 30_000

#: Seconds for which the next piece of a body is waited for.
BODY_WAIT: Final = 30.0
#: Seconds for which all of a body is waited for beyond what a slow line needs, and how many bytes a second
#: the slowest line brings.
BODY_PATIENCE: Final = 60.0
SLOWEST_BODY: Final = 10_000

_ID: Final = re.compile(r"[1-9][0-9]{0,9}")


class MalformedRequest(WatchlyError):
    """The request is not HTTP as this service speaks it."""


class BodyTooLarge(WatchlyError):
    """The body has more bytes than are taken here."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the body may have at most {limit} bytes")


class BodyTimeout(WatchlyError):
    """The body stopped arriving before its end."""


class NotAcceptable(WatchlyError):
    """What is here comes in no form that the client takes."""


class UnsupportedMediaType(WatchlyError):
    """The body is of a type that is not taken here."""


class TooManyRequests(WatchlyError):
    """There were more requests than there may be.

    Attributes:
        retry_after: seconds after which there may be more.
    """

    def __init__(self, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__("there were more requests than the limit lets through")


class ClientGone(WatchlyError):
    """The client left before its body was read, or the reply sent; nobody will see the rest."""


def request_id_of(scope: Scope) -> str:
    """The id under which a request is logged."""
    return str(scope.get(REQUEST_ID, ""))


def path_of(scope: Scope) -> str:
    """The path of a request as it was sent, fit for JSON and logs."""
    raw = scope.get("raw_path") or quote(scope["path"], errors="replace").encode()
    return raw.partition(b"?")[0].decode("ascii", "replace")


def is_watching(path: str) -> bool:
    """Whether a path is for those who watch the service."""
    return path.startswith(_WATCHING)


def allowed_methods(scope: Scope) -> list[str]:
    """The methods that the address of a request takes: those for which the router finds a handler."""
    allowed = []
    for method in (*METHODS, "OPTIONS"):
        with suppress(HTTPException):
            scope["litestar_app"].asgi_router.handle_routing(path=scope["path"], method=method)
            allowed += [method, "HEAD"] if method == "GET" else [method]
    return allowed


def clock_of(request: Request) -> Clock:
    """The present time, as the application has it."""
    clock: Clock = request.app.state.clock
    return clock


def read_id(text: str, thing: str = "movie") -> int:
    """The id of a thing of this kind that a path segment names.

    Raises:
        NotFound: it is not a plain decimal in range, so no such thing has it.
    """
    if _ID.fullmatch(text) is None:
        raise NotFound(f"no {thing} has such an id")
    number = int(text)
    if number > MAX_ID:
        raise NotFound(f"no {thing} has the id {number}")
    return number


def lines_of(scope: Scope, name: str) -> list[str]:
    """The lines that the header `name` stands on, which is in lower case."""
    # Not by Litestar's mapping of all headers, which costs more to make than these walks.
    sought = name.encode()
    return [value.decode("latin-1") for key, value in scope["headers"] if key == sought]


def _first(request: Request, name: str) -> str:
    """The first line of the header `name`, which is in lower case; empty without any."""
    sought = name.encode()
    for key, value in request.scope["headers"]:
        if key == sought:
            return value.decode("latin-1")
    return ""


def header_of(request: Request, name: str) -> str | None:
    """A header that may stand on several lines (RFC 9110, section 5.3)."""
    lines = lines_of(request.scope, name.lower())
    return ", ".join(lines).strip() if lines else None


def vary(request: Request, name: str) -> None:
    """Say in the reply, whatever it is, that the header `name` takes part in choosing it."""
    request.scope[VARY] = name  # type: ignore[typeddict-unknown-key] # ASGI lets applications add keys


class Parameters:
    """The query parameters of a request, each given once at most; `check` tells all faults together.

    Args:
        request: whose they are.
        allowed: the names that its address knows.

    Raises:
        MalformedRequest: there are more of them than anybody means.
    """

    def __init__(self, request: Request, allowed: Collection[str]) -> None:
        self._given: dict[str, str] = {}
        self._faults: list[Fault] = []
        text = request.scope["query_string"].decode("utf-8", "surrogateescape")
        if not text:
            return
        try:
            pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=100, errors="surrogateescape")
        except ValueError:
            raise MalformedRequest("there are too many query parameters") from None
        for raw, value in pairs:
            name = raw[:100].encode("utf-8", "replace").decode()
            if name not in allowed:
                self._refuse(name, "is not a parameter of this address", "unknown_parameter")
            elif name in self._given:
                self._refuse(name, "is given more than once", "repeated_parameter")
            else:
                self._given[name] = value

    def get(self, name: str, read: Callable[[str], T], default: T) -> T:
        """What `read` makes of a parameter, where no ValueError says what is wrong; `default` if absent."""
        text = self._given.get(name)
        if text is None:
            return default
        try:
            return self.attempt(lambda: read(text), default)
        except ValueError as error:
            self._refuse(name, str(error), "invalid_value")
            return default

    def attempt(self, call: Callable[[], T], otherwise: T) -> T:
        """What `call` gives, or `otherwise` where it finds faults: they are kept for `check`."""
        try:
            return call()
        except InvalidQuery as invalid:
            self._faults += invalid.faults
            return otherwise

    @property
    def has_faults(self) -> bool:
        """Whether any were found so far."""
        return bool(self._faults)

    def check(self) -> None:
        """Raise what was found.

        Raises:
            InvalidQuery: a parameter is unknown, repeated, or means nothing.
        """
        if self._faults:
            raise InvalidQuery(self._faults)

    def _refuse(self, name: str, detail: str, code: str) -> None:
        self._faults.append(Fault(code, detail, parameter=name))


def parameter(request: Request, name: str, read: Callable[[str], T], default: T) -> T:
    """The parameter `name`, the only one that the address of a request takes.

    Raises:
        InvalidQuery: there are others, or it means nothing.
    """
    given = Parameters(request, (name,))
    value = given.get(name, read, default)
    given.check()
    return value


def flag(text: str) -> bool:
    """Read a parameter that is true or false."""
    if text not in {"true", "false"}:
        raise ValueError("must be true or false")
    return text == "true"


_DIGITS: Final = re.compile(r"-?[0-9]{1,19}", re.ASCII)


def whole_number(smallest: int, largest: int) -> Callable[[str], int]:
    """Reads a parameter that is an integer in this range."""

    def read(text: str) -> int:
        if not (_DIGITS.fullmatch(text) and smallest <= int(text) <= largest):
            raise ValueError(f"must be an integer from {smallest} to {largest}")
        return int(text)

    return read


def media_type(request: Request) -> str:
    """The type of the body without its parameters, in lower case; empty if none is given."""
    return _first(request, "content-type").partition(";")[0].strip().lower()


def require_size(request: Request, limit: int) -> None:
    """Refuse a body that is announced with more than `limit` bytes, before any of it is read.

    Raises:
        BodyTooLarge: it is.
    """
    announced = _first(request, "content-length")
    if announced.isdigit() and int(announced[:20]) > limit:
        raise BodyTooLarge(limit)


def require_plain(request: Request) -> None:
    """Refuse a body that is compressed.

    Raises:
        UnsupportedMediaType: it is.
    """
    if _first(request, "content-encoding").lower() not in {"", "identity"}:
        raise UnsupportedMediaType("a Content-Encoding is not accepted here")


class BodyDigest:
    """A digest of a body, made while it is read."""

    def __init__(self) -> None:
        self._hash = sha256()

    def update(self, piece: bytes) -> None:
        """Take in a piece of it."""
        self._hash.update(piece)

    def hexdigest(self) -> str:
        """What tells it, as far as it was read, from all others."""
        return self._hash.hexdigest()


def digest_body(request: Request) -> BodyDigest:
    """A digest of the body of `request`, which goes on when that is read."""
    digest = request.scope[_DIGEST] = BodyDigest()  # type: ignore[typeddict-unknown-key] # as in `vary`
    return digest


def digest_of(request: Request) -> BodyDigest | None:
    """The digest of the body of `request`, if somebody wants one."""
    digest = request.scope.get(_DIGEST)
    return digest if isinstance(digest, BodyDigest) else None


class _Incoming:
    """The body of a request as it arrives; only the waiting for the client counts as the client's time.

    Args:
        request: whose body it is.
        digest: what it is digested by.

    Attributes:
        ended: whether all of it is here.
    """

    def __init__(self, request: Request, digest: BodyDigest | None) -> None:
        self._receive, self._digest = request.receive, digest
        self._now = asyncio.get_running_loop().time
        self._received, self._waited = 0, 0.0
        self.ended = False

    async def piece(self) -> bytes:
        """The next piece of it, which may be empty.

        Raises:
            ClientGone: the client left before its end.
            BodyTimeout: the client sent none of it for too long, or sends it too slowly.
        """
        room = BODY_PATIENCE + self._received / SLOWEST_BODY - self._waited
        if room <= 0:  # a piece that is there already would be taken whatever the timeout
            raise BodyTimeout("the body arrives too slowly")
        began = self._now()
        try:
            async with asyncio.timeout(min(BODY_WAIT, room)):
                event = await self._receive()
        except TimeoutError:
            raise BodyTimeout("the body stopped arriving before its end") from None
        self._waited += self._now() - began
        if event["type"] != "http.request":
            raise ClientGone("the client left before the end of its body")
        # Servers may leave out both members (ASGI 3.0, HTTP, "Request").
        body = event.get("body", b"")
        self.ended = not event.get("more_body", False)
        self._received += len(body)
        if self._digest is not None:
            self._digest.update(body)
        return body


async def stream(request: Request, *, digested: bool = True) -> AsyncIterator[bytes]:
    """The body of `request` as it arrives, digested unless its reader does that.

    Raises:
        ClientGone, BodyTimeout: see `_Incoming.piece`.
    """
    incoming = _Incoming(request, digest_of(request) if digested else None)
    while not incoming.ended:
        if piece := await incoming.piece():
            yield piece


def require_type(request: Request, accepted: Collection[str] = ("application/json",)) -> None:
    """Refuse a body that is of no accepted type, or is compressed, before anything else of it is looked at.

    Raises:
        UnsupportedMediaType: it is.
    """
    if media_type(request) not in accepted:
        raise UnsupportedMediaType(f"the Content-Type must be {' or '.join(accepted)}")
    require_plain(request)


async def read_json(
    request: Request, limit: int, accepted: Collection[str] = ("application/json",)
) -> object:
    """The body of `request` as JSON of at most `limit` bytes.

    Raises:
        UnsupportedMediaType: its Content-Type is none of `accepted`.
        BodyTooLarge: it is too large.
        BodyTimeout: the client sent none of it for too long.
        MalformedJSON: it is not JSON.
    """
    require_type(request, accepted)
    return decode_json(await read_body(request, limit))


async def read_body(request: Request, limit: int) -> bytes:
    """The body of `request`, of at most `limit` bytes.

    Raises:
        BodyTooLarge: it is too large.
        BodyTimeout: the client sent none of it for too long.
    """
    require_size(request, limit)
    # Not by `stream`: what drives it costs more than a small body does.
    incoming, body = _Incoming(request, digest_of(request)), bytearray()
    while not incoming.ended:
        body += await incoming.piece()
        if len(body) > limit:
            raise BodyTooLarge(limit)
    return bytes(body)
