"""Links: where a client goes on from a reply, as the OpenAPI document tells it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final


def _taking(taken: Mapping[str, str], *targets: str) -> Mapping[str, Mapping[str, str]]:
    return dict.fromkeys(targets, taken)


_NEW_MOVIE: Final = {"movie_id": "$response.body#/id"}
_SAME_MOVIE: Final = {"movie_id": "$request.path.movie_id"}
_SAME_USER: Final = {"user_id": "$request.path.user_id"}
_UNCHANGED: Final = {"If-Match": "$response.header.ETag"}
_NEXT_PAGE: Final = {"cursor": "$response.body#/next_cursor"}
_ITS_KEY: Final = {"key": "$response.body#/image/key"}
_SESSION: Final = {"body.refresh_token": "$response.body#/refresh_token"}

#: Where a client goes on from a reply (OpenAPI 3.1, section 4.8.20): by the operation that has it, the next
#: ones and what they take of it: parameters, and after `body.` members of their bodies.
_LINKS: Final[Mapping[str, Mapping[str, Mapping[str, str]]]] = {
    "addMovie": {
        **_taking(_NEW_MOVIE, "getMovie", "replaceMovie", "reviseMovie", "removeMovie", "getMovieHistory"),
        **_taking(_NEW_MOVIE, "putMovieImage", "deleteMovieImage", "issueImageTicket"),
        "revertMovie": {**_NEW_MOVIE, "body.version": "$response.body#/version"},
    },
    "getMovie": {
        "getMovie": {**_SAME_MOVIE, "If-None-Match": "$response.header.ETag"},
        **_taking({**_SAME_MOVIE, **_UNCHANGED}, "replaceMovie", "reviseMovie", "removeMovie"),
        **_taking({**_SAME_MOVIE, **_UNCHANGED}, "putMovieImage", "deleteMovieImage"),
    },
    "listMovies": {"listMovies": _NEXT_PAGE, "getMovie": {"movie_id": "$response.body#/data/0/id"}},
    "getMovieHistory": {
        "getMovieHistory": {**_SAME_MOVIE, **_NEXT_PAGE},
        "revertMovie": {**_SAME_MOVIE, "body.version": "$response.body#/data/0/version"},
    },
    "putMovieImage": {"getImage": _ITS_KEY},
    "issueImageTicket": {
        "putImage": {"key": "$response.body#/key"},
        "completeImageTicket": {**_SAME_MOVIE, "key": "$response.body#/key"},
    },
    "completeImageTicket": {"getImage": _ITS_KEY},
    "listChanges": _taking({"after": "$response.body#/next_after"}, "listChanges", "streamChanges"),
    "signIn": _taking(_SESSION, "refresh", "signOut"),
    "refresh": _taking(_SESSION, "refresh", "signOut"),
    "addUser": _taking({"user_id": "$response.body#/id"}, "getUser", "reviseUser", "removeUser"),
    "getUser": _taking({**_SAME_USER, **_UNCHANGED}, "reviseUser", "removeUser"),
    "listUsers": {"listUsers": _NEXT_PAGE, "getUser": {"user_id": "$response.body#/data/0/id"}},
    "addApiKey": {"revokeApiKey": {"key_id": "$response.body#/id"}},
    "listProblems": {"getProblem": {"code": "$response.body#/data/0/code"}},
}
_MEMBER: Final = "body."


def links_of(source: str, here: Collection[str]) -> dict[str, object]:
    """Where a client goes on from the replies of an operation, by those operations that are `here`."""
    links: dict[str, object] = {}
    for target, taken in _LINKS.get(source, {}).items():
        if target not in here:
            continue
        parameters = {name: value for name, value in taken.items() if not name.startswith(_MEMBER)}
        members = {
            name.removeprefix(_MEMBER): value for name, value in taken.items() if name.startswith(_MEMBER)
        }
        link: dict[str, object] = {"operationId": target}
        links[target] = link
        if parameters:
            link["parameters"] = parameters
        if members:
            link["requestBody"] = members
    return links
