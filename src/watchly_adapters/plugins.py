"""Adapters of other packages, found by the scheme of the URL that asks for one.

A package names a function for each scheme that it knows, among its entry points (Python Packaging User Guide,
"Entry points specification")::

    [project.entry-points."watchly.image_stores"]
    s3 = "watchly_s3:make_images"

    def make_images(settings: Settings) -> ImageStore:
        return S3Images(settings.image_store_url, ...)

The function takes the `Settings`, and makes the adapter; what it lacks or does not like, it says by
`Misconfigured`. The schemes of Watchly's own adapters are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, TypeGuard, TypeVar

from watchly_core.errors import Misconfigured

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

    from watchly_adapters.settings import Settings

__all__ = ["IMAGE_STORES", "MOVIE_STORES", "PUBLISHERS", "Kind", "make", "schemes"]

T = TypeVar("T")

#: What a package can bring: each is a group of entry points.
Kind: TypeAlias = Literal["watchly.image_stores", "watchly.movie_stores", "watchly.publishers"]

IMAGE_STORES: Final = "watchly.image_stores"
MOVIE_STORES: Final = "watchly.movie_stores"
PUBLISHERS: Final = "watchly.publishers"


def schemes(kind: Kind) -> Sequence[str]:
    """The schemes that installed packages know, in alphabetical order."""
    return sorted(_entries(kind).names)


def make(kind: Kind, url: str, settings: Settings, fits: Callable[[object], TypeGuard[T]]) -> T:
    """The adapter that an installed package makes for `url`.

    Args:
        kind: what it is.
        url: that which asks for it.
        settings: those it is made by.
        fits: whether something satisfies the port.

    Raises:
        Misconfigured: no package knows the scheme of `url`, several do, or the one that does cannot make it.
    """
    scheme = url.partition(":")[0]
    found = tuple(_entries(kind).select(name=scheme))
    if len(found) != 1:
        known = " and ".join(sorted(entry.value for entry in found)) or "no installed package"
        raise Misconfigured(f"{scheme}: URLs are known to {known}")
    (entry,) = found
    try:
        function: object = entry.load()
    except (ImportError, AttributeError) as error:
        raise Misconfigured(f"{entry.value}, for {scheme}: URLs, cannot be loaded: {error}") from error
    made: object = function(settings) if callable(function) else None
    if not fits(made):
        raise Misconfigured(f"{entry.value}, for {scheme}: URLs, makes nothing that could be used")
    return made


def _entries(kind: Kind) -> EntryPoints:
    # Few ask for a package of others, and this takes long to load and longer to look.
    from importlib.metadata import entry_points

    return entry_points(group=kind)
