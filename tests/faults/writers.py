"""Clients that write movies and read them again, and remember what they were told."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Final

from tests.faults.told import Told
from tests.faults.wire import Broken, Reply, send

_JSON: Final = {"Content-Type": "application/json"}
#: What a service in trouble may say beside success. Nothing that is sent here is bad, or none of ours.
_TROUBLE: Final = frozenset({503, 504})
_EXPECTED: Final = _TROUBLE | {404, 409, 412}
#: Movies below which the next operation adds one.
_FEWEST: Final = 8
#: Seconds in which a key has to be answered, and between its sends.
_RESOLVED: Final = 60.0
_AGAIN: Final = 0.05


class Writers:
    """Does operations on movies, each as its number says, at one of the services.

    Args:
        urls: where they answer.
        told: remembers what is answered.
        seed: of all chance.
        headers: those that say who they are.
    """

    def __init__(
        self, urls: Sequence[str], told: Told, *, seed: int, headers: Mapping[str, str] | None = None
    ) -> None:
        self._urls, self._told, self._seed, self._headers = urls, told, seed, headers or {}
        self._lock = threading.Lock()
        self._titles: dict[tuple[int, int], str] = {}
        self._positions: dict[int, str] = {}

    def operate(self, number: int) -> None:
        """One operation, and a look at a movie beside it."""
        chance = random.Random(f"writers/{self._seed}/{number}")  # noqa: S311 - to be repeated
        (operation,) = chance.choices([self._add, self._add_once, self._revise, self._remove], [3, 4, 6, 2])
        if len(self._told.live) < _FEWEST:
            operation = self._add
        operation(chance, number)
        if self._told.live:
            self._look(chance)

    def send(
        self, chance: random.Random, method: str, path: str, body: Mapping[str, object], *, key: str = ""
    ) -> Reply | Broken:
        """The reply to a request, or how it broke off."""
        headers = {**_JSON, **({"Idempotency-Key": key} if key else {})}
        return self._ask(chance, method, path, json.dumps(body).encode(), headers)

    def _add(self, chance: random.Random, number: int) -> None:
        title = f"Film {self._seed}/{number}"
        reply = self.send(chance, "POST", "/api/movies", {"title": title})
        if isinstance(reply, Reply) and reply.status == 201:
            self._see(reply, title)
            self._told.done("add", title, surely=True)
        elif _perhaps(reply):
            self._told.done("add", title, surely=False)

    def _add_once(self, chance: random.Random, number: int) -> None:
        """Send it with a key until it is answered: then it was done, and once."""
        title = f"Film {self._seed}/{number} with a key"
        deadline = time.monotonic() + _RESOLVED
        while time.monotonic() < deadline:
            reply = self.send(chance, "POST", "/api/movies", {"title": title}, key=title.replace(" ", "-"))
            if isinstance(reply, Reply) and reply.status == 201:
                self._told.keep(title.replace(" ", "-"), self._told.see(reply))
                self._see(reply, title)
                self._told.done("add", title, surely=True)
                return
            self._told.count("sends again")
            time.sleep(_AGAIN)  # as a client that comes back
        self._told.object(f"{title} was not answered in time")

    def _revise(self, chance: random.Random, number: int) -> None:
        movie, title = self._told.pick(chance), f"Film {self._seed}/{number} revised"
        headers = {"Content-Type": "application/merge-patch+json"}
        if chance.random() < 0.5 and (version := self._told.least(movie)):
            headers["If-Match"] = f'"v{version}"'
        body = json.dumps({"title": title}).encode()
        reply = self._ask(chance, "PATCH", f"/api/movies/{movie}", body, headers)
        if isinstance(reply, Reply) and reply.status == 200:
            self._see(reply, title)

    def _remove(self, chance: random.Random, number: int) -> None:  # noqa: ARG002 - as the others
        movie = self._told.condemn(chance)
        reply = self._ask(chance, "DELETE", f"/api/movies/{movie}", b"", {})
        if isinstance(reply, Reply) and reply.status == 204:
            self._told.done("remove", movie, surely=True)

    def _look(self, chance: random.Random) -> None:
        """A movie is at the version that was told last, or a later one, whoever answers."""
        movie = self._told.pick(chance)
        with self._lock:
            position, least = self._positions.get(movie), self._told.least(movie)
        headers = {"Watchly-Position": position} if position else {}
        reply = self._ask(chance, "GET", f"/api/movies/{movie}", b"", headers)
        if not isinstance(reply, Reply):
            return
        if reply.status == 404 and self._told.least(movie) is not None:
            self._told.object(f"movie {movie} is gone, and nobody removed it")
        if reply.status == 200 and least is not None:
            version = reply.json["version"]
            assert isinstance(version, int)
            if version < least:
                self._told.object(f"movie {movie} was shown at {version} after {least}, seen {position}")
            self._told.count("looks")

    def _see(self, reply: Reply, title: str) -> None:
        """A write was acknowledged: it is at a version of its own, and as it was sent."""
        with self._lock:
            shown = self._told.see(reply)
            self._positions[shown.movie] = reply.headers["watchly-position"]
            if self._titles.setdefault((shown.movie, shown.version), title) != title:
                self._told.object(f"version {shown.version} of {shown.movie} was told to two writers")
        if reply.json["title"] != title:
            self._told.object(f"{shown} is {reply.json['title']}, and {title} was sent")

    def _ask(
        self, chance: random.Random, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> Reply | Broken:
        began = time.monotonic()
        try:
            reply = send(method, f"{chance.choice(self._urls)}{path}", body, {**self._headers, **headers})
        except Broken as broken:
            self._told.count(f"reply: {method} cut")
            return broken
        finally:
            self._told.wait(time.monotonic() - began)
        self._told.count(f"reply: {method} {reply.status}")
        if reply.status >= 300 and reply.status not in _EXPECTED:
            self._told.object(f"{method} {path}: {reply.status} {reply.body.decode(errors='replace')}")
        if reply.status == 503 and "retry-after" not in reply.headers:
            self._told.object(f"{method} {path}: 503 without Retry-After")
        return reply


def _perhaps(reply: Reply | Broken) -> bool:
    """Whether what was asked may have been done, though nobody said so."""
    return reply.sent if isinstance(reply, Broken) else reply.status in _TROUBLE
