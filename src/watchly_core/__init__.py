"""Watchly's domain: movies, images, queries, events, people, and the use cases on them.

It needs msgspec and nothing else. Adapters (`watchly_adapters`) plug into its `ports`. What is named here is
loaded when it is first asked for, so that nobody waits for what they do not use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from watchly_core.access import Access
    from watchly_core.accounts import Accounts
    from watchly_core.api_keys import ApiKeyDraft, ApiKeys
    from watchly_core.catalogue import Catalogue
    from watchly_core.gallery import Gallery
    from watchly_core.images import Image
    from watchly_core.movies import Movie, MovieDraft, MoviePatch
    from watchly_core.people import Actor, Permission, Role, User, UserDraft, UserPatch
    from watchly_core.queries import Cursor, GenreCount, MovieQuery, Page, Sort
    from watchly_core.sessions import Sessions
    from watchly_core.signing_keys import SigningKeys
    from watchly_core.throttle import Throttle

__all__ = [
    "Access",
    "Accounts",
    "Actor",
    "ApiKeyDraft",
    "ApiKeys",
    "Catalogue",
    "Cursor",
    "Gallery",
    "GenreCount",
    "Image",
    "Movie",
    "MovieDraft",
    "MoviePatch",
    "MovieQuery",
    "Page",
    "Permission",
    "Role",
    "Sessions",
    "SigningKeys",
    "Sort",
    "Throttle",
    "User",
    "UserDraft",
    "UserPatch",
]

#: Where each name comes from.
_MODULES: Final = {
    "Access": "access",
    "Accounts": "accounts",
    "Actor": "people",
    "ApiKeyDraft": "api_keys",
    "ApiKeys": "api_keys",
    "Catalogue": "catalogue",
    "Cursor": "queries",
    "Gallery": "gallery",
    "GenreCount": "queries",
    "Image": "images",
    "Movie": "movies",
    "MovieDraft": "movies",
    "MoviePatch": "movies",
    "MovieQuery": "queries",
    "Page": "queries",
    "Permission": "people",
    "Role": "people",
    "Sessions": "sessions",
    "SigningKeys": "signing_keys",
    "Sort": "queries",
    "Throttle": "throttle",
    "User": "people",
    "UserDraft": "people",
    "UserPatch": "people",
}

# Type checkers go by what is imported above, and tell of a name that is not there.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Load the module of `name` (PEP 562)."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
