"""The one map from errors to the problems that clients get (RFC 9457)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import islice
from typing import Final

import msgspec
import structlog
from litestar import Response
from litestar.exceptions import HTTPException
from litestar.types import Scope

from watchly_core.errors import (
    ChangesGone,
    EmailTaken,
    Fault,
    IllegalTransition,
    ImageNotFound,
    ImageRejected,
    ImageTooLarge,
    ImageTypeUnsupported,
    ImageUnreadable,
    ImportRejected,
    Invalid,
    InvalidApiKey,
    InvalidMovie,
    InvalidQuery,
    InvalidSignIn,
    InvalidTicket,
    InvalidUser,
    KeyReused,
    LastAdmin,
    MalformedJSON,
    NotAllowed,
    NotFound,
    NotSignedIn,
    RequestInProgress,
    SignatureRejected,
    TooManyAttempts,
    Unavailable,
    UploadConflict,
    VersionConflict,
)
from watchly_core.imports import Rejection
from watchly_core.movies import MAX_FAULTS
from watchly_http.answers import Answer
from watchly_http.logs import about
from watchly_http.origins import ForeignOrigin
from watchly_http.ranges import RangeNotSatisfiable
from watchly_http.requests import (
    METHODS,
    PROBLEM,
    BodyTimeout,
    BodyTooLarge,
    ClientGone,
    MalformedRequest,
    NotAcceptable,
    Request,
    TooManyRequests,
    UnsupportedMediaType,
    allowed_methods,
    path_of,
    request_id_of,
)

_log = structlog.stdlib.get_logger("watchly.problems")


class Problem(msgspec.Struct, omit_defaults=True):
    """The body of every 4xx and 5xx reply."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    errors: tuple[Fault, ...] = ()


class ImportProblem(Problem, omit_defaults=False):
    """Why an import added nothing: `errors` tells faults in the order of their lines.

    The members below are those of the report that an import which succeeds gives.
    """

    added: int = 0
    rejected: tuple[Rejection, ...] = ()
    rejected_total: int = 0
    dry_run: bool = False


class ChangesGoneProblem(Problem, kw_only=True):
    """Why changes cannot be told: those up to the number `horizon` were pruned."""

    horizon: int


class Kind(msgspec.Struct, frozen=True):
    """What a code means."""

    code: str
    status: int
    title: str
    explanation: str


KINDS: Final[Mapping[str, Kind]] = {
    kind.code: kind
    for kind in (
        Kind(
            "malformed_request",
            400,
            "Malformed request",
            "The request cannot be read as HTTP of this service.",
        ),
        Kind("malformed_json", 400, "Malformed JSON", "The body is not JSON in UTF-8 (RFC 8259)."),
        Kind(
            "invalid_parameter",
            400,
            "Invalid parameter",
            "A query parameter is unknown, repeated or out of range; `errors` names each of them.",
        ),
        Kind(
            "not_signed_in",
            401,
            "Not signed in",
            "This takes a token or an API key that is good: `Authorization: Bearer …`.",
        ),
        Kind(
            "not_allowed",
            403,
            "Not allowed",
            "Whoever sends the request is known, and may not do this; or a page of another origin would use"
            " the cookie.",
        ),
        Kind(
            "signature_rejected",
            403,
            "Signature rejected",
            "The request is not signed as it should be, or was signed too long ago.",
        ),
        Kind("not_found", 404, "Not found", "Nothing is at this address, or not any more."),
        Kind("method_not_allowed", 405, "Method not allowed", "`Allow` lists the methods of this address."),
        Kind(
            "not_acceptable",
            406,
            "Not acceptable",
            "What is here comes in none of the types that `Accept` asks for.",
        ),
        Kind("request_timeout", 408, "Request timeout", "The body stopped arriving before its end."),
        Kind(
            "image_conflict", 409, "Image conflict", "The image or its ticket was used or given up already."
        ),
        Kind(
            "request_in_progress",
            409,
            "Request in progress",
            "A request with this `Idempotency-Key` is under way; `Retry-After` says when to send it again.",
        ),
        Kind("email_taken", 409, "Email taken", "There is an account with this address."),
        Kind(
            "last_admin",
            409,
            "Last administrator",
            "Nobody would be an administrator any more: make another one first.",
        ),
        Kind(
            "upload_conflict",
            409,
            "Upload conflict",
            "The upload is not there as far as this request needs it; `Upload-Offset` says how far it is.",
        ),
        Kind(
            "changes_gone",
            410,
            "Changes gone",
            "The log does not reach back that far any more: read the movies as they are, and then the changes"
            " after `horizon`.",
        ),
        Kind(
            "version_conflict",
            412,
            "Version conflict",
            "The movie, or the user, is not at the version that `If-Match` names; nothing was changed.",
        ),
        Kind("too_large", 413, "Too large", "The body is larger than this service or its image store takes."),
        Kind(
            "unsupported_media_type",
            415,
            "Unsupported media type",
            "The Content-Type, or what the content really is, is not accepted here.",
        ),
        Kind(
            "range_not_satisfiable",
            416,
            "Range not satisfiable",
            "The range lies outside of what is here; `Content-Range` says how much that is.",
        ),
        Kind(
            "validation",
            422,
            "Invalid movie",
            "What was sent, such as a movie, breaks rules; `errors` lists every one of them.",
        ),
        Kind(
            "image_unreadable", 422, "Unreadable image", "The content is not the image that it claims to be."
        ),
        Kind("key_reused", 422, "Key reused", "This `Idempotency-Key` was used for another request."),
        Kind(
            "too_many_attempts",
            429,
            "Too many attempts",
            "There were too many attempts; `Retry-After` says when there may be another one.",
        ),
        Kind(
            "too_many_requests",
            429,
            "Too many requests",
            "There were more requests than `RateLimit-Policy` lets through; `Retry-After` says how long.",
        ),
        Kind(
            "internal", 500, "Internal error", "A fault of this service; its log tells more by `request_id`."
        ),
        Kind(
            "unavailable",
            503,
            "Unavailable",
            "Something this service depends on does not answer, or it has too much to do, or is stopping."
            " `Retry-After` says when to try again.",
        ),
        Kind(
            "timeout",
            504,
            "Timeout",
            "This took longer than a request may. What it was to write is written or not: read it, or send it"
            " again with the same `Idempotency-Key`.",
        ),
    )
}

