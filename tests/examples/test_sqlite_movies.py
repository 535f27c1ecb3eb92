"""The store in SQLite: it is small, and is chosen by DATABASE_URL alone; its page runs its suites."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.examples.packages import MOST_LINES, install, lines_of, path_with
from tests.services import Service, run
from watchly_adapters.testing import samples

NAME = "sqlite_movies"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(NAME, tmp_path_factory.mktemp("sqlite"))


def test_it_is_small() -> None:
    assert lines_of(NAME) < MOST_LINES


def variables(installed: Path, tmp_path: Path) -> dict[str, str]:
    return {
        "DATABASE_URL": f"sqlite://{tmp_path}/movies.db",
        "AUTH": "off",
        "PYTHONPATH": path_with(installed),
        "WATCHLY_HOME": str(tmp_path),
    }


@pytest.fixture
def service(installed: Path, tmp_path: Path) -> Iterator[Service]:
    # It is for one process, whatever WORKERS says, and nothing there has to be signed.
    with Service(tmp_path / "log", **variables(installed, tmp_path), WORKERS="3") as found:
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
        assert client.get("/health/ready").json() == {"status": "up", "checks": {"database": "up"}}


def test_what_it_does_not_keep_is_not_there(service: Service) -> None:
    with httpx.Client(base_url=service.url) as client:
        for path in ("/api/me", "/api/movies/1/image", "/images/" + "0" * 32):
            refused = client.get(path)
            assert refused.status_code == 404
            assert refused.json()["detail"].endswith("This service keeps no images and no people.")
        # An image in a form is a part that is not known; one that nobody chose is none.
        for content in (samples.UPRIGHT["png"], bytes(2_000_000)):
            refused = client.post("/api/movies", data={"title": "Heat"}, files={"image": ("a.png", content)})
            assert refused.status_code == 422
            assert refused.json()["errors"] == [
                {
                    "code": "unknown_member",
                    "detail": "is an image, and this service keeps none",
                    "pointer": "#/image",
                }
            ]
        assert client.get("/api/changes").json()["data"] == []
        unchosen = {"image": ("", b"", "application/octet-stream")}
        assert client.post("/api/movies", data={"title": "Heat"}, files=unchosen).status_code == 201
        # Nobody is known, and everybody may do everything.
        headers = {"Authorization": "Bearer some.token.of-another"}
        assert client.get("/api/movies/1", headers=headers).status_code == 200
    assert "Traceback" not in service.log


@pytest.mark.parametrize(
    ("command", "more", "said"),
    [
        ("serve --port 0", {"AUTH": "on"}, "keeps no people, and AUTH is on"),
        ("serve --port 0", {"SERVICE": "movies,images"}, "SERVICE names images"),
        ("serve --port 0", {"RELAY": "on"}, "RELAY is on"),
        ("migrate", {}, "this command is for PostgreSQL"),
        ("token", {}, "needs a store that keeps people"),
        ("relay", {}, "needs a store that keeps targets"),
        ("export", {"DATABASE_URL": "sqlite:///nowhere/movies.db"}, "unable to open database file"),
    ],
)
def test_what_it_does_not_keep_is_refused(
    installed: Path, tmp_path: Path, command: str, more: dict[str, str], said: str
) -> None:
    done = run(*command.split(), **variables(installed, tmp_path) | more)
    assert done.returncode == 1
    assert said in done.stderr
    assert "; an example: " in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_account_is_refused_before_its_password_is_read(installed: Path, tmp_path: Path) -> None:
    done = run("user", "add", "ada@films.example", stdin="short\n", **variables(installed, tmp_path))
    assert "needs a store that keeps people" in done.stderr


def test_doctor_asks_for_nothing_that_it_does_not_need(installed: Path, tmp_path: Path) -> None:
    well = run("doctor", **variables(installed, tmp_path), COLUMNS="200")
    assert well.returncode == 0
    assert "images" not in well.stdout
    assert "not needed" in well.stdout
    ill = run("doctor", **variables(installed, tmp_path) | {"AUTH": "on"}, COLUMNS="200")
    assert ill.returncode == 1
    assert "FAILS: the store of DATABASE_URL keeps no people, and AUTH is on" in ill.stdout
    assert not (tmp_path / "images").exists()


def test_a_scheme_that_nobody_knows_is_told() -> None:
    done = run("export", DATABASE_URL="sqlite:///nowhere/movies.db")
    assert done.returncode == 1
    assert "DATABASE_URL must be a postgresql:// URL" in done.stderr
