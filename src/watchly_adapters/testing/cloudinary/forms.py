"""The forms that uploads and deletions are sent as, read in bounded memory."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, NamedTuple

from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from watchly_adapters.testing.cloudinary.messages import BLOCK, IN_MEMORY, Refused, Request

_MOST_PARTS: Final = 200
#: All fields of a form together, without its file.
_LARGEST_FIELDS: Final = 1024 * 1024


class Form(NamedTuple):
    """The fields of a form, repeated ones joined by commas, and its file with the name that it was given."""

    fields: Mapping[str, str]
    file: IO[bytes] | None
    filename: str


@contextmanager
def read_form(request: Request, directory: Path) -> Iterator[Form]:
    """The form in a request; its file, which may lie in `directory`, lives in the block.

    Raises:
        Refused: there is no form, or it is broken.
    """
    media_type, options = parse_options_header(request.headers.get("content-type", ""))
    if media_type != "multipart/form-data" or "boundary" not in options:
        raise Refused(400, "Missing required parameter - file")
    with tempfile.SpooledTemporaryFile(IN_MEMORY, dir=str(directory)) as spool:
        try:
            form = _read(request.content, options["boundary"], spool)
        except (MultipartError, UnicodeDecodeError) as error:
            raise Refused(400, f"Invalid form - {error}") from None
        spool.seek(0)
        yield form


def _read(content: IO[bytes], boundary: str, spool: IO[bytes]) -> Form:
    fields: dict[str, str] = {}
    filename: str | None = None
    room = _LARGEST_FIELDS
    name, target = "", spool
    content.seek(0)
    with PushMultipartParser(boundary, max_segment_count=_MOST_PARTS) as parser:
        while not parser.closed:
            for event in parser.parse(content.read(BLOCK)):
                if isinstance(event, MultipartSegment):
                    name = (event.name or "").removesuffix("[]")
                    target = spool if name == "file" else io.BytesIO()
                    if name == "file":
                        if filename is not None:
                            raise Refused(400, "Only one file can be uploaded at a time")
                        filename = event.filename or ""
                elif event is not None:
                    target.write(event)
                    room -= 0 if target is spool else len(event)
                    if room < 0:
                        raise Refused(400, "Parameters are too long")
                elif isinstance(target, io.BytesIO):
                    value = target.getvalue().decode()
                    fields[name] = f"{fields[name]},{value}" if name in fields else value
    return Form(fields, None if filename is None else spool, filename or "")
