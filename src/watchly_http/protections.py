"""Protections: what each reply tells browsers that keeps pages from making of it what it is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

#: The headers that go with a reply, by how it is `openapi.SHOWN`.
Protections: TypeAlias = Mapping[object, tuple[tuple[bytes, bytes], ...]]

#: What loads nothing and stands in no frame.
_CLOSED: Final = "default-src 'none'; frame-ancestors 'none'"
_ALWAYS: Final = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))
#: A year, in which browsers come by TLS only.
_TLS_ONLY: Final = (b"strict-transport-security", b"max-age=31536000")


def protections(public_url: str, page: str) -> Protections:
    """Those of a service that answers at `public_url`; `page` is the Content-Security-Policy of its pages.

    Pages of other origins read what the API says by CORS, and nothing without it; images they may show.
    """
    shared = (*_ALWAYS, _TLS_ONLY) if public_url.startswith("https:") else _ALWAYS

    def of(policy: str, resource: bytes) -> tuple[tuple[bytes, bytes], ...]:
        policies = (b"content-security-policy", policy.encode())
        return (*shared, policies, (b"cross-origin-resource-policy", resource))

    return {
        None: of(_CLOSED, b"same-origin"),
        "page": of(page, b"same-origin"),
        "image": of(f"{_CLOSED}; sandbox", b"cross-origin"),
    }
