"""Conditional requests (RFC 9110, section 13): ETag, If-Match, If-None-Match."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import msgspec

from watchly_core import Movie
from watchly_core.errors import NotFound
from watchly_core.people import User
from watchly_http.answers import Answer, json_answer
from watchly_http.parts import Catalogue
from watchly_http.requests import MalformedRequest, Request, header_of

# Empty elements of a list are passed over (RFC 9110, section 5.6.1.2).
_TAG: Final = re.compile(r'[\s,]*(?P<weak>W/)?"(?P<tag>[\x21\x23-\x7e\x80-\xff]*)"\s*(?:,[\s,]*|$)')
_VERSION: Final = re.compile(r"v([1-9][0-9]{0,18})")

#: A version that nothing has.
NO_VERSION: Final = 0

_encode = msgspec.json.Encoder().encode

#: Asks at which version something is now.
Current: TypeAlias = Callable[[], Awaitable[int]]


def etag(thing: Movie | User) -> str:
    """The strong entity tag of the representation of a movie or a user."""
    return f'"v{thing.version}"'


def matches(request: Request, tag: str) -> bool:
    """Whether `If-None-Match` holds `tag`, so that 304 is the answer; tags are compared weakly."""
    header = header_of(request, "if-none-match")
    # A broken header is no condition: the full answer is always right.
    return header is not None and (
        header == "*" or tag.strip('"') in {found for _, found in _tags(header) or ()}
    )


def tagged_answer(
    thing: Movie | User, *headers: tuple[bytes, bytes], tag: str | None = None, status: int = 200
) -> Answer:
    """An answer that holds one movie or user, with its entity tag, or this one, and these headers."""
    return json_answer(_encode(thing), (b"etag", (tag or etag(thing)).encode()), *headers, status=status)


def conditional_answer(request: Request, thing: Movie | User, tag: str | None = None) -> Answer:
    """The answer to a GET of one movie or user: 304 where the client has it as it is under this tag."""
    tag = tag or etag(thing)
    if matches(request, tag):
        return Answer(304, ((b"etag", tag.encode()),), b"")
    return tagged_answer(thing, tag=tag)


class Precondition(msgspec.Struct, frozen=True):
    """What a write depends on: the versions that it is for, and those that it is not for.

    `allowed` is None for all of them, `refused` is None for all of them.
    """

    allowed: frozenset[int] | None = None
    refused: frozenset[int] | None = frozenset()

    async def version(self, current: Current) -> int | None:
        """The version to base the write on: None for any, `NO_VERSION` where the precondition fails.

        Where several would do, the `current` one is taken, and the write still depends on it.
        """
        if self.refused == frozenset():
            if self.allowed is None:
                return None
            if len(self.allowed) <= 1:
                return next(iter(self.allowed), NO_VERSION)
        now = await current()
        if self.refused is None or now in self.refused:
            return NO_VERSION
        return now if self.allowed is None or now in self.allowed else NO_VERSION


def of_movie(movie_id: int, catalogue: Catalogue) -> Current:
    """Asks for the version that a movie is at; a removed one is at that of its removal."""

    async def current() -> int:
        try:
            return (await catalogue.get(movie_id)).version
        except NotFound:
            newest = await catalogue.history(movie_id, limit=1)
            return newest[0].event.version if newest else NO_VERSION

    return current


def precondition(request: Request) -> Precondition:
    """What `If-Match` and `If-None-Match` make a write depend on.

    Raises:
        MalformedRequest: one of them is no list of entity tags.
    """
    allowed, refused = header_of(request, "if-match"), header_of(request, "if-none-match")
    return Precondition(
        # Weak tags never match here (RFC 9110, section 13.1.1).
        allowed=None if allowed in {None, "*"} else _versions(allowed, weak=False),
        refused=None if refused == "*" else _versions(refused, weak=True),
    )


def _versions(header: str | None, *, weak: bool) -> frozenset[int]:
    if header is None:
        return frozenset()
    tags = _tags(header)
    if tags is None:
        raise MalformedRequest('a precondition must be a list of entity tags, such as "v3"')
    found = (_VERSION.fullmatch(tag) for is_weak, tag in tags if weak or not is_weak)
    return frozenset(int(version[1]) for version in found if version)


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
