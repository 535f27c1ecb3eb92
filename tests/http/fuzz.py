"""What schemathesis makes of the OpenAPI document, sent by all kinds of senders, and how replies are judged.

Generation alone finds no id, no key of an image and no password that is right: a `Fuzzer` remembers what
replies held, and puts some of that into what is sent next.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias
from urllib.parse import parse_qsl, urlsplit

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from schemathesis.core.failures import FailureGroup
from schemathesis.core.transport import Response
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.http.senders import PASSWORD, People, Sender, address

from watchly_adapters.testing import samples
from watchly_core.images import MEDIA_TYPES

if TYPE_CHECKING:
    from schemathesis.core.jsonschema.types import JsonValue

Schema: TypeAlias = "schemathesis.BaseSchema"
Case: TypeAlias = "schemathesis.Case[Any]"

CHECKS: Final = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
PNG: Final = samples.UPRIGHT["png"]

_FILES: Final = {
    "application/x-ndjson": [
        b'{"title": "Heat"}\n',
        b'{"title": "Heat", "release_year": 1995}\n{}\n',
        b"\n[1]",
    ],
    "text/csv": [b"title,genre\r\nHeat,Crime\r\n", b"title\n\n,\n", b'title,year\n"', b"title\nHeat\n"],
    **{media_type: [b"", PNG[:20], PNG] for media_type in MEDIA_TYPES},
}
for _media_type, _contents in _FILES.items():
    schemathesis.openapi.media_type(_media_type, st.sampled_from(_contents) | st.binary(max_size=64))

#: How long a stream is read that may have nothing to tell: longer where the service is slow.
_STREAM_SECONDS: Final = (0.1, 1.0, 5.0)
_STREAM_EVENTS: Final = 3
#: How many of a kind are remembered.
_REMEMBERED: Final = 50
#: Of ten requests, how many get what is remembered; and how often, of one, the rarer way of two is taken.
_FED: Final = 7
_SELDOM: Final = 0.25
#: Seconds for any other reply.
_PATIENCE: Final = 30.0

#: Headers that the document does not name, and what clients send in them.
_HEADERS: Final[Mapping[str, Sequence[str]]] = {
    "Accept": ("*/*", "application/json", "text/csv", "image/avif,*/*;q=0", "text/html;q=0.1", ";;q=,"),
    "Accept-Language": ("de, en;q=0.5",),
    "Origin": ("https://films.example", "null"),
    "Range": ("bytes=0-9", "bytes=-1", "bytes=9-1", "lines=1"),
    "X-Request-ID": ("a" * 128, "a b"),
    "traceparent": ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-0-0-0"),
    "Watchly-Position": ("0/0-0", "0/1B27F30-5a1e6c93f"),
    "Idempotency-Key": ("again", "0f9d3f64"),
    "If-None-Match": ("*", '"v1"', 'W/"v1", "v2"'),
    "If-Match": ("*", '"v1"', '"v1", "v2", "v3"', "v1"),
    "Sec-Fetch-Site": ("cross-site", "same-origin"),
}


class Fuzzer:
    """Sends cases, and counts and judges the replies.

    Args:
        people: who send them.
        chance: all chance.
        session: what they are sent by.

    Attributes:
        statuses: how many replies there were, by operation and status.
        wrong: what must not be, by operation and check: the first of each.
        sent: how many requests there were.
    """

    def __init__(self, people: People, chance: random.Random, session: requests.Session) -> None:
        self.people, self.chance, self._session = people, chance, session
        self._known: defaultdict[str, deque[str]] = defaultdict(lambda: deque(maxlen=_REMEMBERED))
        self.tickets: deque[Ticket] = deque(maxlen=_REMEMBERED)
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.wrong: dict[tuple[str, str], str] = {}
        self.sent = 0

    def send(self, case: Case, *, linked: bool = False) -> Response:
        """Send a case by somebody, with something in it that may be right, and judge the reply.

        What is `linked` has been filled in already, out of the reply before it.
        """
        name = operation_of(case)
        who = "admin's token" if linked and self.chance.randrange(4) else self.people.anybody()
        sender = self.people[who]
        if linked or self.chance.randrange(10) < _FED:
            if not linked:
                self._place(name, case)
            if name in _FILLERS:
                sender = _FILLERS[name](self, case, sender)
        headers = self._headers(sender, free=not linked)
        reply = self._sent(name, case, headers)
        if reply.status_code == HTTPStatus.UNAUTHORIZED:
            self.people.forget(who)
        if reply.status_code < HTTPStatus.MULTIPLE_CHOICES:
            self._learn(name, case, reply)
            if "Idempotency-Key" in case.headers:
                self._sent(name, case, headers)
        return reply

    def some(self, kind: str) -> str | None:
        """Something of a kind that a reply told."""
        return self.chance.choice(self._known[kind]) if self._known[kind] else None

    def take(self, kind: str) -> str | None:
        """The same, of what is good for one use: seldom another time."""
        value = self.some(kind)
        if value is not None and self.chance.random() > _SELDOM:
            self._known[kind].remove(value)
        return value

    def know(self, kind: str, value: object) -> None:
        """Remember something that a reply told."""
        if value is not None:
            self._known[kind].append(str(value))

    def _sent(self, name: str, case: Case, headers: dict[str, str]) -> Response:
        self.sent += 1
        reply = self._reply(name, case, headers)
        self.statuses[name, reply.status_code] += 1
        try:
            case.validate_response(reply, checks=CHECKS)
        except FailureGroup as group:
            for failure in group.exceptions:
                self.wrong.setdefault(
                    (name, f"{type(failure).__name__} {reply.status_code}"), str(group)[:3_000]
                )
        return reply

    def _reply(self, name: str, case: Case, headers: dict[str, str]) -> Response:
        if name == "streamChanges":
            for patience in _STREAM_SECONDS:  # in which it has to begin as well
                with suppress(requests.Timeout):
                    return case.call(session=self._session, headers=headers, timeout=patience)
        return case.call(session=self._session, headers=headers, timeout=_PATIENCE)

    def _headers(self, sender: Sender | None, *, free: bool) -> dict[str, str]:
        headers = {"X-Forwarded-For": address(self.chance)}
        if sender is not None:
            headers["Authorization"] = f"Bearer {sender.bearer}"
        while free and self.chance.randrange(4) == 0:
            header = self.chance.choice([*_HEADERS])
            headers[header] = self.chance.choice(_HEADERS[header])
        return headers

    def _place(self, name: str, case: Case) -> None:
        """Put what is known into the address of a case, in place of what is sure to be wrong there."""
        find = self.take if name in _ENDS else self.some
        for place in case.path_parameters or {}:
            if (value := find(place)) is not None:
                case.path_parameters[place] = value
        if self.chance.randrange(4) == 0 and (cursor := self.some(f"{name} cursor")) is not None:
            case.query = {"cursor": cursor}
        elif case.query and self.chance.random() > _SELDOM:
            case.query.pop("cursor", None)
            case.headers.pop("Watchly-Position", None)
            if "limit" in case.query:
                case.query["limit"] = self.chance.choice([1, 2, 200])

    def _learn(self, name: str, case: Case, reply: Response) -> None:
        told = reply.json() if reply.content[:1] == b"{" and name != "exportMovies" else {}
        if name in _IDS:
            self.know(_IDS[name], told["id"])
        if name == "addUser":
            self.know("email", told["email"])
        if image := told.get("image"):
            self.know("key", image["key"])
            self.know("pictured", told["id"])
        if name == "issueImageTicket":
            self.tickets.append(Ticket(str(case.path_parameters["movie_id"]), told["key"], told["url"]))
        self.know("refresh_token", told.get("refresh_token"))
        self.know(f"{name} cursor", told.get("next_cursor"))


class Ticket(NamedTuple):
    """A ticket for an image of a movie, and where it may be sent."""

    movie_id: str
    key: str
    url: str


#: What the `id` in a reply is the id of.
_IDS: Final[Mapping[str, str]] = {"addMovie": "movie_id", "addUser": "user_id", "addApiKey": "key_id"}

#: Operations after which what they are for is there no more.
_ENDS: Final = frozenset({"removeMovie", "removeUser", "revokeApiKey"})

Filler: TypeAlias = Callable[[Fuzzer, Case, Sender | None], Sender | None]


def _body(case: Case, body: JsonValue | bytes, media_type: str = "application/json") -> None:
    case.body, case.media_type = body, media_type


def _fill_movie(fuzzer: Fuzzer, case: Case, sender: Sender | None) -> Sender | None:
    if fuzzer.chance.random() < _SELDOM:
        _body(case, {"title": "Heat", "release_year": 1995})
    return sender


def _fill_image(fuzzer: Fuzzer, case: Case, sender: Sender | None) -> Sender | None:
    if fuzzer.chance.random() > _SELDOM:
        _body(case, PNG, "image/png")
    return sender


def _fill_detached(fuzzer: Fuzzer, case: Case, sender: Sender | None) -> Sender | None:
    if (pictured := fuzzer.take("pictured")) is not None:
        case.path_parameters["movie_id"] = pictured
    return sender


def _fill_account(fuzzer: Fuzzer, case: Case, sender: Sender | None) -> Sender | None:
    email = f"{fuzzer.chance.randrange(10**12)}@films.example"
    role = fuzzer.chance.choice(["viewer", "editor", "admin"])
    _body(case, {"email": email, "password": PASSWORD, "role": role})
    return sender


def _fill_sign_in(fuzzer: Fuzzer, case: Case, sender: Sender | None) -> Sender | None:
    if (email := fuzzer.some("email")) is not None:
        _body(case, {"email": email, "password": PASSWORD, "cookie": fuzzer.chance.random() < _SELDOM})
    return sender


def _fill_session(fuzzer: Fuzzer, case: Case, sender: Sender | None) -> Sender | None:
    if (token := fuzzer.take("refresh_token")) is not None:
        _body(case, {"refresh_token": token})
    return sender


def _fill_password(fuzzer: Fuzzer, case: Case, sender: Sender | None) -> Sender | None:
    if fuzzer.chance.random() > _SELDOM:
        return sender
    _body(case, {"current": PASSWORD, "new": "another incident"})
    return fuzzer.people.newcomer("viewer")


def _fill_me(fuzzer: Fuzzer, _case: Case, sender: Sender | None) -> Sender | None:
    return fuzzer.people["viewer's token"] if fuzzer.chance.random() < _SELDOM else sender


def _fill_api_key(fuzzer: Fuzzer, case: Case, _sender: Sender | None) -> Sender | None:
    if fuzzer.chance.random() < _SELDOM:
        _body(case, {"name": "key", "role": "viewer"})
    return fuzzer.people["admin's token"]


def _fill_ticket(fuzzer: Fuzzer, case: Case, sender: Sender | None) -> Sender | None:
    if fuzzer.chance.random() > _SELDOM:
        _body(case, {"content_type": "image/png", "bytes": len(PNG)})
    return sender


def _fill_upload(fuzzer: Fuzzer, case: Case, sender: Sender | None) -> Sender | None:
    here = [ticket for ticket in fuzzer.tickets if ticket.key == case.path_parameters.get("key")]
    if tickets := here or fuzzer.tickets:
        ticket = fuzzer.chance.choice(tickets)
        case.path_parameters["key"] = ticket.key
        case.query = dict(parse_qsl(urlsplit(ticket.url).query))
        if fuzzer.chance.random() > _SELDOM:
            case.headers.pop("Content-Range", None)
            _body(case, PNG, "image/png")
    return sender


def _fill_completion(fuzzer: Fuzzer, case: Case, sender: Sender | None) -> Sender | None:
    here = [ticket for ticket in fuzzer.tickets if ticket.key == case.path_parameters.get("key")]
    if tickets := here or fuzzer.tickets:
        ticket = fuzzer.chance.choice(tickets)
        case.path_parameters = {"movie_id": ticket.movie_id, "key": ticket.key}
    return sender


def _fill_revert(fuzzer: Fuzzer, case: Case, sender: Sender | None) -> Sender | None:
    if fuzzer.chance.random() > _SELDOM:
        _body(case, {"version": fuzzer.chance.choice([1, 1, 1, 2, 3])})
    return sender


def _fill_stream(fuzzer: Fuzzer, case: Case, sender: Sender | None) -> Sender | None:
    if fuzzer.chance.random() > _SELDOM:
        case.query = {"after": "0"}
        case.headers.pop("Last-Event-ID", None)
    return sender


_FILLERS: Final[Mapping[str, Filler]] = {
    "addMovie": _fill_movie,
    "putMovieImage": _fill_image,
    "deleteMovieImage": _fill_detached,
    "addUser": _fill_account,
    "signIn": _fill_sign_in,
    "refresh": _fill_session,
    "signOut": _fill_session,
    "changePassword": _fill_password,
    "getMe": _fill_me,
    "addApiKey": _fill_api_key,
    "issueImageTicket": _fill_ticket,
    "putImage": _fill_upload,
    "completeImageTicket": _fill_completion,
    "revertMovie": _fill_revert,
    "streamChanges": _fill_stream,
}


def operation_of(case: Case) -> str:
    """The id of the operation that a case is of."""
    return str(case.operation.definition.raw["operationId"])


def configured(schema: Schema) -> Schema:
    """A schema whose streams are read no longer than they tell something."""
    schema.config.max_stream_events = _STREAM_EVENTS
    return schema


def quiet(examples: int, steps: int = 20) -> settings:
    """As many examples, none of them kept or shrunk: what is wrong is noted, and the run goes on."""
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
