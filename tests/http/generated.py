"""A program that uses the Python client which is generated from the OpenAPI document."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from uuid import uuid4

from watchly_api import AuthenticatedClient, Client
from watchly_api.api.images import get_image, put_movie_image
from watchly_api.api.movies import (
    add_movie,
    export_movies,
    get_movie,
    import_movies,
    list_movies,
    remove_movie,
    replace_movie,
    revise_movie,
)
from watchly_api.api.people import get_me, sign_in
from watchly_api.models import (
    Credentials,
    ImageForm,
    ImportProblem,
    ImportReport,
    Movie,
    MovieDraft,
    MovieForm,
    MoviePatch,
    Page,
    Problem,
    TokenPair,
    User,
)
from watchly_api.types import UNSET, File, Unset


def main(url: str, email: str, password: str, picture: Path) -> None:  # noqa: PLR0915 - a session
    """Do what clients do, and be sure of what comes of it."""
    tokens = sign_in.sync(client=Client(url), body=Credentials(email, password))
    assert isinstance(tokens, TokenPair)
    client = AuthenticatedClient(url, token=tokens.access_token)
    me = get_me.sync(client=client)
    assert isinstance(me, User)
    assert (me.email, me.role) == (email, "admin")

    key = str(uuid4())
    first, again = (
        add_movie.sync_detailed(client=client, body=MovieDraft("Heat", genre="Crime"), idempotency_key=key)
        for _ in range(2)
    )
    movie = first.parsed
    assert isinstance(movie, Movie)
    assert again.parsed == movie
    assert again.headers["Idempotency-Replayed"] == "true"
    assert movie.created_at is not None
    assert movie.created_at.tzinfo is not None

    tag = first.headers["ETag"]
    patch = MoviePatch(release_year=1995, genre=None)
    revised = revise_movie.sync(movie.id, client=client, body=patch, if_match=tag)
    assert isinstance(revised, Movie)
    assert (revised.title, revised.release_year, revised.genre) == ("Heat", 1995, None)
    stale = revise_movie.sync(movie.id, client=client, body=patch, if_match=tag)
    assert isinstance(stale, Problem)
    assert (stale.status, stale.code) == (412, "version_conflict")
    refused = replace_movie.sync(movie.id, client=client, body=MovieDraft("", release_year=1))
    assert isinstance(refused, Problem)
    assert not isinstance(refused.errors, Unset)
    assert [fault.pointer for fault in refused.errors] == ["#/title", "#/release_year"]

    def file() -> File:
        return File(io.BytesIO(picture.read_bytes()), picture.name, "image/png")

    shown = put_movie_image.sync(movie.id, client=client, body=ImageForm(file()))
    assert isinstance(shown, Movie)
    assert shown.image is not None
    assert shown.image.format_ == "png"
    assert set(shown.image.variants.additional_properties) == {"card", "thumbnail"}
    thumbnail = get_image.sync_detailed(shown.image.key, client=client, variant="thumbnail")
    assert thumbnail.headers["Content-Type"] == "image/webp"
    assert thumbnail.content
    form = add_movie.sync(client=client, body=MovieForm("Ronin", release_year=1998, image=file()))
    assert isinstance(form, Movie)
    assert form.image is not None

    lines = b"".join(b'{"title": "Part %d", "genre": "Serial"}\n' % number for number in range(5))
    report = import_movies.sync(client=client, body=File(io.BytesIO(lines)))
    assert isinstance(report, ImportReport)
    assert report.added == 5
    rejected = import_movies.sync(client=client, body=File(io.BytesIO(b'{"title": 1}')))
    assert isinstance(rejected, ImportProblem)
    assert [rejection.line for rejection in rejected.rejected] == [1]

    titles: list[str] = []
    cursor: str | Unset | None = UNSET
    while cursor is not None:
        page = list_movies.sync(client=client, genre="Serial", limit=2, cursor=cursor)
        assert isinstance(page, Page)
        titles += [found.title for found in page.data]
        cursor = page.next_cursor
    assert titles == [f"Part {number}" for number in range(5)]
    exported = export_movies.sync_detailed(client=client, genre="Serial")
    assert exported.content.count(b"\n") == 5

    removed = remove_movie.sync_detailed(movie.id, client=client)
    assert removed.status_code == 204
    gone = get_movie.sync(movie.id, client=client)
    assert isinstance(gone, Problem)
    assert gone.code == "not_found"


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))
