"""What schemathesis makes of the OpenAPI document, against the API on the fakes."""

from __future__ import annotations

import base64
import secrets
from typing import Final

import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from watchly_adapters.container import Container
from watchly_adapters.settings import read_settings
from watchly_core.images import MEDIA_TYPES
from watchly_http.app import create_app

_CHECKS: Final = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
_PNG: Final = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAYAAAAECAIAAAAiZtkUAAAAHUlEQVR42mNkYGA4IWfDgASY0PgMDAxMDBgAixAAkVACTD+VBlYAAAAASUVO"
    "RK5CYII="
)

for _media_type in MEDIA_TYPES:
    schemathesis.openapi.media_type(
        _media_type, st.sampled_from([b"", _PNG[:20], _PNG]) | st.binary(max_size=64)
    )

_FILES: Final = {
    "application/x-ndjson": [
        b'{"title": "Heat"}\n',
        b'{"title": "Heat", "release_year": 1995}\n{}\n',
        b"\n[1]",
    ],
    "text/csv": [b"title,genre\r\nHeat,Crime\r\n", b"title\n\n,\n", b'title,year\n"', b"title\nHeat\n"],
}
for _media_type, _contents in _FILES.items():
    schemathesis.openapi.media_type(_media_type, st.sampled_from(_contents) | st.binary(max_size=64))

# Nothing here is written to, so that the home may be anywhere.
_ENVIRONMENT: Final = {
    "DATABASE_URL": "memory:",
    "WATCHLY_HOME": "/nowhere",
    "AUTH": "off",
    "SECRET_KEY": secrets.token_hex(32),
}
_app = create_app(Container(settings=read_settings(_ENVIRONMENT)))
# The stream of changes has no end, which is where this client would begin to read it; see `test_feed.py`.
schema = schemathesis.openapi.from_asgi("/openapi.json", _app).exclude(path="/api/changes/stream")


@schema.parametrize()
@settings(
    max_examples=15,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)
def test_the_api_does_what_its_document_says(
    case: schemathesis.Case,  # type: ignore[type-arg] # its arguments are not public
) -> None:
    case.call_and_validate(checks=_CHECKS)