_BY_ERROR: Final[Mapping[type[Exception], str]] = {
    InvalidMovie: "validation",
    InvalidTicket: "validation",
    InvalidUser: "validation",
    InvalidSignIn: "validation",
    InvalidApiKey: "validation",
    NotSignedIn: "not_signed_in",
    NotAllowed: "not_allowed",
    ForeignOrigin: "not_allowed",
    TooManyAttempts: "too_many_attempts",
    TooManyRequests: "too_many_requests",
    EmailTaken: "email_taken",
    LastAdmin: "last_admin",
    InvalidQuery: "invalid_parameter",
    ImportRejected: "validation",
    NotFound: "not_found",
    NotAcceptable: "not_acceptable",
    ImageNotFound: "not_found",
    ChangesGone: "changes_gone",
    VersionConflict: "version_conflict",
    IllegalTransition: "image_conflict",
    UploadConflict: "upload_conflict",
    RequestInProgress: "request_in_progress",
    KeyReused: "key_reused",
    SignatureRejected: "signature_rejected",
    RangeNotSatisfiable: "range_not_satisfiable",
    ImageRejected: "image_unreadable",
    ImageTooLarge: "too_large",
    BodyTooLarge: "too_large",
    BodyTimeout: "request_timeout",
    ImageTypeUnsupported: "unsupported_media_type",
    UnsupportedMediaType: "unsupported_media_type",
    ImageUnreadable: "image_unreadable",
    MalformedJSON: "malformed_json",
    MalformedRequest: "malformed_request",
    ClientGone: "malformed_request",
    Unavailable: "unavailable",
}

#: What Litestar itself raises, by status; its texts are not shown.
_BY_STATUS: Final[Mapping[int, tuple[str, str]]] = {
    400: ("malformed_request", "The request cannot be read."),
    404: ("not_found", "Nothing is at this address."),
    405: ("method_not_allowed", "This address does not take this method."),
    413: ("too_large", "The body is too large."),
}

_OURS: Final = "Something went wrong here; it has been logged."
_MEDIA_TYPE: Final = "application/problem+json"
_encode = msgspec.json.Encoder().encode


def reply_to_error(request: Request, error: Exception) -> Response[bytes]:
    """The problem that `error` is to the client of `request`; what is our own fault is logged."""
    headers: dict[str, str] = {}
    log_error(error)
    code, detail = _explain(error)
    if (code, detail) == _BY_STATUS[404] and (lacking := request.app.state.get("lacking")):
        detail += f" This service keeps {lacking}."
    if isinstance(error, NotSignedIn):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, (Unavailable, RequestInProgress, TooManyAttempts, TooManyRequests)):
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, UploadConflict):
        headers["Upload-Offset"] = str(error.received)
    if isinstance(error, RangeNotSatisfiable):
        headers["Content-Range"] = f"bytes */{error.size}"
    if code == "method_not_allowed":
        headers["Allow"] = ", ".join(allowed_methods(request.scope))
    kind = KINDS[code]
    if isinstance(error, ImportRejected):
        return problem_reply(_import_problem(request, kind, error), headers)
    if isinstance(error, ChangesGone):
        gone = msgspec.structs.asdict(problem_for(request, kind, detail))
        return problem_reply(ChangesGoneProblem(**gone, horizon=error.horizon), headers)
    faults = tuple(error.faults) if isinstance(error, Invalid) else ()
    if isinstance(error, Invalid) and code == "validation":
        kind = msgspec.structs.replace(kind, title=f"Invalid {error.subject}")
    return problem_reply(problem_for(request, kind, detail, faults), headers)


