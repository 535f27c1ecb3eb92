"""Conditional requests (RFC 9110, section 13): ETag, If-Match, If-None-Match."""

from __future__ import annotations

import re
from typing import Final

from watchly_core import Catalogue, Movie
from watchly_core.errors import NotFound
from watchly_http.requests import MalformedRequest, Request

_TAG: Final = re.compile(r'\s*(?P<weak>W/)?"(?P<tag>[\x21\x23-\x7e\x80-\xff]*)"\s*(?:,|$)')
_VERSION: Final = re.compile(r"v([1-9][0-9]{0,18})")

#: A version that no movie has.
NO_VERSION: Final = 0


def etag(movie: Movie) -> str:
    """The strong entity tag of a movie's representation."""
    return f'"v{movie.version}"'


def matches(request: Request, tag: str) -> bool:
    """Whether `If-None-Match` holds `tag`, so that 304 is the answer; tags are compared weakly."""
    header = request.headers.get("if-none-match")
    if header is None:
        return False
    if header.strip() == "*":
        return True
    # A broken header is no condition: the full answer is always right.
    return tag.strip('"') in {found for _, found in _tags(header) or ()}


async def expected_version(request: Request, movie_id: int, catalogue: Catalogue) -> int | None:
    """The version that `If-Match` makes a write depend on; None where it allows any.

    Of several tags, the one that the movie has now is taken, and the write still depends on it.

    Raises:
        MalformedRequest: the header is no list of entity tags.
    """
    header = request.headers.get("if-match")
    if header is None or header.strip() == "*":
        return None
    tags = _tags(header)
    if tags is None:
        raise MalformedRequest('If-Match must be a list of entity tags, such as "v3"')
    # Weak tags never match here (RFC 9110, section 13.1.1).
    found = (_VERSION.fullmatch(tag) for weak, tag in tags if not weak)
    versions = [int(version[1]) for version in found if version]
    if len(versions) <= 1:
        return versions[0] if versions else NO_VERSION
    try:
        current = (await catalogue.get(movie_id)).version
    except NotFound:
        return NO_VERSION
    return current if current in versions else NO_VERSION


def _tags(header: str) -> list[tuple[bool, str]] | None:
    """The tags of a header and whether each is weak; None if it is no list of tags."""
    tags: list[tuple[bool, str]] = []
    position = 0
    while position < len(header):
        found = _TAG.match(header, position)
        if found is None:
            return None
        tags.append((found["weak"] is not None, found["tag"]))
        position = found.end()
    return tags or None
