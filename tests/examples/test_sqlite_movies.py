"""The store in SQLite: it is small, and is chosen by DATABASE_URL alone; its page runs its suites."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.examples.packages import MOST_LINES, install, lines_of, path_with
from tests.services import Service, run

NAME = "sqlite_movies"
SECRET = "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(NAME, tmp_path_factory.mktemp("sqlite"))


def test_it_is_small() -> None:
    assert lines_of(NAME) < MOST_LINES


@pytest.fixture
def service(installed: Path, tmp_path: Path) -> Iterator[Service]:
    variables = {"DATABASE_URL": f"sqlite://{tmp_path}/movies.db", "SECRET_KEY": SECRET, "WORKERS": "1"}
    with Service(
        tmp_path / "log", **variables, PYTHONPATH=path_with(installed), WATCHLY_HOME=str(tmp_path)
    ) as found:
        yield found


def test_it_is_chosen_by_its_url(service: Service) -> None:
    with httpx.Client(base_url=service.url) as client:
        for _ in range(2):
            added = client.post("/api/movies", json={"title": "Heat"}, headers={"Idempotency-Key": "once"})
            assert added.status_code == 201
        found = client.get("/api/movies", params={"q": "haet"}).json()["data"]
        assert [movie["title"] for movie in found] == ["Heat"]
        assert client.delete("/api/movies/1").status_code == 204
        assert client.post("/api/movies/1/revert", json={"version": 1}).json()["version"] == 3
        kinds = [change["kind"] for change in client.get("/api/changes").json()["data"]]
        assert kinds == ["movie_added", "movie_removed", "movie_added"]
        # It keeps no people, and no images.
        for path in ("/api/me", "/api/movies/1/image"):
            assert client.get(path).status_code == 404
        assert client.get("/health/ready").json()["status"] == "up"


@pytest.mark.parametrize(
    ("command", "variables", "said"),
    [
        ("serve --port 0", {"AUTH": "on"}, "keeps no people, and AUTH is on"),
        ("serve --port 0", {"SERVICE": "movies,images"}, "SERVICE names images"),
        ("serve --port 0", {"RELAY": "on"}, "RELAY is on"),
        ("migrate", {}, "this command is for PostgreSQL"),
    ],
)
def test_what_it_does_not_keep_is_refused(
    installed: Path, tmp_path: Path, command: str, variables: dict[str, str], said: str
) -> None:
    given = {
        "DATABASE_URL": f"sqlite://{tmp_path}/movies.db",
        "SECRET_KEY": SECRET,
        "WORKERS": "1",
    } | variables
    done = run(*command.split(), **given, PYTHONPATH=path_with(installed), WATCHLY_HOME=str(tmp_path))
    assert done.returncode != 0
    assert said in done.stderr


def test_a_scheme_that_nobody_knows_is_told() -> None:
    done = run("export", DATABASE_URL="sqlite:///nowhere/movies.db")
    assert done.returncode == 1
    assert "DATABASE_URL must be a postgresql:// URL" in done.stderr
