"""The backend that Watchly replaces, and Watchly, on one table at the same time."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

import httpx
import psycopg
import pytest

from tests.legacy import select
from tests.pictures import blank_png
from tests.services import Service, as_url, run
from watchly_adapters.testing.cloudinary import CloudinaryEmulator

EXAMPLE: Final = Path(__file__).parents[2] / "examples" / "express_backend"
PICTURE: Final = blank_png(600, 900)
#: How the model names its table, and what Sequelize makes of it when it is not told.
NAMED: Final = "{ tableName: 'movies', underscored: true }"
SECRET_KEY: Final = "not-a-secret-but-thirty-two-letters-long"  # noqa: S105 - of nobody
#: What the old backend calls what it shows.
NAMES: Final = {
    "releaseYear": "release_year",
    "imageUrl": "image_url",
    "createdAt": "created_at",
    "updatedAt": "updated_at",
}
TABLE: Final = """
    SELECT id, title, description, release_year, genre, image_url, created_at, updated_at
    FROM movies ORDER BY id
"""
#: Seconds that the old backend gets to start, and to stop.
PATIENCE: Final = 30.0


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which what the backend needs is installed."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("there is no Node.js with npm")
    folder = tmp_path_factory.mktemp("express")
    shutil.copy(EXAMPLE / "package.json", folder)
    command = ("npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts")
    done = subprocess.run(
        [*command, "--fetch-retries=1"], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )
    if done.returncode != 0:
        pytest.skip(f"npm cannot install what the example needs: {done.stderr[-300:]}")
    return folder


@pytest.fixture(scope="module")
def cloud() -> Iterator[str]:
    """The account that both keep images in."""
    with CloudinaryEmulator() as emulator:
        yield emulator.url


@contextmanager
def backend(folder: Path, database: str, cloud: str, options: str = NAMED) -> Iterator[httpx.Client]:
    """The old backend while it runs, far from UTC, with these options of its model."""
    source = (EXAMPLE / "server.js").read_text()
    assert NAMED in source
    (folder / "server.js").write_text(source.replace(NAMED, options))
    variables = {
        "DATABASE_URL": _as_node_wants(database),
        "CLOUDINARY_URL": cloud,
        "PORT": "0",
        "TZ": "Asia/Tokyo",
    }
    process = subprocess.Popen(
        ["node", "server.js"], cwd=folder, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://"), "it did not start"
        with httpx.Client(base_url=url, timeout=PATIENCE) as client:
            yield client
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


def _as_node_wants(database: str) -> str:
    """The URL with a host in its place, which Sequelize asks for, and the real one where pg looks."""
    return as_url(database).replace("@/", "@localhost/")


@contextmanager
def watchly(folder: Path, database: str, cloud: str) -> Iterator[httpx.Client]:
    variables = {"DATABASE_URL": as_url(database), "CLOUDINARY_URL": cloud, "WORKERS": "1"}
    with (
        Service(folder / "watchly.log", SECRET_KEY=SECRET_KEY, **variables) as service,
        httpx.Client(base_url=service.url, timeout=PATIENCE) as client,
    ):
        yield client


def command(database: str, *words: str) -> str:
    """What a command of Watchly says on this database."""
    done = run(*words, DATABASE_URL=as_url(database), SECRET_KEY=SECRET_KEY)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def compared(database: str) -> list[str]:
    """What the log and the table have in common."""
    done = run("rebuild", "--check", DATABASE_URL=as_url(database), SECRET_KEY=SECRET_KEY)
    return done.stdout.splitlines()


def fill(old: httpx.Client) -> None:
    """Movies of all kinds, three of them with an image."""
    for number in range(3):
        form = {"title": f"Ran {number}", "releaseYear": "1985", "genre": "Drama"}
        added = old.post("/api/movies", data=form, files={"image": ("a.png", PICTURE, "image/png")})
        assert added.status_code == 201
        assert added.json()["imageUrl"].startswith("https://res.cloudinary.com/")
    for movie in (
        {"title": "Amélie 🎬", "description": "x\r\ny " * 5_000, "releaseYear": 0},
        {"title": " untrimmed ", "genre": ""},
        {"title": "x" * 255, "genre": "z" * 100, "releaseYear": -1},
    ):
        assert old.post("/api/movies", json=movie).status_code == 201
    assert old.delete("/api/movies/2").status_code == 204


def of_old(old: httpx.Client) -> list[dict[str, object]]:
    """What the old backend shows, in Watchly's words."""
    movies = old.get("/api/movies", params={"limit": 1_000}).json()["movies"]
    return [_in_thousandths({NAMES.get(name, name): movie[name] for name in movie}) for movie in movies]


