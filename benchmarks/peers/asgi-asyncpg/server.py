"""The movies by a bare ASGI application and asyncpg: what is left when there is no framework."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import parse_qs

import asyncpg
import orjson

CONNECTIONS = 10
FIELDS = ("title", "description", "release_year", "genre")

COLUMNS = "id, title, description, release_year, genre, image_url, image, version, created_at, updated_at"
GET = f"SELECT {COLUMNS} FROM movies WHERE id = $1"
PAGE = f"SELECT {COLUMNS} FROM movies WHERE id > $1 ORDER BY id LIMIT $2"
SEARCH = f"SELECT {COLUMNS} FROM movies WHERE title ILIKE $1 ORDER BY id LIMIT $2"
ADD = f"""
    INSERT INTO movies (title, description, release_year, genre) VALUES ($1, $2, $3, $4)
    RETURNING {COLUMNS}
"""
REVISE = f"""
    UPDATE movies SET title = CASE WHEN $2 THEN $3 ELSE title END,
        description = CASE WHEN $4 THEN $5 ELSE description END,
        release_year = CASE WHEN $6 THEN $7::integer ELSE release_year END,
        genre = CASE WHEN $8 THEN $9 ELSE genre END, version = version + 1, updated_at = CURRENT_TIMESTAMP
    WHERE id = $1 RETURNING {COLUMNS}
"""

Message = dict[str, object]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

JSON = (b"content-type", b"application/json")
JPEG = (b"content-type", b"image/jpeg")
IMAGES = Path(os.environ["IMAGES"])
OPTIONS = orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z


class App:
    """The application, and its pool while it lives."""

    pool: asyncpg.Pool

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, or live as long as the server does."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if str(scope["path"]).startswith("/images/"):
            kind, status = JPEG, 200
            body = await asyncio.to_thread((IMAGES / Path(str(scope["path"])).name).read_bytes)
        else:
            kind = JSON
            status, body = await self._answer(scope, receive)
        head = {"type": "http.response.start", "status": status}
        await send({**head, "headers": [kind, (b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self.pool = await asyncpg.create_pool(min_size=2, max_size=CONNECTIONS, init=_teach_json)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.pool.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, scope: Message, receive: Receive) -> tuple[int, bytes]:
        method, (_, api, movies, *rest) = scope["method"], str(scope["path"]).split("/")
        if (api, movies) != ("api", "movies"):
            return 404, b'{"error":"not found"}'
        if method == "GET" and rest:
            return _one(200, await self.pool.fetchrow(GET, int(rest[0])))
        if method == "GET":
            given = parse_qs(scope["query_string"].decode())
            limit = int(given.get("limit", ["50"])[0])
            if "q" in given:
                rows = await self.pool.fetch(SEARCH, f"%{given['q'][0]}%", limit)
            else:
                rows = await self.pool.fetch(PAGE, int(given.get("after", ["0"])[0]), limit)
            return 200, orjson.dumps({"data": [dict(row) for row in rows]}, option=OPTIONS)
        members = orjson.loads(await _body(receive))
        if method == "POST":
            return _one(201, await self.pool.fetchrow(ADD, *map(members.get, FIELDS)))
        given = [value for field in FIELDS for value in (field in members, members.get(field))]
        return _one(200, await self.pool.fetchrow(REVISE, int(rest[0]), *given))


async def _teach_json(connection: asyncpg.Connection) -> None:
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=lambda value: orjson.dumps(value).decode(), decoder=orjson.loads
    )


async def _body(receive: Receive) -> bytes:
    pieces = []
    while True:
        message = await receive()
        pieces.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(pieces)


def _one(status: int, row: asyncpg.Record | None) -> tuple[int, bytes]:
    if row is None:
        return 404, b'{"error":"no such movie"}'
    return status, orjson.dumps(dict(row), option=OPTIONS)


app = App()
