"""Forms with a file among their fields (multipart/form-data, RFC 7578), read as they arrive."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from hashlib import sha256
from typing import Annotated, Final, TypeAlias
from urllib.parse import quote

import msgspec
from multipart import MultipartError, PushMultipartParser, parse_options_header

from watchly_core.errors import Fault, ImageTooLarge, InvalidMovie
from watchly_core.movies import CLIENT_FIELDS
from watchly_core.spools import Spool, spooled
from watchly_http.requests import (
    BodyTooLarge,
    MalformedRequest,
    Request,
    UnsupportedMediaType,
    digest_of,
    require_plain,
    require_size,
    stream,
)

FORM: Final = "multipart/form-data"
#: The part of a form that holds an image.
IMAGE: Final = "image"

#: How a schema says that a part is a file (OpenAPI 3.1, section 4.8.14.3), to generators in the words of 3.0.
FilePart: TypeAlias = Annotated[
    str, msgspec.Meta(extra_json_schema={"format": "binary", "contentMediaType": "image/*"})
]

#: Bytes of a form that are no content: what stands between its parts, their headers, what surrounds them.
_LARGEST_FRAME: Final = 64 * 1024
#: Faults after which the rest of a form is not looked at.
_FAULTS: Final = 20
#: As RFC 2046, section 5.1.1, has it.
_BOUNDARY: Final = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]", re.ASCII)
#: Encodings of a part that leave its bytes as they are (RFC 2045, section 6.2).
_IDENTITIES: Final = frozenset({"7bit", "8bit", "binary"})
_YEAR: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,17})", re.ASCII)


class FormFile(msgspec.Struct, frozen=True):
    """A file of a form, and the Content-Type that it is said to have; None if that says nothing."""

    spool: Spool
    media_type: str | None


class Form(msgspec.Struct):
    """What a form holds: bytes of a text that are not UTF-8 are lone surrogates, which no movie takes."""

    fields: dict[str, str]
    file: FormFile | None = None


@asynccontextmanager
async def read_form(  # noqa: PLR0913 - what a form may have
    request: Request,
    *,
    fields: Collection[str],
    file: str,
    largest_text: int,
    largest_file: int,
    keeps_files: bool = True,
) -> AsyncIterator[Form]:
    """The form that is the body of `request`; its file lives in the block.

    Args:
        request: whose body it is.
        fields: the names of its texts, each of which may be there once.
        file: the name of its file, which may be there once. How that file is called is never looked at.
        largest_text: bytes that all texts may have together.
        largest_file: bytes that the file may have.
        keeps_files: whether any may be there.

    Raises:
        UnsupportedMediaType: the body is no form, or it is encoded.
        MalformedRequest: it is a broken one.
        BodyTooLarge: the texts are too long.
        ImageTooLarge: the file is.
        InvalidMovie: parts are unknown, repeated, or not what their names say. All such faults are told,
            unless the rest of the form is long.
        Unavailable: there is no room for the file.
        ClientGone, BodyTimeout: see `stream`.
    """
    boundary = _boundary(request)
    require_plain(request)
    require_size(request, largest_text + largest_file + _LARGEST_FRAME)
    form = Form({})
    seen: set[str] = set()
    faults: list[Fault] = []
    room = largest_text
    async with AsyncExitStack() as kept, aclosing(_digested(request, _events(request, boundary))) as events:
        async for part, content in _parts(events):
            faults += _faults(part, seen, fields, file)
            seen.add(part.name)
            if part.name == file and part.is_file and keeps_files and not faults:
                form.file = await kept.enter_async_context(_kept(part, content, largest_file))
                continue
            # A file that nobody will keep is read on like a text, for the sake of what follows it.
            text = await _gathered(content, room)
            if part.name != file:
                form.fields[part.name] = text.decode("utf-8", "surrogateescape")
            elif not keeps_files and (text or part.filename):
                faults.append(_fault(part.name, "unknown_member", "is an image, and this service keeps none"))
            elif text and not part.is_file:
                faults.append(_fault(part.name, "wrong_type", "must be a file"))
            room -= len(text)
            if room < 0 or len(faults) >= _FAULTS:
                break
        if faults:
            raise InvalidMovie(faults)
        if room < 0:
            raise BodyTooLarge(largest_text)
        yield form


def members(form: Form) -> dict[str, object]:
    """The members of a movie that the texts of a form are: forms have no null and no numbers."""
    given: dict[str, object] = dict(form.fields)
    for name in CLIENT_FIELDS:
        if name != "title" and given.get(name) == "":
            given[name] = None
    # What is no integer stays a text, which the movie's own rules refuse with whatever else is wrong.
    if isinstance(year := given.get("release_year"), str) and _YEAR.fullmatch(year):
        given["release_year"] = int(year)
    return given


class _Part(msgspec.Struct, frozen=True):
    """What the headers of a part say of it."""

    name: str
    filename: str | None
    media_type: str | None
    charset: str | None

    @property
    def is_file(self) -> bool:
        """Whether it can be a file: programs leave out the name, or the type, but not both."""
        return self.filename is not None or self.media_type is not None


#: What a form is made of, in the order of its bytes: the beginning of a part, its content, None at its end.
_Event: TypeAlias = _Part | bytes | None


def _boundary(request: Request) -> str:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != FORM:
        raise UnsupportedMediaType(f"the Content-Type must be {FORM}")
    boundary: str = options.get("boundary", "")
    if _BOUNDARY.fullmatch(boundary) is None:
        raise MalformedRequest("the Content-Type must name a boundary of 1 to 70 characters")
    return boundary


async def _events(request: Request, boundary: str) -> AsyncGenerator[_Event, None]:
    parser = PushMultipartParser(boundary)
    frame = 0
    try:
        async for chunk in stream(request, digested=False):
            frame += len(chunk)
            for event in parser.parse(chunk):
                if event is None:
                    yield None
                elif isinstance(event, bytes):
                    frame -= len(event)
                    yield event
                else:
                    encoding = event.header("Content-Transfer-Encoding", "binary")
                    if encoding.strip().lower() not in _IDENTITIES:
                        raise UnsupportedMediaType("a Content-Transfer-Encoding is not accepted here")
                    if not event.name:
                        raise MalformedRequest("each part of the form must have a name")
                    yield _Part(event.name, event.filename, event.content_type, event.charset)
            if frame > _LARGEST_FRAME:
                raise MalformedRequest("the form has too much that is no content")
        parser.close()
    except MultipartError as error:
        raise MalformedRequest(f"the body is not a form as its Content-Type says: {error.args[0]}") from None


async def _digested(request: Request, events: AsyncGenerator[_Event, None]) -> AsyncGenerator[_Event, None]:
    """The same events; a form is digested by its parts, for each time it is sent its boundary is another."""
    digest = digest_of(request)
    async with aclosing(events):
        headers, content = "", sha256()
        async for event in events:
            if digest is not None:
                if isinstance(event, _Part):
                    headers, content = repr(event), sha256()
                elif event is not None:
                    content.update(event)
                else:
                    digest.update(repr((headers, content.hexdigest())).encode())
            yield event


async def _parts(
    events: AsyncGenerator[_Event, None],
) -> AsyncGenerator[tuple[_Part, AsyncIterator[bytes]], None]:
    """The parts of a form with their contents, each of which is there until the next part is asked for."""
    async for event in events:
        if isinstance(event, _Part):
            yield event, _content(events)


async def _content(events: AsyncGenerator[_Event, None]) -> AsyncIterator[bytes]:
    async for event in events:
        if not isinstance(event, bytes):
            return
        yield event


@asynccontextmanager
async def _kept(part: _Part, content: AsyncIterator[bytes], largest: int) -> AsyncIterator[FormFile | None]:
    too_large = ImageTooLarge(f"an image may have at most {largest} bytes")
    async with spooled(content, largest, too_large) as spool:
        # Browsers send a file without name and content where none was chosen.
        yield FormFile(spool, _claimed(part)) if part.filename or spool.size else None


def _claimed(part: _Part) -> str | None:
    # Clients say octet-stream of a file whose type they do not know (RFC 7578, section 4.4).
    return part.media_type if part.media_type not in {"", "application/octet-stream"} else None


async def _gathered(content: AsyncIterator[bytes], largest: int) -> bytes:
    """All of `content`, or so much of it that it is more than `largest` bytes."""
    text = bytearray()
    async for chunk in content:
        text += chunk
        if len(text) > largest:
            break
    return bytes(text)


def _faults(part: _Part, seen: Collection[str], fields: Collection[str], file: str) -> list[Fault]:
    """What is wrong with a part, as far as its headers tell: one thing at most."""
    if part.name != file and part.name not in fields:
        return [_fault(part.name, "unknown_member", "is not a field of this form")]
    if part.name in seen:
        return [_fault(part.name, "repeated_member", "is given more than once")]
    if part.name == file:
        return []
    if part.filename is not None or part.media_type not in {None, "text/plain"}:
        return [_fault(part.name, "wrong_type", "must be a text, not a file")]
    if part.charset is not None and part.charset.lower() not in {"utf-8", "utf8"}:
        return [_fault(part.name, "wrong_type", "must be in UTF-8")]
    return []


def _fault(name: str, code: str, detail: str) -> Fault:
    # The name of a part is the sender's: it may be long or hold anything.
    token = name[:100].replace("~", "~0").replace("/", "~1")
    return Fault(code, detail, pointer="#/" + quote(token, safe="~", errors="replace"))
