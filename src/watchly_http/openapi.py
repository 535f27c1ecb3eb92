"""The OpenAPI document, made from what each route says of itself.

Handlers read and write bytes, so that decoding is as strict as the contract; what those bytes hold is
said by an `Operation` beside the route.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from http import HTTPStatus
from inspect import cleandoc
from typing import Final, TypeAlias

import msgspec
from litestar.routes import BaseRoute, HTTPRoute

from watchly_core.movies import MAX_ID
from watchly_core.people import Permission
from watchly_http.links import links_of
from watchly_http.schemas import Json, Schemas

Type: TypeAlias = type[object] | None

#: The header of writes, and of the reads that have to see them.
POSITION: Final = "Watchly-Position"

_HEADERS: Final[Mapping[str, tuple[str, str]]] = {
    "ETag": ('The version of the movie or user, such as "v3", or the key of an image.', '"v3"'),
    "Location": ("Where what is new can be found.", "/api/movies/7"),
    "X-Request-ID": ("The id under which the request is logged.", "6f1c0a9e5b7d4e53a2c1d0f4b8a97e31"),
    "Retry-After": ("Seconds after which to try again.", "1"),
    "WWW-Authenticate": ("How to say who one is.", "Bearer"),
    "Allow": ("The methods of this address.", "GET, HEAD, POST"),
    "Preference-Applied": ("The preferences of the request that were followed.", "count=exact"),
    "Content-Disposition": ("The name to save it under.", 'attachment; filename="movies.csv"'),
    "Accept-Ranges": ("In what units parts can be asked for.", "bytes"),
    "Content-Range": ("Which bytes these are, and of how many.", "bytes 0-1023/81234"),
    "Upload-Offset": ("How many bytes of the upload are there: the next piece begins with this one.", "1000"),
    POSITION: ("What a read sends back that has to see this write.", "0/1B27F30-5a1e6c93f"),
    "Watchly-Image": ("`gone` where the image of that version is not kept any more.", "gone"),
    "Cache-Control": ("Whether it may be kept, and how long.", "no-store"),
    "Set-Cookie": ("The refresh token, where it travels as a cookie.", "watchly_refresh=…; HttpOnly"),
    "RateLimit": ("How many more requests there may be, and in how many seconds anew.", '"default";r=9;t=30'),
    "RateLimit-Policy": ("How many requests there may be in how many seconds.", '"default";q=600;w=60'),
    "Idempotency-Replayed": ("That this is the reply to the request as it was sent first.", "true"),
    "Vary": ("The header of the request that chose this form of the reply.", "Accept"),
}
#: The headers of problems beside the id of the request, by the code.
_PROBLEM_HEADERS: Final[Mapping[str, str]] = {
    "method_not_allowed": "Allow",
    "unavailable": "Retry-After",
    "timeout": "Retry-After",
    "too_many_attempts": "Retry-After",
    "too_many_requests": "Retry-After",
    "not_signed_in": "WWW-Authenticate",
    "request_in_progress": "Retry-After",
    "upload_conflict": "Upload-Offset",
    "range_not_satisfiable": "Content-Range",
}
#: The problems that every operation can end with.
_ALWAYS: Final = ("method_not_allowed", "internal", "unavailable", "timeout")
#: Those of the operations that are counted, and what all their replies have.
_OF_LIMITS: Final = ("too_many_requests",)
_LIMITS: Final = ("RateLimit-Policy", "RateLimit")
#: Those of the operations that read a body.
_OF_BODIES: Final = ("request_timeout",)
#: Those of the operations whose requests may be sent again.
_OF_KEYS: Final = ("request_in_progress", "key_reused")
_KEY: Final = "operation"
#: Where it stands in the `opt` of a handler that its replies tell a position, and what permission it takes.
TELLS_POSITION: Final = "tells_position"
NEEDS: Final = "needs"
#: That its reply has no end once it has begun, and how browsers show it: as "page", "image", or not at all.
ENDLESS: Final = "endless"
SHOWN: Final = "shown"
#: The `opt` of a handler that is no operation of the API, and asks nobody who they are.
OPEN: Final[Mapping[str, object]] = {NEEDS: None}

#: What requests bear, as the document calls it.
_BEARER: Final = "bearer"
_PROBLEM: Final = "application/problem+json"
#: What the tags of operations are about.
_TAGS: Final[Mapping[str, str]] = {
    "Changes": "The log of what happened to movies: to read, to follow, and to go back by.",
    "Images": "The images of movies, sent here or straight to where they are kept.",
    "Movies": "The movies of the catalogue, one by one, in pages, and all together.",
    "Operations": "What runs: its health, its figures, and what its problems mean.",
    "People": "Who may do what: sessions, users and API keys.",
}


class Parameter(msgspec.Struct, frozen=True):
    """A parameter of an operation."""

    name: str
    description: str
    type: type[object]
    example: str | int | bool | None = None
    place: str = "query"
    pattern: str | None = None


class Reply(msgspec.Struct, frozen=True):
    """A reply that is no problem; `type` is None for one without a body."""

    description: str
    type: Type = None
    media_types: tuple[str, ...] = ("application/json",)
    headers: tuple[str, ...] = ()


class Operation(msgspec.Struct, frozen=True):
    """What a route says of itself.

    `needs` is the permission that it takes; with None nobody is asked who they are. `problems` are the codes
    of `problems.KINDS` that it can end with.
    """

    id: str
    summary: str
    replies: Mapping[int, Reply]
    needs: Permission | None
    tag: str = "Movies"
    parameters: tuple[Parameter, ...] = ()
    body: Mapping[str, type[object]] = {}
    body_required: bool = True
    problems: tuple[str, ...] = ()

    def __deepcopy__(self, memo: object) -> Operation:
        """This one: nothing of it changes, and Litestar copies handlers with all that they hold."""
        return self

    def opt(self) -> Json:
        """This operation as the `opt` of a handler."""
        replies = self.replies.values()
        media_types = {media_type for reply in replies for media_type in reply.media_types}
        return {
            _KEY: self,
            NEEDS: self.needs,
            TELLS_POSITION: any(POSITION in reply.headers for reply in replies),
            ENDLESS: "text/event-stream" in media_types,
            SHOWN: "image" if "image/*" in media_types else None,
        }


MOVIE_ID: Final = Parameter(
    "movie_id", f"The movie's id: a plain decimal from 1 to {MAX_ID}.", int, 7, place="path"
)
KEY: Final = Parameter("key", "The image's key.", str, "0123456789abcdef0123456789abcdef", place="path")
PURGE: Final = Parameter("purge", "Whether the images go without a grace period.", bool, example=False)
IF_MATCH: Final = Parameter(
    "If-Match", "Write only if it is at this version still.", str, '"v3"', place="header"
)
IF_NONE_MATCH: Final = Parameter(
    "If-None-Match", "Answer 304 if it is at this version still.", str, '"v3"', place="header"
)
IDEMPOTENCY_KEY: Final = Parameter(
    "Idempotency-Key",
    "Names the request: if it is sent again within 24 hours, it is not done again and the reply is the same.",
    str,
    "0f9d3f64-5f0e-4c0e-9f0b-2f9f5b8f1c55",
    place="header",
    pattern="^[!-~]{1,255}$",
)


class Examples(msgspec.Struct, frozen=True):
    """What bodies look like: values of their types, texts by media types, problems by their codes."""

    values: Sequence[msgspec.Struct]
    texts: Mapping[str, str]
    problems: Mapping[str, msgspec.Struct]


def document(  # noqa: PLR0913, PLR0917 - each is a part of its own
    routes: Iterable[BaseRoute],
    problem: type[object],
    statuses: Mapping[str, int],
    examples: Examples,
    version: str,
    everybody: frozenset[Permission],
    is_counted: Callable[[str], bool],
) -> Json:
    """The OpenAPI 3.1 document of `routes`, at which everybody may do what `everybody` says.

    `statuses` are those of the problems by their codes; `is_counted` tells at which addresses there is a
    limit of requests.
    """
    found = [
        (route.path_format, method.lower(), operation, cleandoc(handler.fn.__doc__ or ""))
        for route in routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        if isinstance(operation := handler.opt.get(_KEY), Operation)
        for method in sorted(handler.http_methods)
    ]
    operations = [operation for _, _, operation, _ in found]
    schemas = Schemas(
        sent=[body for operation in operations for body in operation.body.items()],
        got=[problem, *(reply.type for one in operations for reply in one.replies.values() if reply.type)],
        others=[parameter.type for operation in operations for parameter in operation.parameters],
        examples=examples.values,
    )
    bodies = _Bodies(schemas, schemas.of(problem), examples.texts)
    here = frozenset(operation.id for operation in operations)
    paths: dict[str, dict[str, Json]] = {}
    for path, method, operation, description in sorted(found, key=lambda item: item[:2]):
        paths.setdefault(path, {})[method] = _operation(
            operation, description, bodies, statuses, everybody, here, counted=is_counted(path)
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Watchly",
            "version": version,
            "summary": "A movie catalogue.",
            "description": "What goes wrong is told as a problem (RFC 9457), whose `code` says what it is.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": name, "description": _TAGS[name]}
            for name in sorted({operation.tag for operation in operations})
        ],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "examples": {
                code: {"summary": f"The problem `{code}`.", "value": msgspec.to_builtins(example)}
                for code, example in sorted(examples.problems.items())
                if code in bodies.told
            },
            "securitySchemes": {
                _BEARER: {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An access token from `/api/auth/login`, or an API key.",
                }
            },
        },
    }


class _Bodies(msgspec.Struct, frozen=True):
    """What bodies are, and look like; `told` are the codes of the problems among them."""

    schemas: Schemas
    problem: Json
    texts: Mapping[str, str]
    told: set[str] = msgspec.field(default_factory=set)

    def of(self, kind: type[object], media_types: Iterable[str]) -> Json:
        """The content of a body that has a type, in each of some media types."""
        content: Json = {}
        for media_type in media_types:
            described: Json = {"schema": self.schemas.content(kind, media_type)}
            if kind is bytes and media_type in self.texts:
                described["example"] = self.texts[media_type]
            content[media_type] = described
        return content

    def problems(self, codes: Collection[str], kind: Type) -> Json:
        """The content of a reply that is one of some problems, or one that has members of its own."""
        schema = {"anyOf": [self.schemas.of(kind), self.problem]} if kind else self.problem
        self.told.update(codes)
        examples = {code: {"$ref": f"#/components/examples/{code}"} for code in sorted(codes)}
        return {"schema": schema, "examples": examples}


def _operation(  # noqa: PLR0913, PLR0917 - what all operations of a document have in common
    operation: Operation,
    description: str,
    bodies: _Bodies,
    statuses: Mapping[str, int],
    everybody: frozenset[Permission],
    here: Collection[str],
    *,
    counted: bool,
) -> Json:
    always = ("X-Request-ID", *(_LIMITS if counted else ()))
    keyed = IDEMPOTENCY_KEY in operation.parameters
    links = links_of(operation.id, here)
    problems = (
        *operation.problems,
        *(_OF_BODIES if operation.body else ()),
        *(_OF_KEYS if keyed else ()),
        *(_OF_LIMITS if counted else ()),
        *_refusals(operation.needs, everybody),
        *_ALWAYS,
    )
    by_status: dict[int, list[str]] = {status: [] for status in operation.replies}
    for code in dict.fromkeys(problems):
        by_status.setdefault(statuses[code], []).append(code)
    responses: dict[str, Json] = {}
    for status, codes in sorted(by_status.items()):
        good = status < HTTPStatus.BAD_REQUEST
        also = (*always, "Idempotency-Replayed") if keyed and good else always
        responses[str(status)] = _response(status, operation.replies.get(status), codes, bodies, also)
        if links and status < HTTPStatus.MULTIPLE_CHOICES:
            responses[str(status)]["links"] = links
    described: Json = {
        "operationId": operation.id,
        "summary": operation.summary,
        "description": description,
        "tags": [operation.tag],
        "security": _security(operation.needs, everybody),
        "responses": responses,
    }
    if operation.parameters:
        described["parameters"] = [
            _parameter(parameter, bodies.schemas) for parameter in operation.parameters
        ]
    if operation.body:
        content: Json = {}
        for media_type, kind in operation.body.items():
            content |= bodies.of(kind, (media_type,))
        described["requestBody"] = {"required": operation.body_required, "content": content}
    return described


def _security(needs: Permission | None, everybody: frozenset[Permission]) -> list[dict[str, list[str]]]:
    """Who is let in; the permission stands where roles do (OpenAPI 3.1, section 4.8.30)."""
    if needs is None:
        return []
    borne = {_BEARER: [needs.value]}
    return [{}, borne] if needs in everybody else [borne]


def _refusals(needs: Permission | None, everybody: frozenset[Permission]) -> tuple[str, ...]:
    if needs is None:
        return ()
    # A token that is not good is told, also where none is needed.
    return ("not_signed_in",) if needs in everybody else ("not_signed_in", "not_allowed")


def _parameter(parameter: Parameter, schemas: Schemas) -> Json:
    described: Json = {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.place == "path",
        "description": parameter.description,
        "schema": schemas.of(parameter.type),
    }
    if parameter.pattern is not None:
        described["schema"] = {**schemas.of(parameter.type), "pattern": parameter.pattern}
    if parameter.example is not None:
        described["example"] = parameter.example
    return described


def _response(
    status: int, reply: Reply | None, codes: Sequence[str], bodies: _Bodies, always: tuple[str, ...]
) -> Json:
    """What a status means: a reply of its own, one of some problems, or either."""
    names = (*(reply.headers if reply else ()), *always, *(_PROBLEM_HEADERS.get(code) for code in codes))
    listed = f"{HTTPStatus(status).phrase}: {', '.join(sorted(codes))}."
    described: Json = {
        "description": reply.description if reply else listed,
        "headers": {name: _header(name) for name in dict.fromkeys(names) if name is not None},
    }
    if codes:
        described["content"] = {_PROBLEM: bodies.problems(codes, reply.type if reply else None)}
    elif reply is not None and reply.type is not None:
        described["content"] = bodies.of(reply.type, reply.media_types)
    return described


def _header(name: str) -> Json:
    description, example = _HEADERS[name]
    return {"description": description, "schema": {"type": "string"}, "example": example}
