"""Parts of the API as processes of their own on one database, which trust published keys alone."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import jwt
import pytest
from tests.http.cast import PASSWORD, bearing
from tests.http.conftest import problem_in
from tests.services import Service, as_url, run, wait_until

KEYS = "/.well-known/jwks.json"


class House:
    """Services on one database, and their operator.

    Attributes:
        common: the settings that all of them have.
        secret: that of those who sign.
    """

    def __init__(self, url: str, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self.common = {
            "DATABASE_URL": url,
            "AUTH": "on",
            "PUBLIC_READ": "false",
            "WATCHLY_HOME": str(folder / "home"),
            "WORKERS": "2",
        }
        self.secret = {"SECRET_KEY": secrets.token_hex(32)}
        self._number = 0

    def started(self, service: str, *words: str, **variables: str) -> Service:
        """A running service."""
        self._number += 1
        log = self._folder / f"log-{self._number}"
        running = Service(log, *words, SERVICE=service, **self.common, **variables)
        return self._stack.enter_context(running)

    def people(self, *words: str) -> Service:
        return self.started("people", *words, **self.secret)

    def apart(self, service: str, people: Service) -> Service:
        """One that has no secret, and knows where the people are."""
        return self.started(service, JWKS_URL=f"{people.url}{KEYS}")

    def command(self, *words: str, stdin: str = "") -> str:
        """What a command prints."""
        done = run(*words, stdin=stdin, **self.common, **self.secret)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def signed_in(self, people: Service, role: str) -> str:
        """The token of a new user."""
        email = f"{role}-{secrets.token_hex(4)}@films.example"
        self.command("user", "add", email, "--role", role, stdin=f"{PASSWORD}\n")
        return self.token_of(people, email)

    def token_of(self, people: Service, email: str) -> str:
        reply = httpx.post(f"{people.url}/api/auth/login", json={"email": email, "password": PASSWORD})
        assert reply.status_code == 200, reply.text
        return str(reply.json()["access_token"])


@pytest.fixture
def house(database_url: str, tmp_path: Path) -> Iterator[House]:
    with ExitStack() as stack:
        yield House(as_url(database_url), tmp_path, stack)


def kid_of(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


def added(movies: Service, token: str) -> httpx.Response:
    return httpx.post(f"{movies.url}/api/movies", json={"title": "Heat"}, headers=bearing(token))


def test_who_signs_in_at_one_service_writes_at_another(house: House) -> None:
    people = house.people()
    movies, changes = house.apart("movies", people), house.apart("changes", people)
    editor, viewer = house.signed_in(people, "editor"), house.signed_in(people, "viewer")

    movie = added(movies, editor)
    assert movie.status_code == 201, movie.text
    problem_in(added(movies, viewer), "not_allowed")
    read = httpx.get(f"{movies.url}{movie.headers['location']}", headers=bearing(viewer))
    assert read.json() == movie.json()
    log = httpx.get(f"{changes.url}/api/changes", headers=bearing(viewer)).json()["data"]
    assert [(change["kind"], change["actor"]) for change in log] == [("movie_added", "user:1")]
    # The token of the operator, and API keys, which are looked up in the database.
    assert added(movies, house.command("token")).status_code == 201
    key = httpx.post(
        f"{people.url}/api/api-keys", json={"name": "import", "role": "editor"}, headers=bearing(editor)
    )
    assert added(movies, key.json()["secret"]).status_code == 201

    for service, path in (
        (movies, "/api/me"),
        (movies, "/api/changes"),
        (people, "/api/movies"),
        (changes, KEYS),
    ):
        problem_in(httpx.get(f"{service.url}{path}", headers=bearing(editor)), "not_found")
    problem_in(httpx.get(f"{movies.url}/api/movies"), "not_signed_in")
    head, said, signature = editor.split(".")
    for forged in (f"{head}.{viewer.split('.')[1]}.{signature}", f"{head}.{said}.", "a.b.c"):
        problem_in(added(movies, forged), "not_signed_in")
    ready = httpx.get(f"{movies.url}/health/ready").json()
    assert ready == {"status": "up", "checks": {"database": "up", "image_store": "up", "keys": "up"}}

    asked = run("doctor", SERVICE="movies", JWKS_URL=f"{people.url}{KEYS}", COLUMNS="200", **house.common)
    assert asked.returncode == 0, asked.stdout
    assert "answers with 1" in asked.stdout
    assert "not needed" in asked.stdout

    # What was learned goes on counting while the people are away, also for those who come for the first time.
    late = house.signed_in(people, "editor")
    assert people.stop() == 0
    asked = run("doctor", SERVICE="movies", JWKS_URL=f"{people.url}{KEYS}", COLUMNS="200", **house.common)
    assert asked.returncode == 1
    assert "FAILS: keys: " in asked.stdout
    assert [added(movies, token).status_code for token in (editor, late)] == [201, 201]
    wait_until(
        lambda: httpx.get(f"{movies.url}/health/ready").json()["checks"]["keys"] == "degraded",
        "it was seen that the people are away",
    )
    assert added(movies, editor).status_code == 201
    assert [service.stop() for service in (movies, changes)] == [0, 0]
    assert "Traceback" not in movies.log + changes.log


def test_what_the_old_keys_signed_is_refused_soon_after_a_rotation(house: House) -> None:
    people = house.people()
    movies = house.apart("movies", people)
    old = house.signed_in(people, "editor")
    assert added(movies, old).status_code == 201

    house.command("keys", "rotate", "--at-once")
    # Nobody comes with a new token, so that it is the next fetch which tells.
    # Sixteen times in a row, for each of the two workers asks for itself.
    wait_until(
        lambda: all(added(movies, old).status_code == 401 for _ in range(16)), "the old token was refused"
    )
    new = house.signed_in(people, "editor")
    assert kid_of(new) != kid_of(old)
    wait_until(lambda: added(movies, new).status_code == 201, "the new token was taken")
    problem_in(added(movies, old), "not_signed_in")


def test_while_no_key_is_known_nobody_is_refused(house: House) -> None:
    people = house.people()
    token = house.signed_in(people, "editor")
    assert people.stop() == 0
    movies = house.apart("movies", people)

    refused = added(movies, token)
    problem_in(refused, "unavailable")
    assert refused.headers["retry-after"].isdigit()
    problem_in(added(movies, "a.b.c"), "not_signed_in")
    ready = httpx.get(f"{movies.url}/health/ready")
    assert (ready.status_code, ready.json()["checks"]["keys"]) == (200, "degraded")

    house.people("--port", str(urlsplit(people.url).port))
    wait_until(lambda: added(movies, token).status_code == 201, "the keys were fetched")


def test_images_apart_sign_tickets_and_need_the_secret_for_them(house: House) -> None:
    people = house.people()
    with pytest.raises(AssertionError, match="SECRET_KEY is missing"):
        house.apart("movies,images", people)
    images = house.started("movies,images", JWKS_URL=f"{people.url}{KEYS}", **house.secret)
    editor = house.signed_in(people, "editor")
    movie = added(images, editor).headers["location"]
    ticket = httpx.post(
        f"{images.url}{movie}/image/tickets",
        json={"content_type": "image/png", "bytes": 1_000},
        headers=bearing(editor),
    )
    assert ticket.status_code == 201, ticket.text


def test_the_doctor_tells_where_the_keys_are_and_no_more() -> None:
    url = "http://127.0.0.1:1/keys?key=canary"
    asked = run("doctor", SERVICE="movies", JWKS_URL=url, DATABASE_URL="memory:", COLUMNS="200")
    assert "http://127.0.0.1:1/keys" in asked.stdout
    assert "canary" not in asked.stdout