def of_watchly(new: httpx.Client) -> list[dict[str, object]]:
    """What Watchly shows, as far as the old backend knows it."""
    movies = new.get("/api/movies", params={"limit": 200}).json()["data"]
    for movie in movies:
        del movie["version"], movie["image"]
    return [_in_thousandths(movie) for movie in movies]


def _in_thousandths(movie: dict[str, object]) -> dict[str, object]:
    """The same with its times as JavaScript has them."""
    for name in ("created_at", "updated_at"):
        at = datetime.fromisoformat(str(movie[name]))
        movie[name] = at.replace(microsecond=at.microsecond // 1_000 * 1_000)
    return movie


@pytest.mark.timeout(300)
def test_both_on_one_table(packages: Path, cloud: str, empty_database: str, tmp_path: Path) -> None:
    with backend(packages, empty_database, cloud) as old:
        fill(old)
        before = of_old(old)
        rows = select(empty_database, TABLE)
        command(empty_database, "migrate")
        assert select(empty_database, TABLE) == rows
        assert of_old(old) == before
        with watchly(tmp_path, empty_database, cloud) as new:
            assert of_watchly(new) == before
            write_to_both(old, new, empty_database)
        assert compared(empty_database) == ["movies: 8", "missing: 1", "different: 0", "removed: 0"]
    # Back again: a version that begins anew, with its `sync()`, has all that Watchly wrote.
    with backend(packages, empty_database, cloud) as old, watchly(tmp_path, empty_database, cloud) as new:
        assert of_old(old) == of_watchly(new)
        assert old.post("/api/movies", json={"title": "Last"}).status_code == 201


def write_to_both(old: httpx.Client, new: httpx.Client, database: str) -> None:
    """Each of them writes, and both see it."""
    added = old.post("/api/movies", json={"title": "Ikiru", "releaseYear": 1952}).json()["id"]
    assert new.get(f"/api/movies/{added}").json()["title"] == "Ikiru"
    assert new.get("/api/movies", params={"q": "ikiru"}).json()["data"] == []
    assert "movies indexed: 1" in command(database, "reindex")
    assert [found["id"] for found in new.get("/api/movies", params={"q": "ikiru"}).json()["data"]] == [added]

    # A write of the old one is seen by whoever would write over it.
    tag = new.get(f"/api/movies/{added}").headers["ETag"]
    assert old.put(f"/api/movies/{added}", json={"genre": "Drama"}).status_code == 200
    stale = new.patch(f"/api/movies/{added}", json={"genre": "Comedy"}, headers={"If-Match": tag})
    assert stale.status_code == 412
    assert new.patch(f"/api/movies/{added}", json={"description": "To live."}).status_code == 200
    assert old.get(f"/api/movies/{added}").json()["description"] == "To live."

    one = new.post("/api/movies", json={"title": "Stalker", "release_year": 1979}).json()["id"]
    other = old.post("/api/movies", json={"title": "Solaris"}).json()["id"]
    assert (one, other) == (added + 1, added + 2)
    shown = new.put("/api/movies/1/image", content=PICTURE, headers={"Content-Type": "image/png"}).json()
    assert old.get("/api/movies/1").json()["imageUrl"] == shown["image_url"]
    # The log does not hear of what another program deletes.
    assert old.delete(f"/api/movies/{one}").status_code == 204
    assert new.get(f"/api/movies/{one}").status_code == 404
    assert new.delete(f"/api/movies/{other}").status_code == 204
    assert old.get(f"/api/movies/{other}").status_code == 404


@pytest.mark.timeout(300)
def test_a_table_with_the_name_of_its_model(
    packages: Path, cloud: str, empty_database: str, tmp_path: Path
) -> None:
    with backend(packages, empty_database, cloud, "{}") as old:
        fill(old)
        before = of_old(old)
        refused = run("migrate", DATABASE_URL=as_url(empty_database), SECRET_KEY=SECRET_KEY)
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
        assert "a table whose name has capital letters" in refused.stderr
        with psycopg.connect(empty_database, autocommit=True) as connection:
            connection.execute((EXAMPLE / "rename.sql").read_bytes())
        assert of_old(old) == before
        command(empty_database, "migrate")
        with watchly(tmp_path, empty_database, cloud) as new:
            assert of_watchly(new) == before
            write_to_both(old, new, empty_database)
        assert compared(empty_database) == ["movies: 8", "missing: 1", "different: 0", "removed: 0"]
    with (
        backend(packages, empty_database, cloud, "{}") as old,
        watchly(tmp_path, empty_database, cloud) as new,
    ):
        assert of_old(old) == of_watchly(new)
        assert old.post("/api/movies", json={"title": "Last"}).status_code == 201


def test_its_packages_are_exact_and_come_from_no_named_place() -> None:
    package = (EXAMPLE / "package.json").read_text()

    assert not (EXAMPLE / "package-lock.json").exists()
    assert "^" not in package
    assert "~" not in package
    assert "//" not in package
