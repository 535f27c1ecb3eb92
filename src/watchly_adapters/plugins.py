"""Adapters of other packages, found by the scheme of the URL that asks for one.

A package names a function for each scheme that it knows, among its entry points (Python Packaging User Guide,
"Entry points specification")::

    [project.entry-points."watchly.image_stores"]
    s3 = "watchly_s3:make_images"

    def make_images(settings: Settings) -> ImageStore:
        return S3Images(settings.image_store_url, ...)

The function takes the `Settings`, and makes the adapter; what it lacks or does not like, it says by
`Misconfigured`. Schemes are in lower case, here and in the URL of the settings, however that was written;
those of Watchly's own adapters are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, TypeGuard, TypeVar

from watchly_core.errors import Misconfigured, WatchlyError

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

#: The variable that asks for each, and an example of what it may be without any package.
_VARIABLES: Final[Mapping[Kind, tuple[str, str]]] = {
    IMAGE_STORES: ("IMAGE_STORE_URL", "file:///srv/images"),
    MOVIE_STORES: ("DATABASE_URL", "postgresql://user:password@localhost/watchly"),
    PUBLISHERS: ("BROKER_URL", "kafka://127.0.0.1:9092"),
}


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
    variable, example = _VARIABLES[kind]

    def wrong(fault: str) -> Misconfigured:
        return Misconfigured(f"{variable} asks for {scheme}:, {fault}; an example: {variable}={example}")

    def told(error: Exception) -> str:
        # Whatever a package says is one line here, and without the URL, which may hold a password.
        return " ".join(f"{type(error).__name__}: {error}".replace(url, "…").split())

    found = tuple(_entries(kind).select(name=scheme))
    if len(found) != 1:
        known = " and ".join(sorted(entry.value for entry in found)) or "no installed package"
        raise wrong(f"which is known to {known}")
    (entry,) = found
    try:
        function: object = entry.load()
    except Exception as error:
        raise wrong(f"and {entry.value} cannot be loaded: {told(error)}") from error
    if not callable(function):
        raise wrong(f"and {entry.value} is no function")
    try:
        made: object = function(settings)
        if fits(made):
            return made
    except WatchlyError:
        raise  # the package says itself what it does not like
    except Exception as error:
        raise wrong(f"and {entry.value} fails: {told(error)}") from error
    if isinstance(made, Coroutine):
        made.close()  # or its end would be told of as well
    raise wrong(f"and {entry.value} makes {type(made).__name__}, which has not all that is needed")


def _entries(kind: Kind) -> EntryPoints:
    # Few ask for a package of others, and this takes long to load and longer to look.
    from importlib.metadata import entry_points

    return entry_points(group=kind)
