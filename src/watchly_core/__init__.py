"""Watchly's domain: movies, images, queries, events, people, and the use cases on them.

It needs msgspec and nothing else. Adapters (`watchly_adapters`) plug into its `ports`.
"""

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
