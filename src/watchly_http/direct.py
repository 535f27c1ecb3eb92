"""Direct: the reads that are asked for most, answered without the framework's way to their routes.

They pass the same checks and end in the same functions as on their routes, so their replies are the same to
the byte. Whatever is not plain about a request is left to the route. Decision 22 tells what that saves.
"""

from __future__ import annotations

import re
from typing import Final

import litestar
from litestar import Litestar
from litestar.enums import HttpMethod, ScopeType
from litestar.types import HTTPScope, Receive, Scope, Send

from watchly_http.movies import list_movies, read_movie
from watchly_http.parts import Reading, Settings
from watchly_http.problems import reply_to_error
from watchly_http.requests import Check, Request

_MOVIES: Final = "/api/movies"
_MOVIE: Final = "/api/movies/"

#: A Host that Litestar takes; about any other it has its own say.
_HOST: Final = re.compile(rb"[A-Za-z0-9.-]{1,253}(?::[0-9]{1,5})?")


class Direct:
    """An ASGI application before that of `app`, which answers the most frequent reads itself.

    Args:
        app: whose routes they are.
        check: what every request has to pass.
        reading: the catalogue for reads.
        settings: the settings.
    """

    def __init__(self, app: Litestar, check: Check, reading: Reading, settings: Settings) -> None:
        self._app, self._check = app.asgi_handler, check
        self._reading, self._settings = reading, settings
        find = app.asgi_router.handle_routing
        _, self._list_handler, _, _, self._list_template = find(path=_MOVIES, method="GET")
        _, self._one_handler, _, _, self._one_template = find(path=f"{_MOVIE}1", method="GET")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let its route do so."""
        if scope["type"] != ScopeType.HTTP or not self._take(scope):
            await self._app(scope, receive, send)
            return
        request: Request = litestar.Request(scope, receive)
        try:
            await self._check(request)
            if scope["path_params"]:
                answer = await read_movie(request, scope["path_params"]["movie_id"], self._reading)
            else:
                answer = await list_movies(request, self._reading, self._settings)
        except Exception as error:  # noqa: BLE001 - the map of errors knows what it is to the client
            problem = reply_to_error(request, error).to_asgi_response(app=None, request=request)
            await problem(scope, receive, send)
        else:
            await answer(scope, receive, send)

    def _take(self, scope: HTTPScope) -> bool:
        """Whether a request is for one of the reads and plain; if so, it is marked as the router does."""
        path, parameters = scope["path"], {}
        if scope["method"] != HttpMethod.GET or scope.get("root_path"):
            return False
        if path == _MOVIES:
            handler, template = self._list_handler, self._list_template
        elif path.startswith(_MOVIE) and (movie_id := path[len(_MOVIE) :]).isdecimal():
            handler, template = self._one_handler, self._one_template
            parameters["movie_id"] = movie_id
        else:
            return False
        for name, value in scope["headers"]:
            if name == b"origin" or (name == b"host" and _HOST.fullmatch(value) is None):
                return False
        scope["route_handler"] = handler
        scope["path_template"], scope["path_params"] = template, parameters
        return True
