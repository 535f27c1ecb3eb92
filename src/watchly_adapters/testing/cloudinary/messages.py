"""What goes to the emulator and comes from it: requests, replies, and refusals."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import IO, Final, NamedTuple, TypeAlias

import msgspec

#: How much is read, written or parsed at once.
BLOCK: Final = 256 * 1024
#: What of a body is kept in memory; the rest waits in a file.
IN_MEMORY: Final = 1024 * 1024

_NONE: Final[Mapping[str, str]] = MappingProxyType({})


class Request(NamedTuple):
    """What a client asked: `path` is decoded and has no query; header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    content: IO[bytes]

    @property
    def body(self) -> bytes:
        """All of the content at once."""
        self.content.seek(0)
        return self.content.read()


class Reply(NamedTuple):
    """What it is answered: `body`, or `file` from its start, which is closed once it is sent."""

    status: int
    body: bytes = b""
    media_type: str = "application/json"
    headers: Mapping[str, str] = _NONE
    file: IO[bytes] | None = None

    def opened(self) -> IO[bytes]:
        """What is to be sent."""
        return io.BytesIO(self.body) if self.file is None else self.file


#: Answers a request; another one in front of `CloudinaryEmulator.account` can change what is answered.
Answer: TypeAlias = Callable[[Request], Reply]


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str) -> None:
        self.status: int = status
        self.message: str = message
        super().__init__(message)


def said(body: Mapping[str, object]) -> Reply:
    """A reply of status 200."""
    return Reply(200, msgspec.json.encode(body))


def refusal(status: int, message: str) -> Reply:
    """A reply that says what is wrong, in its body and in a header."""
    body = msgspec.json.encode({"error": {"message": message}})
    return Reply(status, body, headers={"X-Cld-Error": in_header(message)})


def in_header(text: str) -> str:
    """A text as a header can carry it, on one line."""
    return " ".join(text.split()).encode("ascii", "backslashreplace").decode()
