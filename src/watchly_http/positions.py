"""Watchly-Position: a client that sends back what its write returned reads what it wrote."""

from __future__ import annotations

from typing import Final

from watchly_core import catalogue
from watchly_core.errors import InvalidPosition
from watchly_http.openapi import POSITION, Parameter
from watchly_http.parts import Reading
from watchly_http.requests import MalformedRequest, Request, header_of

#: What reads take.
SEEN: Final = Parameter(
    POSITION,
    "What a write has returned: the answer knows of that write, and of all before it.",
    str,
    "0/1B27F30-5a1e6c93f",
    place="header",
)


def seen_by(request: Request, reading: Reading) -> catalogue.Catalogue:
    """The catalogue as `request` has to see it.

    Raises:
        MalformedRequest: it names a position that is none.
    """
    position = header_of(request, POSITION)
    if position is None:
        return reading
    try:
        return reading.at(position)
    except InvalidPosition as error:
        raise MalformedRequest(f"{POSITION}: {error}") from None
