"""Watchly's domain: movies, images, queries, events, and the use cases on them.

It needs msgspec and nothing else. Adapters (`watchly_adapters`) plug into its `ports`.
"""

from watchly_core.catalogue import Catalogue
from watchly_core.gallery import Gallery
from watchly_core.images import Image
from watchly_core.movies import Movie, MovieDraft, MoviePatch
from watchly_core.queries import Cursor, GenreCount, MovieQuery, Page, Sort

__all__ = [
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
    "Sort",
]
