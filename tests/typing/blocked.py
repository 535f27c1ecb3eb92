"""What the type checkers see of the blocking classes, whose methods are made from those of the others."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import assert_type

from watchly_core import Movie, MovieDraft, MovieQuery, Page, User, blocking
from watchly_core.imports import ImportReport, Row
from watchly_core.sessions import SignedIn


def movies(catalogue: blocking.Catalogue, rows: Iterable[Row]) -> None:
    assert_type(catalogue.get(1), Movie)
    assert_type(catalogue.get(movie_id=1), Movie)
    assert_type(catalogue.find(MovieQuery()), Page)
    assert_type(catalogue.remove(1, purge=True), None)
    assert_type(catalogue.at("0/1").get(1), Movie)
    assert_type(catalogue.export(), Generator[Sequence[MovieDraft], None, None])
    assert_type(catalogue.add_many(rows, skip_invalid=True), ImportReport)
    catalogue.get("1")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    catalogue.get(1, purge=True)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    catalogue.add_many([1])  # type: ignore[list-item] # pyright: ignore[reportArgumentType]


def images(gallery: blocking.Gallery, content: Iterable[bytes]) -> None:
    assert_type(gallery.attach(1, content, "image/png", version=2), Movie)
    assert_type(gallery.load("key"), AbstractContextManager[blocking.ImageFile])
    assert_type(gallery.max_bytes, int)
    assert_type(
        gallery.uploads.receive("key", content, "image/png", expires="", signature=""), tuple[int, int]
    )
    gallery.attach(1, b"whole", "image/png")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    with gallery.load("key") as file:
        assert_type(file.chunks(0, 10), Generator[bytes, None, None])


def people(accounts: blocking.Accounts, sessions: blocking.Sessions) -> None:
    assert_type(accounts.get(1), User)
    assert_type(sessions.sign_in("ada@films.example", "", address=""), SignedIn)
