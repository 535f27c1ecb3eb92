"""A FastAPI service with a movie catalogue inside: rules, versions and the log are the catalogue's."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Final

import msgspec
from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response

from watchly_adapters.postgres import PostgresDatabase, migrate
from watchly_core import Catalogue, Cursor, Movie, MovieQuery
from watchly_core.errors import Invalid, InvalidQuery, NotFound, Unavailable, VersionConflict, WatchlyError

#: What each error is to clients; the first one that fits counts.
STATUSES: Final[tuple[tuple[type[WatchlyError], int], ...]] = (
    (InvalidQuery, 400),
    (Invalid, 422),
    (NotFound, 404),
    (VersionConflict, 412),
    (Unavailable, 503),
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Hold the catalogue open while the service runs."""
    url = os.environ["DATABASE_URL"]
    await migrate(url)
    async with PostgresDatabase(url) as database:
        app.state.catalogue = Catalogue(database.queries, database.transactions)
        yield


app = FastAPI(title="Films", lifespan=lifespan)


def catalogue_of(request: Request) -> Catalogue:
    """The catalogue, for routes that ask for it."""
    catalogue: Catalogue = request.app.state.catalogue
    return catalogue


def version_of(if_match: Annotated[str | None, Header()] = None) -> int | None:
    """The version that a write is based on; None for any."""
    if if_match is None or if_match == "*":
        return None
    if found := re.fullmatch(r'"v(\d{1,9})"', if_match):
        return int(found[1])
    raise HTTPException(400, 'If-Match must be an ETag of a movie, such as "v3"')


Films = Annotated[Catalogue, Depends(catalogue_of)]
Version = Annotated[int | None, Depends(version_of)]
#: The catalogue checks the members itself, and tells every fault at once.
Members = dict[str, object]


@app.exception_handler(WatchlyError)
async def refuse(_: Request, error: Exception) -> Response:
    """Say what was wrong: the one place where errors become statuses."""
    status = next((status for kind, status in STATUSES if isinstance(error, kind)), 500)
    if status == 500:
        raise error
    faults = error.faults if isinstance(error, Invalid) else ()
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, Unavailable) else None
    return answer({"detail": str(error), "errors": faults}, status, headers)


def answer(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A reply in JSON."""
    return Response(msgspec.json.encode(body), status, headers, "application/json")


def shown(movie: Movie, status: int = 200) -> Response:
    """A movie, with its version as ETag."""
    return answer(movie, status, {"ETag": f'"v{movie.version}"', "Location": f"/films/{movie.id}"})


@app.get("/films")
async def find(films: Films, q: str | None = None, limit: int = 20, cursor: str | None = None) -> Response:
    """A page of movies, and where the next one begins."""
    after = None if cursor is None else Cursor.decode(cursor)
    page = await films.find(MovieQuery(q=q, limit=min(limit, 100), cursor=after))
    return answer({"data": page.data, "next": page.next_cursor})


@app.post("/films")
async def add(films: Films, members: Members) -> Response:
    """Add a movie."""
    return shown(await films.add(members), 201)


@app.get("/films/{movie_id}")
async def get(films: Films, movie_id: int) -> Response:
    """One movie."""
    return shown(await films.get(movie_id))


@app.patch("/films/{movie_id}")
async def revise(films: Films, movie_id: int, members: Members, version: Version) -> Response:
    """Change some members of a movie, if it is at the version of If-Match."""
    return shown(await films.revise(movie_id, members, version=version))
