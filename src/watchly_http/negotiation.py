"""What a client prefers: Accept and Content-Type (RFC 9110, sections 8.3 and 12.5.1), Prefer (RFC 7240)."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import msgspec

from watchly_http.requests import NotAcceptable, Request, UnsupportedMediaType, header_of, vary


class Representation(msgspec.Struct, frozen=True):
    """A form of a body: a media type, and what its parameters say where they are given."""

    media_type: str
    parameters: Mapping[str, str] = {}

    @property
    def content_type(self) -> str:
        """The value of Content-Type."""
        return "; ".join([self.media_type, *(f"{name}={value}" for name, value in self.parameters.items())])


def acceptable(request: Request, offered: Sequence[Representation]) -> Representation:
    """The form that the client of `request` likes best, the first of `offered` where it likes several.

    Raises:
        NotAcceptable: it takes none of them.
    """
    vary(request, "Accept")
    header = header_of(request, "accept")
    if not header:
        return offered[0]
    ranges = [_split(element, ";") for element in _split(header, ",")]
    best = max(offered, key=lambda form: _quality(form, ranges))  # max() keeps to the first of equals
    if not _quality(best, ranges):
        raise NotAcceptable(f"the reply has the type {' or '.join(form.media_type for form in offered)}")
    return best


def sent_form(request: Request, taken: Sequence[Representation]) -> Representation:
    """The one of `taken` that the body of `request` says it has.

    Raises:
        UnsupportedMediaType: it is none of them, or not in UTF-8.
    """
    kind, *rest = _split(header_of(request, "content-type") or "", ";") or [""]
    form = next((form for form in taken if form.media_type == kind.lower()), None)
    if form is None:
        raise UnsupportedMediaType(
            f"the Content-Type must be {' or '.join(form.media_type for form in taken)}"
        )
    if dict(map(_pair, reversed(rest))).get("charset", "utf-8").lower() not in {"utf-8", "utf8"}:
        raise UnsupportedMediaType("the charset must be utf-8")
    return form


def preference(request: Request, name: str) -> str | None:
    """The value of a preference; None if it is not stated. Of several values the first counts."""
    for element in _split(header_of(request, "prefer") or "", ","):
        stated, value = _pair((_split(element, ";") or [""])[0])
        if stated == name:
            return value
    return None


#: What is true of every form here, even of those whose type has no such parameter.
_IMPLIED: Final = {"charset": "utf-8"}
_QUALITY: Final = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?", re.ASCII)


def _quality(form: Representation, ranges: Collection[Sequence[str]]) -> float:
    """How much a form is liked: what the narrowest of the ranges that hold it says."""
    narrowest, quality = (-1, -1), 0.0
    for kind, *rest in filter(None, ranges):
        breadth = _breadth(kind.lower(), form.media_type)
        named: list[tuple[str, str]] = []
        weight = 1.0
        for name, value in map(_pair, rest):
            if name == "q":
                # A weight that is none makes its range one that nobody can follow.
                weight = float(value) if _QUALITY.fullmatch(value) else 0.0
                break
            named.append((name, value.lower()))
        known = all(form.parameters.get(name, _IMPLIED.get(name)) == value for name, value in named)
        if breadth >= 0 and known and (breadth, len(named)) > narrowest:
            narrowest, quality = (breadth, len(named)), weight
    return quality


def _breadth(kind: str, media_type: str) -> int:
    """How narrow the range `kind` is, if it holds `media_type`; -1 if it does not."""
    ranges = ("*/*", media_type.partition("/")[0] + "/*", media_type)
    return ranges.index(kind) if kind in ranges else -1


_PARTS: Final = {
    separator: re.compile(rf'(?:[^{separator}"]|"(?:[^"\\]|\\.)*"?)+', re.DOTALL) for separator in ",;"
}
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)


def _split(text: str, separator: str) -> list[str]:
    """The parts of `text` between separators that do not stand in quotes; empty ones are passed over."""
    return [part for part in map(str.strip, _PARTS[separator].findall(text)) if part]


def _pair(text: str) -> tuple[str, str]:
    """The name, in lower case, and the value of a parameter, without its quotes."""
    name, _, value = (part.strip() for part in text.partition("="))
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = _ESCAPED.sub(r"\1", value[1:-1])
    return name.lower(), value
