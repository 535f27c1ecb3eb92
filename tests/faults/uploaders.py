"""Clients that write images in every way there is, leave in the middle, and remember what they were told."""

from __future__ import annotations

import io
import json
import random
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple
from urllib.parse import urljoin

import PIL.Image
from tests.faults.told import WITH_IMAGE, Shown, Told
from tests.faults.wire import Broken, Reply, form, send

#: Where a client that leaves does so.
LEAVES: Final = (0.0, 0.5, 0.99, 1.0)
#: What a service in trouble may say beside 2xx. Nothing that is sent here is a bad image, or none of ours.
_EXPECTED: Final = frozenset({404, 409, 412, 503, 504})
#: What such a reply has left undone; after 503 and 504 nobody knows.
_UNDONE: Final = frozenset({404, 409, 412})
#: Movies below which the next operation is another one.
_FEWEST: Final = 10
_WIDTH: Final = 150
#: With more bytes than are kept in memory, and with more than Cloudinary is sent in one piece.
_TALLER: Final = (3_000, 40_000)
_TRIES: Final = 3


class Odds(NamedTuple):
    """How likely it is that a client leaves, and the longest pause in seconds after a 503."""

    leave: float
    pause: float


class Picture(NamedTuple):
    """What is uploaded."""

    content: bytes
    media_type: str


