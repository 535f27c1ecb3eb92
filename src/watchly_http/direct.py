"""Direct: what is asked for most, movies and images, without the framework's way to their routes.

Requests pass the same checks and end in the same functions as on their routes, so the replies are the same to
the byte. Whatever is not plain about a request is left to the route. Decision 22 tells what that saves.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final, NamedTuple, TypeAlias

import litestar
from litestar import Litestar
from litestar.enums import ScopeType
from litestar.exceptions import NotFoundException
from litestar.types import HTTPScope, Receive, RouteHandlerType, Scope, Send

from watchly_core.images import is_key
from watchly_http.answers import Answer, AnyAnswer
from watchly_http.image_files import load_image
from watchly_http.movies import (
    add_movie,
    list_movies,
    read_movie,
    remove_movie,
    replace_movie,
    revise_movie,
)
from watchly_http.parts import Catalogue, Gallery, Reading, Settings
from watchly_http.problems import reply_to_error
from watchly_http.requests import Check, Request

_MOVIES: Final = "/api/movies"
_MOVIE: Final = "/api/movies/"
_IMAGE: Final = "/images/"

#: A Host that Litestar takes; about any other it has its own say.
_HOST: Final = re.compile(rb"[A-Za-z0-9.-]{1,253}(?::[0-9]{1,5})?")


#: As Litestar answers for a handler that returns nothing.
_GONE: Final = Answer(204, (), b"")

#: Answers a request, which may be for the movie with this id, or for the image with this key.
_Respond: TypeAlias = Callable[[Request, str], Awaitable[AnyAnswer]]


class _Way(NamedTuple):
    """What the router would find for a method at an address, and what answers there."""

    handler: RouteHandlerType
    template: str
    respond: _Respond


class Direct:
    """An ASGI application before that of `app`, which answers the most frequent requests itself.

    Args:
        app: whose routes they are.
        check: what every request has to pass.
        reading: the catalogue for reads.
        catalogue: the one for writes.
        gallery: the images, if there are any.
        settings: the settings.
    """

    def __init__(  # noqa: PLR0913 - each is a part of its own
        self,
        app: Litestar,
        check: Check,
        *,
        reading: Reading,
        catalogue: Catalogue,
        gallery: Gallery | None,
        settings: Settings,
    ) -> None:
        async def remove(request: Request, movie_id: str) -> Answer:
            await remove_movie(request, movie_id, catalogue)
            return _GONE

        self._app, self._check = app.asgi_handler, check
        self._to_all = _ways(
            app,
            _MOVIES,
            {
                "GET": lambda request, _: list_movies(request, reading, settings),
                "POST": lambda request, _: add_movie(request, catalogue, gallery, settings),
            },
        )
        self._to_one = _ways(
            app,
            f"{_MOVIE}1",
            {
                "GET": lambda request, movie_id: read_movie(request, movie_id, reading),
                "PUT": lambda request, movie_id: replace_movie(request, movie_id, catalogue, settings),
                "PATCH": lambda request, movie_id: revise_movie(request, movie_id, catalogue, settings),
                "DELETE": remove,
            },
        )
        self._to_image = {} if gallery is None else _to_image(app, gallery, settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let its route do so."""
        if scope["type"] != ScopeType.HTTP or (way := self._way(scope)) is None:
            await self._app(scope, receive, send)
            return
        request: Request = litestar.Request(scope, receive)
        try:
            await self._check(request)
            answer = await way.respond(request, next(iter(scope["path_params"].values()), ""))
        except Exception as error:  # noqa: BLE001 - the map of errors knows what it is to the client
            problem = reply_to_error(request, error).to_asgi_response(app=None, request=request)
            await problem(scope, receive, send)
        else:
            await answer(scope, receive, send)

    def _way(self, scope: HTTPScope) -> _Way | None:
        """The way to what a request is for, if it is plain; it is then marked as the router does."""
        path, parameters = scope["path"], {}
        if path == _MOVIES:
            way = self._to_all.get(scope["method"])
        elif path.startswith(_MOVIE) and (movie_id := path[len(_MOVIE) :]).isdecimal():
            way = self._to_one.get(scope["method"])
            parameters["movie_id"] = movie_id
        elif path.startswith(_IMAGE) and is_key(key := path[len(_IMAGE) :]):
            way = self._to_image.get(scope["method"])
            parameters["key"] = key
        else:
            return None
        if way is None or scope.get("root_path"):
            return None
        for name, value in scope["headers"]:
            if name == b"origin" or (name == b"host" and _HOST.fullmatch(value) is None):
                return None
        scope["route_handler"] = way.handler
        scope["path_template"], scope["path_params"] = way.template, parameters
        return way


def _to_image(app: Litestar, gallery: Gallery, settings: Settings) -> dict[str, _Way]:
    return _ways(app, f"{_IMAGE}1", {"GET": lambda request, key: load_image(request, key, gallery, settings)})


def _ways(app: Litestar, path: str, by_method: Mapping[str, _Respond]) -> dict[str, _Way]:
    """The ways by their methods; none where `app` has no such address."""
    ways = {}
    for method, respond in by_method.items():
        with suppress(NotFoundException):
            _, handler, _, _, template = app.asgi_router.handle_routing(path=path, method=method)
            ways[method] = _Way(handler, template, respond)
    return ways
