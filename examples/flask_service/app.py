"""A Flask service that lists, adds and revises movies, and keeps them in PostgreSQL.

Each worker makes the application for itself, after it was forked: `Loop` begins a thread, and the database
is connected to from there.
"""

from __future__ import annotations

import os
from typing import Final

import msgspec
from flask import Flask, Response, request

from watchly_adapters.postgres import PostgresDatabase, migrate
from watchly_core import Catalogue, Cursor, MovieQuery, blocking
from watchly_core.errors import (
    Invalid,
    InvalidQuery,
    MalformedJSON,
    NotFound,
    Unavailable,
    VersionConflict,
    WatchlyError,
)
from watchly_core.imports import decode_json

#: The first of these that an error is tells its status.
STATUSES: Final[dict[type[WatchlyError], int]] = {
    InvalidQuery: 400,
    MalformedJSON: 400,
    Invalid: 422,
    NotFound: 404,
    VersionConflict: 412,
    Unavailable: 503,
}


def create_app(url: str | None = None) -> Flask:
    """The application on the database at `url`, or DATABASE_URL; `app.extensions["watchly"]` is its loop."""
    loop = blocking.Loop(timeout=10)
    url = url or os.environ["DATABASE_URL"]
    loop.run(migrate, url)
    database = loop.enter(PostgresDatabase(url))
    movies = blocking.Catalogue(loop, Catalogue(database.queries, database.transactions))
    app = Flask(__name__)
    app.extensions["watchly"] = loop

    @app.get("/movies")
    def find() -> Response:
        cursor = request.args.get("cursor")
        query = MovieQuery(
            q=request.args.get("q"),
            genre=request.args.get("genre"),
            cursor=Cursor.decode(cursor) if cursor else None,
        )
        return reply(movies.find(query))

    @app.get("/movies/<int:movie_id>")
    def get(movie_id: int) -> Response:
        return reply(movies.get(movie_id))

    @app.post("/movies")
    def add() -> Response:
        return reply(movies.add(members()), 201)

    @app.patch("/movies/<int:movie_id>")
    def revise(movie_id: int) -> Response:
        version = request.args.get("version", type=int)
        return reply(movies.revise(movie_id, members(), version=version))

    @app.errorhandler(WatchlyError)
    def refuse(error: WatchlyError) -> Response:
        status = next((status for kind, status in STATUSES.items() if isinstance(error, kind)), 500)
        faults = error.faults if isinstance(error, Invalid) else ()
        return reply({"error": str(error) if status < 500 else "try again later", "faults": faults}, status)

    return app


def members() -> dict[str, object]:
    value = decode_json(request.get_data())
    if not isinstance(value, dict):
        raise MalformedJSON("is no object")
    return value


def reply(content: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, mimetype="application/json")
