"""The OpenAPI document, made from what each route says of itself.

Handlers read and write bytes, so that decoding is as strict as the contract; what those bytes hold is
said by an `Operation` beside the route.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from http import HTTPStatus
from inspect import cleandoc
from typing import Final, TypeAlias

import msgspec
from litestar.routes import BaseRoute, HTTPRoute

from watchly_core.movies import MAX_ID
from watchly_core.people import Permission
from watchly_http.links import links_of

Json: TypeAlias = dict[str, object]
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


def document(  # noqa: PLR0913, PLR0917 - each is a part of its own
    routes: Iterable[BaseRoute],
    problem: type[object],
    statuses: Mapping[str, int],
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
    schemas = _Schemas(problem, [kind for _, _, operation, _ in found for kind in _types(operation)])
    here = frozenset(operation.id for _, _, operation, _ in found)
    paths: dict[str, dict[str, Json]] = {}
    for path, method, operation, description in sorted(found, key=lambda item: item[:2]):
        paths.setdefault(path, {})[method] = _operation(
            operation, description, schemas, statuses, everybody, here, counted=is_counted(path)
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Watchly",
            "version": version,
            "summary": "A movie catalogue.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in sorted({operation.tag for _, _, operation, _ in found})],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {
                _BEARER: {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An access token from `/api/auth/login`, or an API key.",
                }
            },
        },
    }


class _Schemas:
    def __init__(self, problem: type[object], kinds: Iterable[type[object]]) -> None:
        unique = tuple(dict.fromkeys((problem, *kinds)))
        refs, components = msgspec.json.schema_components(unique, ref_template="#/components/schemas/{name}")
        self._refs = dict(zip(unique, refs, strict=True))
        self.problem = self._refs[problem]
        self.components: dict[str, Json] = {}
        # In an order that does not change from process to process.
        for name, schema in sorted(components.items()):
            self.components[name] = schema
            if isinstance(text := schema.get("description"), str):
                schema["description"] = cleandoc(text)

    def __getitem__(self, kind: type[object]) -> Json:
        # Raw bytes need no schema (OpenAPI 3.1, section 4.8.14.3).
        return {} if kind is bytes else self._refs[kind]


def _types(operation: Operation) -> Iterator[type[object]]:
    yield from (reply.type for reply in operation.replies.values() if reply.type)
    yield from operation.body.values()
    yield from (parameter.type for parameter in operation.parameters)


def _operation(  # noqa: PLR0913, PLR0917 - what all operations of a document have in common
    operation: Operation,
    description: str,
    schemas: _Schemas,
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
    described: Json = {
        "operationId": operation.id,
        "summary": operation.summary,
        "description": description,
        "tags": [operation.tag],
        "security": _security(operation.needs, everybody),
        "responses": {
            **_problems(dict.fromkeys(problems), schemas.problem, statuses, always),
            **{
                str(status): _reply(
                    reply, schemas, always, replayed=keyed and status < HTTPStatus.BAD_REQUEST
                )
                | ({"links": links} if links and status < HTTPStatus.MULTIPLE_CHOICES else {})
                for status, reply in operation.replies.items()
            },
        },
    }
    if operation.parameters:
        described["parameters"] = [_parameter(parameter, schemas) for parameter in operation.parameters]
    if operation.body:
        content = {media: {"schema": schemas[kind]} for media, kind in operation.body.items()}
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


def _parameter(parameter: Parameter, schemas: _Schemas) -> Json:
    described: Json = {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.place == "path",
        "description": parameter.description,
        "schema": schemas[parameter.type],
    }
    if parameter.pattern is not None:
        described["schema"] = {**schemas[parameter.type], "pattern": parameter.pattern}
    if parameter.example is not None:
        described["example"] = parameter.example
    return described


def _reply(reply: Reply, schemas: _Schemas, always: tuple[str, ...], *, replayed: bool) -> Json:
    names = (*reply.headers, *(("Idempotency-Replayed",) if replayed else ()), *always)
    described: Json = {
        "description": reply.description,
        "headers": {name: _header(name) for name in names},
    }
    if reply.type is not None:
        described["content"] = {media: {"schema": schemas[reply.type]} for media in reply.media_types}
    return described


def _problems(
    codes: Iterable[str], schema: Json, statuses: Mapping[str, int], always: tuple[str, ...]
) -> Json:
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(statuses[code], []).append(code)
    return {
        str(status): {
            "description": f"{HTTPStatus(status).phrase}: {', '.join(sorted(names))}.",
            "headers": {
                name: _header(name)
                for name in (
                    *always,
                    *(_PROBLEM_HEADERS[code] for code in names if code in _PROBLEM_HEADERS),
                )
            },
            "content": {"application/problem+json": {"schema": schema}},
        }
        for status, names in sorted(by_status.items())
    }


def _header(name: str) -> Json:
    description, example = _HEADERS[name]
    return {"description": description, "schema": {"type": "string"}, "example": example}
