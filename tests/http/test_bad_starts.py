"""What is said where something is wrong at a start: one line, and the right exit code."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import httpx
import psycopg
import pytest
from tests.http.cast import bearing
from tests.services import Service, as_url, environment, run

SECRET, OTHER = "s3cret" * 6, "0ther" * 7


def warnings(service: Service) -> list[str]:
    return [line for line in service.log.splitlines() if "warning" in line]


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"SERVICE": "movie"}, "SERVICE must be a comma list of some of movies, images, people, changes"),
        ({"JWKS_URL": "http://127.0.0.1:1/jwks.json"}, "JWKS_URL is for a service without people"),
        ({"SERVICE": "movies", "JWKS_URL": "127.0.0.1"}, "JWKS_URL must be an http or https URL"),
        (
            {"SERVICE": "movies", "DATABASE_URL": "postgresql:///x"},
            "SECRET_KEY is missing, and DATABASE_URL is set",
        ),
        ({"SECRET_KEY": "short"}, "SECRET_KEY must have at least 32 characters"),
    ],
)
def test_a_wrong_setting_is_one_line(variables: dict[str, str], said: str, tmp_path: Path) -> None:
    done = run("serve", **{"WATCHLY_HOME": str(tmp_path / "home"), **variables})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"watchly: {said}")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "home").exists()


def test_another_secret_is_said_once_and_goes_on_with_keys_of_its_own(
    database_url: str, tmp_path: Path
) -> None:
    common = {"DATABASE_URL": as_url(database_url), "AUTH": "on", "PUBLIC_READ": "off", "WORKERS": "2"}
    old = run("token", SECRET_KEY=SECRET, **common).stdout.strip()
    with Service(tmp_path / "right", SECRET_KEY=SECRET, **common) as service:
        assert warnings(service) == []
    with Service(tmp_path / "wrong", SECRET_KEY=OTHER, **common) as service:
        (warning,) = warnings(service)
        assert "SECRET_KEY opens no signing key, so what they signed is refused" in warning
        assert "keys=1" in warning
        assert SECRET not in service.log
        assert OTHER not in service.log
        new = run("token", SECRET_KEY=OTHER, **common).stdout.strip()
        url = f"{service.url}/api/movies"
        assert [httpx.get(url, headers=bearing(token)).status_code for token in (old, new)] == [401, 200]
    # As one changes the secret: the new one has a key by now.
    with Service(tmp_path / "changed", SECRET_KEY=OTHER, **common) as service:
        assert warnings(service) == []


@pytest.mark.parametrize("hangs", [False, True])
def test_a_missing_replica_is_said_once_and_the_primary_answers(
    database_url: str, tmp_path: Path, *, hangs: bool
) -> None:
    common = {"DATABASE_URL": as_url(database_url), "SECRET_KEY": SECRET, "WORKERS": "2", "AUTH": "on"}
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        if hangs:
            bound.listen()  # and nobody accepts
        replica = f"postgresql://watchly:s3cret@127.0.0.1:{bound.getsockname()[1]}/films"
        with Service(tmp_path / "log", READ_DATABASE_URL=replica, **common) as service:
            (warning,) = warnings(service)
            assert "the replica does not answer, and the primary answers all reads" in warning
            assert ("no answer within 3 s" if hangs else "could not be reached") in warning
            assert "s3cret" not in service.log
            assert httpx.get(f"{service.url}/api/movies").status_code == 200
            ready = httpx.get(f"{service.url}/health/ready").json()
            assert (ready["status"], ready["checks"]["replica"]) == ("degraded", "degraded")


#: `watchly migrate` with less patience than it has.
IMPATIENT = """
import importlib, sys
importlib.import_module("watchly_adapters.postgres.migrate")._WAIT = 0.2
from watchly_http.cli import main
sys.argv = ["watchly", "migrate"]
main()
"""


def test_a_migration_without_its_lock_is_one_line_and_changes_nothing(empty_database: str) -> None:
    with psycopg.connect(empty_database) as connection:
        connection.execute("CREATE TABLE movies (id serial PRIMARY KEY, title varchar(255) NOT NULL)")
        connection.commit()
        connection.execute("LOCK TABLE movies IN ACCESS EXCLUSIVE MODE")
        done = subprocess.run(
            [sys.executable, "-c", IMPATIENT],
            env=environment(DATABASE_URL=as_url(empty_database)),
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("watchly: database: migration 0001_movies could not lock its table")
        assert done.stderr.count("\n") == 1
        assert connection.execute("SELECT count(*) FROM watchly_migrations").fetchone() == (0,)
