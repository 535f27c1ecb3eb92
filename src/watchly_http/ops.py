"""The routes for those who integrate it: problems, documentation."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Final

import litestar_offline_docs
import msgspec
from litestar import MediaType, Response, get
from litestar.datastructures import State
from litestar.params import FromPath

from watchly_core.errors import NotFound
from watchly_http.openapi import OPEN, SHOWN, Operation, Parameter, Reply
from watchly_http.problems import KINDS, Kind
from watchly_http.routes import Routes

_encode = msgspec.json.Encoder().encode


class Kinds(msgspec.Struct):
    """The problems that replies can name."""

    data: list[Kind]


class ProblemController(Routes):
    """What the codes of problems mean."""

    path = "/problems"

    @get(
        "/",
        opt=Operation(
            "listProblems",
            "List the problems",
            {200: Reply("All of them.", Kinds)},
            needs=None,
            tag="Operations",
        ).opt(),
    )
    async def all(self) -> Response[bytes]:
        """List every problem that a reply can be."""
        return Response(_encode(Kinds(list(KINDS.values()))), media_type=MediaType.JSON)

    @get(
        "/{code:str}",
        opt=Operation(
            "getProblem",
            "Explain a problem",
            {200: Reply("What it means.", Kind)},
            needs=None,
            tag="Operations",
            parameters=(Parameter("code", "The problem's code.", str, "validation", place="path"),),
            problems=("not_found",),
        ).opt(),
    )
    async def one(self, code: FromPath[str]) -> Response[bytes]:
        """Explain one problem: the address is the `type` of a problem reply."""
        if code not in KINDS:
            raise NotFound("no problem has this code")
        return Response(_encode(KINDS[code]), media_type=MediaType.JSON)


class DocumentationController(Routes):
    """The API described, for people and for programs."""

    @get("/openapi.json", opt=OPEN, sync_to_thread=True)
    def openapi(self, state: State) -> Response[bytes]:
        """The OpenAPI document."""
        return Response(state.openapi(), media_type=MediaType.JSON)

    @get("/docs", opt={**OPEN, SHOWN: "page"})
    async def docs(self) -> Response[str]:
        """A page to read and try the API with; it loads nothing from elsewhere."""
        return Response(_PAGE, media_type=MediaType.HTML)

    @get("/docs/assets/{name:str}", opt=OPEN, sync_to_thread=True)
    def asset(self, name: FromPath[str]) -> Response[bytes]:
        """The script and the style of that page, from a wheel."""
        if name not in _ASSETS:
            raise NotFound("the documentation has no such file")
        content = Path(litestar_offline_docs.__file__).with_name("static").joinpath(name).read_bytes()
        return Response(content, media_type=_ASSETS[name], headers={"Cache-Control": "max-age=86400"})


_ASSETS: Final = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}
_SCRIPT: Final = """
SwaggerUIBundle({url: "/openapi.json", dom_id: "#api", deepLinking: true, validatorUrl: null})
"""
#: What that page may do: run its own scripts, and ask this service. Its library sets styles itself, and has
#: its pictures in them.
PAGE_POLICY: Final = (
    "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; connect-src 'self';"
    f" script-src 'self' 'sha256-{b64encode(sha256(_SCRIPT.encode()).digest()).decode()}';"
    " style-src 'self' 'unsafe-inline'; img-src 'self' data:"
)
_PAGE: Final = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Watchly API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/assets/swagger-ui.css">
<div id="api"></div>
<script src="/docs/assets/swagger-ui-bundle.js"></script>
<script>{_SCRIPT}</script>
</html>
"""