def log_error(error: Exception) -> None:
    """Log `error` if it is not the client's; where it is, only whoever looks for faults wants to know.

    What the client sent is never told.
    """
    known = about.get()()  # said here as well, for logs that somebody has configured in another way
    if isinstance(error, Unavailable):
        _log.warning("unavailable", **known, dependency=error.dependency, reason=str(error))
    elif (code := _explain(error)[0]) == "internal":
        _log.error("unhandled error", **known, exc_info=error)
    else:
        faults = sorted({fault.code for fault in error.faults}) if isinstance(error, Invalid) else []
        _log.debug("refused", **known, problem=code, error=type(error).__name__, faults=faults)


def _import_problem(request: Request, kind: Kind, error: ImportRejected) -> ImportProblem:
    report = error.report
    faults = (
        msgspec.structs.replace(fault, detail=f"line {rejection.line}: {fault.detail}")
        for rejection in report.rejected
        for fault in rejection.errors
    )
    problem = problem_for(request, kind, str(error), tuple(islice(faults, MAX_FAULTS)))
    return ImportProblem(**msgspec.structs.asdict(problem), **msgspec.structs.asdict(report))


def problem_for(request: Request, kind: Kind, detail: str, faults: tuple[Fault, ...] = ()) -> Problem:
    """What tells `kind` to the client of `request`."""
    return _problem(request.scope, kind, detail, faults)


def is_problem(headers: Collection[tuple[bytes, bytes]]) -> bool:
    """Whether a reply with these headers is a problem."""
    return (b"content-type", _MEDIA_TYPE.encode()) in headers


def stopping_reply(scope: Scope) -> Answer:
    """The reply to a request that the stop of the service cuts."""
    problem = _problem(scope, KINDS["unavailable"], "The service is stopping.")
    return _answer(problem, (b"retry-after", b"1"))


def late_reply(scope: Scope) -> Answer:
    """The reply to a request that takes too long."""
    problem = _problem(
        scope, KINDS["timeout"], "The request took too long, and what became of it is not known."
    )
    return _answer(problem, (b"retry-after", b"1"))


def busy_reply(scope: Scope) -> Answer:
    """The reply to a request that comes while there are too many others."""
    problem = _problem(scope, KINDS["unavailable"], "Too many requests are being answered.")
    return _answer(problem, (b"retry-after", b"1"))


def other_method_reply(scope: Scope) -> Answer:
    """The reply to a request by a method that no address takes."""
    allowed = allowed_methods(scope) or [*METHODS, "HEAD", "OPTIONS"]
    problem = _problem(scope, KINDS["method_not_allowed"], "This service does not take this method.")
    return _answer(problem, (b"allow", ", ".join(allowed).encode()))


def malformed_reply(scope: Scope, detail: str) -> Answer:
    """The reply to a request that is not HTTP as this service speaks it."""
    return _answer(_problem(scope, KINDS["malformed_request"], detail))


def nothing_reply(scope: Scope) -> Answer:
    """The reply to a request for an address that nothing can be at."""
    code, detail = _BY_STATUS[404]
    return _answer(_problem(scope, KINDS[code], detail))


def failing_reply(scope: Scope) -> Answer:
    """The reply to a request for which there was none, for an error of ours that nothing else has handled."""
    return _answer(_problem(scope, KINDS["internal"], _OURS))


def _answer(problem: Problem, *headers: tuple[bytes, bytes]) -> Answer:
    body = _encode(problem)
    length = (b"content-length", b"%d" % len(body))
    return Answer(problem.status, ((b"content-type", _MEDIA_TYPE.encode()), length, *headers), body)


def _problem(scope: Scope, kind: Kind, detail: str, faults: tuple[Fault, ...] = ()) -> Problem:
    scope[PROBLEM] = kind.code  # type: ignore[typeddict-unknown-key] # ASGI lets applications add keys
    return Problem(
        type=f"/problems/{kind.code}",
        title=kind.title,
        status=kind.status,
        detail=detail,
        instance=path_of(scope),
        code=kind.code,
        request_id=request_id_of(scope),
        errors=faults,
    )


def problem_reply(problem: Problem, headers: Mapping[str, str]) -> Response[bytes]:
    """The reply that is `problem`."""
    return Response(
        _encode(problem),
        status_code=problem.status,
        media_type=_MEDIA_TYPE,
        headers=dict(headers),
    )


def _explain(error: Exception) -> tuple[str, str]:
    for ancestor in type(error).__mro__:
        if code := _BY_ERROR.get(ancestor):
            if code == "unavailable":
                return code, "A part that this service depends on does not answer."
            return code, str(error)
    if isinstance(error, HTTPException) and error.status_code in _BY_STATUS:
        return _BY_STATUS[error.status_code]
    return "internal", _OURS
