"""Every error that Watchly raises on purpose.

::

    WatchlyError
    ├── Invalid                  the input breaks rules; `faults` lists every one of them
    │   ├── InvalidMovie
    │   ├── InvalidTicket        a request for a ticket
    │   ├── InvalidQuery         a parameter of a query: sort, limit, cursor …
    │   ├── InvalidTarget        where changes should be told to
    │   ├── InvalidUser          an account that may not be as it is wanted
    │   ├── InvalidSignIn        a request to sign in, or to stay so, that means nothing
    │   └── InvalidApiKey        an API key that may not be as it is wanted
    ├── NotSignedIn              it takes somebody who is known
    ├── NotAllowed               whoever it is may not do this
    ├── TooManyAttempts          somebody has tried too often, and may again after a while
    ├── EmailTaken               there is an account with this address
    ├── LastAdmin                nobody would be an administrator any more
    ├── InvalidPosition          a text that no write has returned as its position
    ├── ImportRejected           some rows of an import break rules; `report` names them
    ├── MalformedJSON            a text that should be JSON is none
    ├── NotFound                 nothing is there under that name
    │   ├── MovieNotFound
    │   ├── ImageNotFound
    │   ├── TargetNotFound
    │   ├── UserNotFound
    │   └── ApiKeyNotFound
    ├── ChangesGone              the log does not reach back that far any more
    ├── VersionConflict          the movie or user is not at the version that the write was based on
    ├── ImageRejected            these bytes will not become an image of the catalogue
    │   ├── ImageTooLarge        more bytes or more pixels than allowed
    │   ├── ImageTypeUnsupported content of a type that is not accepted
    │   └── ImageUnreadable      content that is not the image it claims to be
    ├── IllegalTransition        an image may not go from its state to that one
    ├── UploadConflict           a piece of an upload does not follow on what arrived before it
    ├── Replayed                 nothing was done: the write was made before, and `reply` was its answer
    ├── RequestInProgress        a write with the same key is still under way
    ├── KeyReused                the key of a write was used for another one
    ├── PublishRejected          a target will never take this message
    ├── RelaySuperseded          another relay is at work on the same targets
    ├── SignatureRejected        a request is not signed by whom it should be, or too long ago
    ├── Unavailable              a dependency did not answer; the same call may succeed later
    │   ├── Overloaded           it answered, that it has too much to do
    │   └── Undone               it answered, that it has undone what it was asked for
    │       └── Contended        because something else was in the way: it may be asked again at once
    ├── Unjoinable               a host's connection is in no transaction that could be joined
    └── Misconfigured            a setting or the environment is wrong; trying again will not help

Adapters translate the errors of their libraries into these once, at their edge.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

import msgspec

if TYPE_CHECKING:
    from watchly_core.imports import ImportReport
    from watchly_core.receipts import KeptReply

__all__ = [
    "ApiKeyNotFound",
    "ChangesGone",
    "Contended",
    "EmailTaken",
    "Fault",
    "IllegalTransition",
    "ImageNotFound",
    "ImageRejected",
    "ImageTooLarge",
    "ImageTypeUnsupported",
    "ImageUnreadable",
    "ImportRejected",
    "Invalid",
    "InvalidApiKey",
    "InvalidMovie",
    "InvalidPosition",
    "InvalidQuery",
    "InvalidSignIn",
    "InvalidTarget",
    "InvalidTicket",
    "InvalidUser",
    "KeyReused",
    "LastAdmin",
    "MalformedJSON",
    "Misconfigured",
    "MovieNotFound",
    "NotAllowed",
    "NotFound",
    "NotSignedIn",
    "Overloaded",
    "PublishRejected",
    "RelaySuperseded",
    "Replayed",
    "RequestInProgress",
    "SignatureRejected",
    "TargetNotFound",
    "TooManyAttempts",
    "Unavailable",
    "Undone",
    "Unjoinable",
    "UploadConflict",
    "UserNotFound",
    "VersionConflict",
    "WatchlyError",
    "alike",
]


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    """One rule that an input breaks.

    Exactly one of `pointer` (a JSON pointer as a URI fragment, RFC 6901 section 6, such as
    ``#/title``) and `parameter` (the name of a query parameter) is set.
    """

    code: str
    detail: str
    pointer: str | None = None
    parameter: str | None = None

    def __str__(self) -> str:
        """Name the place and the rule on one line."""
        place = self.parameter or (self.pointer or "#").removeprefix("#/").removeprefix("#")
        return f"{place}: {self.detail}" if place else self.detail


class WatchlyError(Exception):
    """The root of the tree above."""


class Invalid(WatchlyError):
    """The input breaks rules.

    Attributes:
        faults: every broken rule, never empty.
    """

    subject: ClassVar[str] = "input"

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults: Sequence[Fault] = tuple(faults)
        super().__init__(f"invalid {self.subject}: " + "; ".join(map(str, self.faults)))


class InvalidMovie(Invalid):
    """A movie that may not be written as it is."""

    subject = "movie"


class InvalidTicket(Invalid):
    """A request for a ticket that means nothing."""

    subject = "ticket"


class InvalidQuery(Invalid):
    """A query that means nothing: each fault names its parameter."""

    subject = "query"


class InvalidTarget(Invalid):
    """A webhook that cannot be one."""

    subject = "webhook"


class InvalidUser(Invalid):
    """An account that may not be as it is wanted."""

    subject = "user"


class InvalidSignIn(Invalid):
    """A request to sign in, or to stay so, that means nothing."""

    subject = "sign-in"


class InvalidApiKey(Invalid):
    """An API key that may not be as it is wanted."""

    subject = "API key"


class NotSignedIn(WatchlyError):
    """It takes somebody who is known, and nobody has said who this is, or not so that it can be believed."""

    def __init__(self, why: str = "this takes somebody who has signed in") -> None:
        super().__init__(why)


class NotAllowed(WatchlyError):
    """Whoever it is may not do this.

    Attributes:
        permission: what it would take.
    """

    def __init__(self, permission: str, why: str = "") -> None:
        self.permission: str = permission
        super().__init__(why or f"this takes the permission {permission!r}")


class TooManyAttempts(WatchlyError):
    """Somebody has tried too often.

    Attributes:
        retry_after: seconds after which they may again.
    """

    def __init__(self, retry_after: int) -> None:
        self.retry_after: int = retry_after
        super().__init__("there were too many attempts")


class EmailTaken(WatchlyError):
    """There is an account with this address."""

    def __init__(self) -> None:
        super().__init__("there is an account with this address")


class LastAdmin(WatchlyError):
    """Nobody would be an administrator any more."""

    def __init__(self) -> None:
        super().__init__("nobody would be an administrator any more")


class InvalidPosition(WatchlyError):
    """A text that no write has returned as its position."""


class ImportRejected(WatchlyError):
    """Some rows of an import break rules, and nothing was added.

    Attributes:
        report: which rows, and why.
    """

    def __init__(self, report: ImportReport) -> None:
        self.report: ImportReport = report
        super().__init__(f"nothing was added: rows that break rules: {report.rejected_total}")


class MalformedJSON(WatchlyError):
    """A text that should be JSON is none."""


class NotFound(WatchlyError):
    """Nothing is there under that name."""


class MovieNotFound(NotFound):
    """No movie has this id (any more)."""

    def __init__(self, movie_id: int) -> None:
        self.movie_id: int = movie_id
        super().__init__(f"no movie has the id {movie_id}")


class ImageNotFound(NotFound):
    """No image is stored under this key, or the movie has none."""


class TargetNotFound(NotFound):
    """No target of the relay has this name (any more)."""

    def __init__(self, name: str) -> None:
        self.name: str = name
        super().__init__(f"no webhook is called {name!r}")


class UserNotFound(NotFound):
    """No user has this id (any more); None where whoever acts has no account."""

    def __init__(self, user_id: int | None) -> None:
        self.user_id: int | None = user_id
        super().__init__(
            "whoever acts has no account" if user_id is None else f"no user has the id {user_id}"
        )


class ApiKeyNotFound(NotFound):
    """No API key has this id (any more)."""

    def __init__(self, key_id: int) -> None:
        self.key_id: int = key_id
        super().__init__(f"no API key has the id {key_id}")


class ChangesGone(WatchlyError):
    """The log does not reach back that far any more.

    Attributes:
        horizon: reading works after this number; the movies as they are tell what lies before it.
    """

    def __init__(self, horizon: int) -> None:
        self.horizon: int = horizon
        super().__init__(f"changes up to number {horizon} were pruned")


class VersionConflict(WatchlyError):
    """A movie or user is at another version than the write was based on; nothing was changed.

    Attributes:
        id: which one.
        expected: the version that the write was based on; 0, which none has, for none of them.
        current: the version that it has.
    """

    def __init__(self, which: int, expected: int, current: int, subject: str = "movie") -> None:
        self.id: int = which
        self.expected: int = expected
        self.current: int = current
        wanted = f"not {expected}" if expected else "which the write does not allow"
        super().__init__(f"{subject} {which} is at version {current}, {wanted}")


class ImageRejected(WatchlyError):
    """These bytes will not become an image of the catalogue."""


class ImageTooLarge(ImageRejected):
    """More bytes, or more pixels, than the catalogue or its store takes."""


class ImageTypeUnsupported(ImageRejected):
    """Content of a type that the catalogue does not keep."""


class ImageUnreadable(ImageRejected):
    """Content that is not the image it claims to be."""


class IllegalTransition(WatchlyError):
    """An image may not go from its present state to the one asked for, or its key is noted already."""


class UploadConflict(WatchlyError):
    """A piece of an upload does not follow on what arrived before it, or another piece is arriving.

    Attributes:
        received: how many bytes are there, so that the next piece begins with this one.
    """

    def __init__(self, received: int, detail: str = "") -> None:
        self.received: int = received
        super().__init__(
            detail or f"the next piece of this upload begins at byte {received}, and comes alone"
        )


class Replayed(WatchlyError):
    """Nothing was done, for the write with this key was made before.

    Attributes:
        reply: the answer to it.
    """

    def __init__(self, reply: KeptReply) -> None:
        self.reply: KeptReply = reply
        super().__init__("this was done before")


class RequestInProgress(WatchlyError):
    """A write with the same key is still under way.

    Attributes:
        retry_after: seconds after which asking again makes sense.
    """

    retry_after: ClassVar[int] = 1

    def __init__(self) -> None:
        super().__init__("a request with this key is still under way")


class KeyReused(WatchlyError):
    """The key of a write was used for another one."""

    def __init__(self) -> None:
        super().__init__("this key was used for another request")


class PublishRejected(WatchlyError):
    """A target will never take this message, however often it is sent."""


class RelaySuperseded(WatchlyError):
    """Another relay is at work on the same targets: this one has lost the right to, and has to ask anew."""


class SignatureRejected(WatchlyError):
    """A request is not signed by whom it should be, or was signed too long ago."""


class Unavailable(WatchlyError):
    """A dependency did not answer.

    Whether a write in flight took effect is not known, unless the adapter says otherwise.

    Attributes:
        dependency: "database", "image_store" …
        retry_after: seconds after which asking again makes sense.
    """

    def __init__(self, dependency: str, detail: str, *, retry_after: int = 1) -> None:
        self.dependency: str = dependency
        self.retry_after: int = retry_after
        super().__init__(f"{dependency}: {detail}")


class Overloaded(Unavailable):
    """A dependency has too much to do; that says nothing about what it was asked for."""


class Undone(Unavailable):
    """A dependency has undone a write for a reason of its own: it took no effect."""


class Contended(Undone):
    """A write was undone because another one was in its way: a deadlock, or an order that could not be.

    Use cases begin anew by themselves (see `contention`), and raise it only when that did not help.

    Attributes:
        joined: whether the write was a part of a host's transaction, which the host alone can begin anew.
    """

    joined: bool = False


class Unjoinable(WatchlyError):
    """A host's connection is in no transaction that could be joined; nothing was written."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the connection cannot be joined: {why}")


class Misconfigured(WatchlyError):
    """A setting, or what it points to, is wrong: one line that says which and why."""


def alike(error: Exception) -> Exception:
    """The same error for another caller, because raising one writes into it."""
    copied = type(error).__new__(type(error), *error.args)
    copied.__dict__.update(error.__dict__)
    copied.__cause__ = error.__cause__
    return copied
