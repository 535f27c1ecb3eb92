"""Parts of a body: Range and If-Range of a download, Content-Range of an upload (RFC 9110, section 14).

A range is Python's: it ends before its `stop`. As a Content-Range names them, its bytes are
``{range[0]}-{range[-1]}``.
"""

from __future__ import annotations

import re
from typing import Final

from watchly_core.errors import WatchlyError
from watchly_http.requests import MalformedRequest

# More digits are beyond every file, and int() refuses thousands of them.
_RANGE: Final = re.compile(r"bytes=(?P<first>[0-9]{0,99})-(?P<last>[0-9]{0,99})", re.ASCII | re.IGNORECASE)
_CONTENT_RANGE: Final = re.compile(
    r"bytes (?:\*|(?P<first>[0-9]{1,18})-(?P<last>[0-9]{1,18}))/(?P<total>[0-9]{1,18})",
    re.ASCII | re.IGNORECASE,
)


class RangeNotSatisfiable(WatchlyError):
    """No byte of what a range asks for is there.

    Attributes:
        size: how many bytes there are.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        super().__init__(f"the range lies outside of the {size} bytes that there are")


def requested(header: str | None, size: int) -> range | None:
    """The bytes that a Range header asks for of a file of `size` bytes; None for all of them.

    That is also the answer to several ranges, to other units, and to what is no range (section 14.2).

    Raises:
        RangeNotSatisfiable: it asks for nothing that is there.
    """
    found = _RANGE.fullmatch(header or "")
    if found is None or not (found["first"] or found["last"]):
        return None
    if not found["first"]:
        start, stop = max(size - int(found["last"]), 0), size
    else:
        start, stop = int(found["first"]), size
        if found["last"]:
            stop = int(found["last"]) + 1
            if stop <= start:
                return None
    if start >= size:
        raise RangeNotSatisfiable(size)
    return range(start, min(stop, size))


def applies(if_range: str | None, etag: str) -> bool:
    """Whether a Range counts, given the If-Range beside it: only where the client has a part of these bytes.

    Tags are compared strongly (section 13.1.5); a date never fits, because images are sent without one.
    """
    return if_range is None or (if_range.strip() == etag and not etag.startswith("W/"))


def content_range(header: str) -> tuple[range, int]:
    """Which bytes of an upload its Content-Range says that a body holds, and of how many.

    An empty range, from ``bytes */5000``, asks how many have arrived.

    Raises:
        MalformedRequest: it says nothing of the kind.
    """
    found = _CONTENT_RANGE.fullmatch(header.strip())
    if found is None:
        raise MalformedRequest("the Content-Range must be such as bytes 0-999/5000, or bytes */5000")
    total = int(found["total"])
    if found["first"] is None:
        return range(0), total
    first, last = int(found["first"]), int(found["last"])
    if not first <= last < total:
        raise MalformedRequest("the Content-Range must end where it begins or later, and within the total")
    return range(first, last + 1), total
