"""What the OpenAPI document shows of bodies: values of their types, so that they are what types say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from msgspec.structs import asdict

from watchly_core import GenreCount, Movie, MovieDraft, Page
from watchly_core.api_keys import ApiKeyDraft
from watchly_core.errors import Fault
from watchly_core.images import Image, Ticket
from watchly_core.imports import ImportReport, Rejection
from watchly_core.movies import MoviePatch
from watchly_core.people import Role, User, UserDraft, UserPatch
from watchly_http.api_keys import NewKey, ShownKey, ShownKeys
from watchly_http.changes import Changes, History, Revert
from watchly_http.feed import Change
from watchly_http.health import Health, Refusal
from watchly_http.images import TicketRequest
from watchly_http.movies import Genres, MovieForm
from watchly_http.openapi import Examples
from watchly_http.ops import Kinds
from watchly_http.people import PasswordChange, Users
from watchly_http.problems import KINDS, ChangesGoneProblem, ImportProblem, Kind, Problem
from watchly_http.sessions import Credentials, KeySet, RefreshToken, TokenPair

_THEN: Final = datetime(2026, 11, 22, 10, tzinfo=UTC)
_LATER: Final = _THEN + timedelta(minutes=5)
_REQUEST: Final = "6f1c0a9e5b7d4e53a2c1d0f4b8a97e31"
_KEY: Final = "0123456789abcdef0123456789abcdef"
_URL: Final = f"/images/{_KEY}"
_SECRET: Final = "…"  # noqa: S105 - none, but where one would be
_PASSWORD: Final = "correct horse battery"  # noqa: S105 - as above

_IMAGE: Final = Image(
    _KEY, 600, 900, "jpeg", 81_234, {name: f"{_URL}?variant={name}" for name in ("thumbnail", "card")}
)
_MOVIE: Final = Movie(7, "Heat", "A thief and a detective.", 1995, "Crime", _URL, _IMAGE, 2, _THEN, _LATER)
_CHANGE: Final = Change(41, "image_attached", 7, 2, _LATER, "user:1", _MOVIE)
_USER: Final = User(1, "ada@films.example", Role.EDITOR, _THEN, 1)
_FAULT: Final = Fault("too_large", "must be at most 2200", pointer="#/release_year")
_REJECTION: Final = Rejection(3, (_FAULT,))
_SHOWN_KEY: Final = ShownKey(
    id=7,
    name="nightly import",
    role=Role.EDITOR,
    prefix="k3bq7z",
    created_at=_THEN,
    expires_at=None,
    last_used_at=_LATER,
)


def _problem(kind: Kind) -> Problem:
    return Problem(
        f"/problems/{kind.code}",
        kind.title,
        kind.status,
        kind.explanation,
        "/api/movies",
        kind.code,
        _REQUEST,
        (_FAULT,) if kind.code == "validation" else (),
    )


_PROBLEMS: Final = {code: _problem(kind) for code, kind in KINDS.items()}
EXAMPLES: Final = Examples(
    values=(
        ApiKeyDraft(name=_SHOWN_KEY.name, role=_SHOWN_KEY.role),
        _CHANGE,
        Changes([_CHANGE], 41),
        ChangesGoneProblem(**asdict(_PROBLEMS["changes_gone"]), horizon=40),
        Credentials(email=_USER.email, password=_PASSWORD),
        _FAULT,
        Genres([GenreCount("Crime", 123), GenreCount("Drama", 45)]),
        Health("degraded", {"database": "up", "image_store": "down"}),
        History([_CHANGE], None),
        _IMAGE,
        ImportProblem(**asdict(_PROBLEMS["validation"]), rejected=(_REJECTION,), rejected_total=1),
        ImportReport(2, (_REJECTION,), 1, dry_run=False),
        KeySet(
            [{"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "k1", "x": "…", "y": "…"}]
        ),
        KINDS["not_found"],
        Kinds([KINDS["not_found"], KINDS["validation"]]),
        _MOVIE,
        MovieDraft(title="Heat", description=_MOVIE.description, release_year=1995, genre="Crime"),
        MovieForm(title="Heat", description=_MOVIE.description, release_year=1995, genre="Crime"),
        MoviePatch(release_year=1995, genre=None),
        NewKey(**asdict(_SHOWN_KEY), secret=_SECRET),
        Page((_MOVIE,), "eyJpZCI6N30"),
        PasswordChange(current=_PASSWORD, new="another horse battery"),
        _PROBLEMS["not_found"],
        RefreshToken(refresh_token=_SECRET),
        Refusal(**asdict(_PROBLEMS["unavailable"]), checks={"database": "down"}, draining=False),
        Revert(2),
        ShownKeys([_SHOWN_KEY]),
        Ticket(_KEY, "PUT", _URL, {"Content-Type": "image/jpeg"}, {}, _LATER),
        TicketRequest("image/jpeg", 81_234),
        TokenPair(access_token=_SECRET, expires_in=900, refresh_token=_SECRET),
        _USER,
        UserDraft(email=_USER.email, password=_PASSWORD, role=_USER.role),
        UserPatch(role=Role.VIEWER),
        Users([_USER], None),
    ),
    texts={
        "application/x-ndjson": '{"title":"Heat","release_year":1995,"genre":"Crime"}\n',
        "text/csv": "title,description,release_year,genre\r\nHeat,,1995,Crime\r\n",
        "text/event-stream": f"id: {_CHANGE.seq}\nevent: {_CHANGE.kind}\ndata: …\n\n",
    },
    problems=_PROBLEMS,
)
