"""What other services are told: messages, the targets that they go to, and letters, which are set aside."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import Final

import msgspec

from watchly_core.events import Change, Event, kind
from watchly_core.traces import is_traceparent

__all__ = ["MEDIA_TYPE", "SOURCE", "Letter", "LetterCount", "Message", "Target", "message_of"]

#: Where events come from if nobody says what this service is called (CloudEvents' `source`).
SOURCE: Final = "/watchly"

#: What a message's body is: one event with its attributes (CloudEvents' structured mode).
MEDIA_TYPE: Final = "application/cloudevents+json; charset=utf-8"


class Message(msgspec.Struct, frozen=True):
    """A change as it is published; `body` is a CloudEvent in JSON.

    `id` is that of the event, so that whoever gets a message twice can tell: a movie has each version once.
    `seq` is the change's number, `kind` that of its event.
    """

    id: str
    seq: int
    movie_id: int
    kind: str
    body: bytes

    @property
    def trace(self) -> str | None:
        """The `traceparent` that the event was made in, see `traces`; None if nobody traced that.

        It is looked up in the body each time: whoever publishes needs it once.
        """
        with suppress(msgspec.MsgspecError):
            trace = _decode_traced(self.body).traceparent
            if trace is not None and is_traceparent(trace):
                return trace
        return None


class Letter(msgspec.Struct, frozen=True):
    """A message that a target did not take, or that waits behind such a one of the same movie.

    `attempts` counts the tries that failed and `reason` tells of the last. It is due at `due_at`; with None
    it is dead: it was given up.
    """

    message: Message
    due_at: datetime | None
    attempts: int = 0
    reason: str = ""


class LetterCount(msgspec.Struct, frozen=True):
    """How many letters of a target wait, and how many are dead."""

    waiting: int
    dead: int


class Target(msgspec.Struct, frozen=True):
    """Where changes are told to: a broker, or a webhook, which has a `url` and a `secret`.

    All changes up to number `position` are dealt with: taken by the target, or set aside as letters. While it
    takes nothing at all, `failures` counts the rounds since `failing_since`, `reason` tells of the last, and
    nothing is sent before `due_at`. Each round raises `version`.
    """

    name: str
    url: str | None = None
    secret: str | None = None
    position: int = 0
    version: int = 1
    failures: int = 0
    failing_since: datetime | None = None
    due_at: datetime | None = None
    reason: str = ""

    def __repr__(self) -> str:
        """Without the secret."""
        return f"Target({self.name!r})"


class _Traced(msgspec.Struct, frozen=True):
    """What is looked up in a body again."""

    traceparent: str | None = None


class _Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A CloudEvent 1.0.2 in the JSON format; the members are that specification's.

    `traceparent` is that of its extension for distributed tracing.
    """

    specversion: str
    id: str
    source: str
    type: str
    subject: str
    time: datetime
    datacontenttype: str
    traceparent: str | None = None
    data: msgspec.Raw


_encode: Final = msgspec.json.Encoder().encode
_decode_traced: Final = msgspec.json.Decoder(_Traced).decode


def message_of(change: Change, source: str = SOURCE) -> Message:
    """The message that tells of a change; equal for the same change, whenever it is made."""
    event = change.event
    # Not the number: it depends on the log, which may be restored from a backup, and numbered anew.
    # No full stop: it separates the parts of what webhooks sign.
    message_id = f"{event.movie_id}-{event.version}"
    name = kind(event)
    body = _Event(
        specversion="1.0",
        id=message_id,
        source=source,
        type=f"watchly.{name}",
        subject=f"movies/{event.movie_id}",
        time=event.at,
        datacontenttype="application/json",
        traceparent=event.trace,
        data=msgspec.Raw(_data(change.seq, event)),
    )
    return Message(message_id, change.seq, event.movie_id, name, _encode(body))


def _data(seq: int, event: Event) -> bytes:
    """A change as the REST API shows it: without the trace."""
    return b'{"seq":%d,' % seq + _encode(msgspec.structs.replace(event, trace=None)).removeprefix(b"{")
