"""Origins: which pages may have the cookie that keeps somebody signed in.

Browsers send it along whoever made the page that asks; `Origin` tells who did (RFC 6454). That it is a cookie
for the same site only keeps other sites out, but not what else is on this one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from litestar.config.cors import CORSConfig
from litestar.types import Scope

from watchly_adapters.settings import Settings
from watchly_core.errors import WatchlyError
from watchly_http.requests import Request, header_of

_PORTS: Final = {"http": 80, "https": 443}
_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_OURS: Final = frozenset({"same-origin", "same-site", "none"})

#: The headers that show a reply to the page which asked for it.
Sharing: TypeAlias = Callable[[Scope], tuple[tuple[bytes, bytes], ...]]


class ForeignOrigin(WatchlyError):
    """A page that is none of ours would have what is not for it."""

    def __init__(self, what: str = "use the cookie") -> None:
        super().__init__(f"a page of this origin may not {what}")


def trusted_origins(settings: Settings) -> frozenset[str]:
    """The origins whose pages may use the cookie: those of CORS_ORIGINS that are written out.

    None of them where it holds `*`, for browsers show replies to such requests to origins by their name only.
    Patterns are for other replies: what their hosts are, and who makes their pages, is not known in advance.
    """
    if "*" in settings.cors_origins:
        return frozenset()
    return frozenset(origin for origin in settings.cors_origins if "*" not in origin)


def require_own_page(request: Request, settings: Settings) -> None:
    """Refuse a request that a page of another origin sends, before the cookie is read or set.

    Programs other than browsers say nothing of pages, and have no cookies of others.

    Raises:
        ForeignOrigin: it is.
    """
    origin = header_of(request, "origin")
    if origin is None:
        site = header_of(request, "sec-fetch-site")
        own = site is None or site in _OURS
    else:
        own = _is_own(origin, request, settings)
    if not own:
        raise ForeignOrigin


def sharing(cors: CORSConfig) -> Sharing:
    """The headers that show a reply to the page which asked for it, where the framework has no part in it."""
    shown = tuple((name.lower().encode(), value.encode()) for name, value in cors.simple_headers.items())

    def headers(scope: Scope) -> tuple[tuple[bytes, bytes], ...]:
        origin = next((value for name, value in scope["headers"] if name == b"origin"), None)
        if origin is None:
            return ()
        if cors.is_allow_all_origins or not cors.is_origin_allowed(origin.decode("latin-1")):
            return shown
        return (*shown, (b"access-control-allow-origin", origin), (b"vary", b"Origin"))

    return headers


def _is_own(origin: str, request: Request, settings: Settings) -> bool:
    if origin in trusted_origins(settings):
        return True
    there = _place(origin)
    if there is None:
        return False
    public = _place(settings.public_url)
    if public is not None and (there[0], public[0], there[1]) == ("http", "https", public[1]):
        return False  # whoever is on the line makes such a page
    here = _place(f"{there[0]}://{request.headers.get('host', '')}")
    return there in {here, public}


def _place(url: str) -> tuple[str, str, int] | None:
    """The scheme, the host and the port of a URL."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS[parts.scheme]
    except (ValueError, KeyError):
        return None
    return (parts.scheme, parts.hostname, port) if parts.hostname else None


def page_check(settings: Settings, listed: Callable[[str], bool]) -> Callable[[Request], Awaitable[None]]:
    """A check, where nobody has to sign in, that no page writes which is neither ours nor `listed`.

    Pages can send forms anywhere, without asking whether they may (Fetch, section 3.3.2).
    """

    async def check(request: Request) -> None:
        origin = header_of(request, "origin")
        if request.method in _READING or origin is None or listed(origin):
            return
        if not _is_own(origin, request, settings):
            raise ForeignOrigin("write here")

    return check
