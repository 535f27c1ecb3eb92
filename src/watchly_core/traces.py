"""Traces: which work, of this service and of others, what is under way here is a part of (W3C Trace Context).

Whoever traces says so by `traced_by`. Events keep what is said when they are made, and other services are
told of it, so that a trace goes on where they do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

__all__ = ["current_trace", "is_traceparent", "traced_by"]

#: The value of a header `traceparent`, version 00 (https://www.w3.org/TR/trace-context/, section 3.2.2).
_FORM: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

_trace: Final[ContextVar[str | None]] = ContextVar("watchly_trace", default=None)


def current_trace() -> str | None:
    """The `traceparent` of the work under way; None where nobody traces it."""
    return _trace.get()


@contextmanager
def traced_by(traceparent: str | None) -> Iterator[None]:
    """Do the work of the block as a part of this trace, or of none.

    What is no `traceparent` is none, so that a header can be handed over as it came.
    """
    token = _trace.set(traceparent if traceparent is not None and is_traceparent(traceparent) else None)
    try:
        yield
    finally:
        _trace.reset(token)


def is_traceparent(text: str) -> bool:
    """Whether `text` is the value of a header `traceparent`, as version 00 of W3C Trace Context writes it."""
    return _FORM.fullmatch(text) is not None
