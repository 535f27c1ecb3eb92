"""The REST API over the catalogue; `watchly serve` runs it, and others mount it by `create_app`.

All else in this package may change at any time: what the API promises is in its OpenAPI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from watchly_http.app import create_app

__all__ = ["create_app"]

# Type checkers go by what is imported above, and tell of a name that is not there.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Load what it needs when it is first asked for (PEP 562): the command line does not wait for it."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from watchly_http.app import create_app  # noqa: PLC0415 - as above

        return create_app

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