class Uploaders:
    """Does operations, each as its number says.

    Args:
        url: where the service answers.
        deliver: where what an image's URL names is loaded from.
        told: remembers what is answered.
        seed: of all chance.
        odds: how the clients are.
    """

    def __init__(
        self,
        url: str,
        deliver: Callable[[str], str],
        told: Told,
        *,
        seed: int,
        odds: Odds,
    ) -> None:
        self._url, self._deliver, self._told = url, deliver, told
        self._seed, self._odds = seed, odds

    def begin(self, movies: int) -> None:
        """Make movies to start from, while nothing fails."""
        for number in range(movies):
            body = f'{{"title": "start {number}"}}'.encode()
            reply = send("POST", f"{self._url}/api/movies", body, {"Content-Type": "application/json"})
            assert reply.status == 201, reply
            self._told.see(reply)
            self._told.done("add", f"start {number}", surely=True)

    def operate(self, number: int) -> None:
        """One operation, and sometimes a look at a movie beside it."""
        chance = random.Random(f"uploaders/{self._seed}/{number}")  # noqa: S311 - to be repeated
        operations: Mapping[Callable[[random.Random, int], None], int] = {
            self._put: 26,
            self._put_form: 14,
            self._add: 20,
            self._upload: 20,
            self._detach: 10,
            self._remove: 10,
        }
        (operation,) = chance.choices(list(operations), list(operations.values()))
        if len(self._told.live) < _FEWEST:
            operation = self._add
        self._told.count(f"operation: {operation.__name__.strip('_').replace('_', ' ')}")
        operation(chance, number)
        if chance.random() < 0.3:
            self._look(chance)

    def _put(self, chance: random.Random, number: int) -> None:
        movie, picture = self._told.pick(chance), _picture(chance, number)
        headers = {"Content-Type": picture.media_type}
        if chance.random() < 0.1 and (version := self._told.least(movie)):
            headers["If-Match"] = f'"v{version}"'
        self._attach(chance, movie, picture, picture.content, headers)

    def _put_form(self, chance: random.Random, number: int) -> None:
        movie, picture = self._told.pick(chance), _picture(chance, number)
        self._attach(chance, movie, picture, *form({}, "image", *picture))

    def _attach(
        self, chance: random.Random, movie: int, picture: Picture, body: bytes, headers: Mapping[str, str]
    ) -> None:
        reply = self._ask(chance, "PUT", f"/api/movies/{movie}/image", body, headers, leaves=True)
        if isinstance(reply, Reply) and reply.status == 200:
            self._told.confirm(self._told.see(reply), picture.content)
            self._told.done("attach", movie, surely=True)
        elif _perhaps(reply):
            self._told.done("attach", movie, surely=False)

    def _add(self, chance: random.Random, number: int) -> None:
        picture, title = _picture(chance, number), f"{WITH_IMAGE}{number}"
        body, headers = form({"title": title}, "image", *picture)
        reply = self._ask(chance, "POST", "/api/movies", body, headers, leaves=True)
        if isinstance(reply, Reply) and reply.status == 201:
            self._told.confirm(self._told.see(reply), picture.content)
            self._told.done("add", title, surely=True)
        elif _perhaps(reply):
            self._told.done("add", title, surely=False)

    def _upload(self, chance: random.Random, number: int) -> None:
        movie, picture = self._told.pick(chance), _picture(chance, number)
        wanted = {"content_type": picture.media_type, "bytes": len(picture.content)}
        request = json.dumps(wanted).encode()
        headers = {"Content-Type": "application/json"}
        reply = self._ask(
            chance, "POST", f"/api/movies/{movie}/image/tickets", request, headers, leaves=False
        )
        if not isinstance(reply, Reply) or reply.status != 201:
            return
        ticket = reply.json
        key = str(ticket["key"])
        with self._told.held():
            self._told.tickets[key] = movie
        self._follow(chance, ticket, picture)
        for _ in range(_TRIES):
            # Twice at a time now and then, as by somebody with two windows.
            reply = self._ask(
                chance, "POST", f"/api/movies/{movie}/image/tickets/{key}/complete", b"", {}, leaves=False
            )
            if isinstance(reply, Reply) and reply.status == 200:
                self._told.see(reply)
                self._told.confirm(Shown(movie, 0, key), picture.content)
                return
            if isinstance(reply, Reply) and reply.status == 409:
                self._follow(chance, ticket, picture)

    def _follow(self, chance: random.Random, ticket: Mapping[str, object], picture: Picture) -> None:
        """Send an image by a ticket; one that broke off on its way to this service goes on."""
        method, url, fields = str(ticket["method"]), str(ticket["url"]), ticket["fields"]
        if isinstance(fields, dict) and fields:
            body, headers = form(fields, "file", *picture)
            self._ask(chance, method, url, body, headers, leaves=True, name="direct")
            return
        content, whole = picture.content, len(picture.content)
        headers = {"Content-Type": picture.media_type}
        reply = self._ask(chance, method, url, content, headers, leaves=True, name="direct")
        if isinstance(reply, Reply) and reply.status == 204:
            return
        asked = self._ask(
            chance,
            method,
            url,
            b"",
            {**headers, "Content-Range": f"bytes */{whole}"},
            leaves=False,
            name="ask",
        )
        if isinstance(asked, Reply) and asked.status == 202:
            start = int(asked.headers["upload-offset"])
            rest = {**headers, "Content-Range": f"bytes {start}-{whole - 1}/{whole}"}
            self._ask(chance, method, url, content[start:], rest, leaves=True, name="resume")

    def _detach(self, chance: random.Random, number: int) -> None:
        movie, purge = self._told.pick(chance), number % 2
        path = f"/api/movies/{movie}/image{'?purge=true' * purge}"
        reply = self._ask(chance, "DELETE", path, b"", {}, leaves=True)
        if isinstance(reply, Reply) and reply.status == 204:
            self._told.done("detach", movie, surely=True)
        elif _perhaps(reply):
            self._told.done("detach", movie, surely=False)

    def _remove(self, chance: random.Random, number: int) -> None:
        movie, purge = self._told.condemn(chance), number % 2
        path = f"/api/movies/{movie}{'?purge=true' * purge}"
        reply = self._ask(chance, "DELETE", path, b"", {}, leaves=True)
        if isinstance(reply, Reply) and reply.status == 204:
            self._told.done("remove", movie, surely=True)

    def _look(self, chance: random.Random) -> None:
        """A movie is at the version that was told last, or a later one; its images are loaded."""
        movie = self._told.pick(chance)
        least = self._told.least(movie)
        reply = self._ask(chance, "GET", f"/api/movies/{movie}", b"", {}, leaves=False)
        if not isinstance(reply, Reply):
            return
        if reply.status == 404 and self._told.least(movie) is not None:
            self._told.object(f"movie {movie} is gone, and nobody removed it")
        if reply.status != 200:
            return
        if least is not None and (shown := self._told.see(reply)).version < least:
            self._told.object(f"{shown} was shown after version {least}")
        if isinstance(image := reply.json["image"], dict):
            for url in (reply.json["image_url"], image["variants"]["thumbnail"]):
                self._ask(chance, "GET", self._deliver(str(url)), b"", {}, leaves=False, name="load")

    def _ask(  # noqa: PLR0913 - a request's parts, each with its name
        self,
        chance: random.Random,
        method: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        leaves: bool,
        name: str = "",
    ) -> Reply | Broken:
        leave_at = chance.choice(LEAVES) if leaves and chance.random() < self._odds.leave else None
        if leave_at is not None:
            self._told.count(f"fault: client gone at {leave_at:.0%}")
        url = urljoin(self._url, path)
        ours = url.startswith(self._url)
        began = time.monotonic()
        try:
            reply = send(method, url, body, headers, leave_at=leave_at, rudely=chance.random() < 0.5)
        except Broken as broken:
            if leave_at is None:
                self._told.count(f"reply: {name or method} cut")
            return broken
        finally:
            if ours:
                self._told.wait(time.monotonic() - began)
        self._told.count(f"reply: {name or method} {reply.status}{'' if ours else ' of the store'}")
        if ours and reply.status >= 300 and reply.status not in _EXPECTED:
            self._told.object(f"{method} {path}: {reply.status} {reply.body.decode(errors='replace')}")
        if ours and reply.status == 503:
            # As the reply asks, within limits, or an outage would be all that a run meets.
            time.sleep(min(float(reply.headers["retry-after"]), self._odds.pause) * chance.random())
        return reply


def _perhaps(reply: Reply | Broken) -> bool:
    """Whether what was asked may have been done, though nobody said so."""
    return reply.sent if isinstance(reply, Broken) else reply.status not in _UNDONE


def _picture(chance: random.Random, number: int) -> Picture:
    """An image that no other operation sends; some are large."""
    height = chance.choice(_TALLER) if chance.random() < 0.05 else 20 + number % 40
    noise = PIL.Image.frombytes("L", (_WIDTH, height), chance.randbytes(_WIDTH * height))
    file = io.BytesIO()
    if chance.random() < 0.7:
        noise.save(file, "PNG", compress_level=0)
        return Picture(file.getvalue(), "image/png")
    noise.save(file, "JPEG", quality=95)
    # As cameras add them; they are cut off, in the place where they were uploaded.
    return Picture(file.getvalue() + bytes(999), "image/jpeg")
