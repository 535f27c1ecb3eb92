"""Routes: controllers that an application takes in quickly.

Litestar reads the signature of each handler anew for every application, which is most of what one costs to
make. It depends on the function alone, as no application here gives names to read signatures by.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from types import FunctionType, MethodType
from typing import Final

from litestar import Controller, HttpMethod, MediaType, Response
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
from litestar.utils.signature import ParsedSignature


class Routes(Controller):
    """The base of all controllers here."""

    def get_route_handlers(self) -> list[BaseRouteHandler]:
        """The handlers, whose signatures were read once, and those that tell which methods there are."""
        handlers = super().get_route_handlers()
        methods: defaultdict[str, set[str]] = defaultdict(lambda: {HttpMethod.OPTIONS})
        for handler in handlers:
            if isinstance(handler, HTTPRouteHandler):
                for path in handler.paths:
                    methods[path].update(handler.http_methods)
        handlers += [_telling(path, sorted(found), self) for path, found in methods.items()]
        for handler in handlers:
            fn = handler.fn
            if isinstance(fn, MethodType) and isinstance(fn.__func__, FunctionType):
                handler._parsed_fn_signature = _signature(fn.__func__)  # noqa: SLF001 - where it keeps it
            else:
                handler._parsed_fn_signature = _TELLING  # noqa: SLF001 - as above
        return handlers


@cache
def _signature(function: FunctionType) -> ParsedSignature:
    """That of a method without its self: there are as many as the code has."""
    return ParsedSignature.from_fn(MethodType(function, object()), {})


def _telling(path: str, methods: list[str], owner: Routes) -> HTTPRouteHandler:
    """What answers OPTIONS; Litestar's own would be one more signature to read."""
    allow = ", ".join(methods)

    async def options() -> Response[None]:
        return Response(None, status_code=204, headers={"Allow": allow}, media_type=MediaType.TEXT)

    handler = HTTPRouteHandler(
        path, http_method=HttpMethod.OPTIONS, status_code=204, include_in_schema=False
    )(options)
    handler.owner = owner
    return handler


def _tell() -> Response[None]:
    raise NotImplementedError


def _provide() -> object:
    raise NotImplementedError


#: The signature of what provides handlers with their parts.
PROVIDES: Final = ParsedSignature.from_fn(_provide, {})
_TELLING: Final = ParsedSignature.from_fn(_tell, {})
