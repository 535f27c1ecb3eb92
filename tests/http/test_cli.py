"""The command line, as a process of its own on an embedded home or a named database."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import httpx
import psycopg
import pytest
from tests.brokers import Nats
from tests.services import WATCHLY, Command, Service, as_url, environment, run, wait_until

from watchly_adapters.embedded import EmbeddedPostgres
from watchly_adapters.settings import load_settings
from watchly_adapters.testing.samples import UPRIGHT
from watchly_core.errors import Misconfigured

COLUMNS = "title,description,release_year,genre\n"


def titles(home: Path) -> list[str]:
    exported = run("export", WATCHLY_HOME=str(home))
    assert exported.returncode == 0, exported.stderr
    return [json.loads(line)["title"] for line in exported.stdout.splitlines()]


@pytest.mark.parametrize(
    "command",
    [
        "",
        "serve",
        "migrate",
        "import",
        "export",
        "sweep",
        "reindex",
        "rebuild",
        "backup",
        "restore",
        "doctor",
        "relay",
        "webhook add",
        "webhook list",
        "webhook remove",
    ],
)
def test_every_command_explains_itself_with_examples(command: str) -> None:
    shown = run(*command.split(), "--help")
    assert shown.returncode == 0
    assert "Example" in shown.stdout
    assert f"  watchly {command}" in shown.stdout or "DATABASE_URL=" in shown.stdout
    assert shown.stderr == ""


def test_sample_is_imported_exported_and_imported_again(home: Path, tmp_path: Path) -> None:
    imported = run("import", "--sample", WATCHLY_HOME=str(home))
    assert (imported.returncode, imported.stdout) == (0, "")
    with Path("src/watchly_http/cli/sample.csv").open(encoding="utf-8", newline="") as file:
        films = list(csv.DictReader(file))
    assert len(films) >= 250
    assert imported.stderr == f"movies added: {len(films)}, rows rejected: 0\n"
    assert titles(home) == [film["title"] for film in films]
    for name in ("movies.csv", "movies.ndjson"):
        written = tmp_path / name
        assert run("export", "-o", str(written), WATCHLY_HOME=str(home)).returncode == 0
        checked = run("import", "--dry-run", str(written), WATCHLY_HOME=str(home))
        assert checked.stderr == f"movies would be added: {len(films)}, rows rejected: 0\n"
    assert (tmp_path / "movies.csv").read_bytes() == run(
        "export", "--format", "csv", WATCHLY_HOME=str(home)
    ).stdout.replace("\n", "\r\n").encode()


def test_an_export_can_be_of_some_movies_in_an_order(home: Path) -> None:
    films = COLUMNS + "Heat,,1995,Crime\nAlien,,1979,Horror\nThe Godfather,A family.,1972,Crime\n"
    assert run("import", "--format", "csv", "-", stdin=films, WATCHLY_HOME=str(home)).returncode == 0
    for options, found in (
        (["--genre", "Crime", "--sort", "-title"], ["The Godfather", "Heat"]),
        (["--q", "god"], ["The Godfather"]),
        (["--q", "godfahter"], ["The Godfather"]),
        (["--release-year", "1979"], ["Alien"]),
        (["--min-release-year", "1975", "--max-release-year", "1990"], ["Alien"]),
        (["--sort", "release_year"], ["The Godfather", "Alien", "Heat"]),
        (["--q", "?"], []),
    ):
        exported = run("export", *options, WATCHLY_HOME=str(home))
        assert (exported.returncode, exported.stderr) == (0, "")
        assert [json.loads(line)["title"] for line in exported.stdout.splitlines()] == found, options


def test_a_bad_row_is_named_and_nothing_is_added(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "films.csv"
    path.write_text(COLUMNS + 'Heat,"two\nlines",1995,Crime\n,,3000,\nAlien,,soon,\n', encoding="utf-8")
    rejects = tmp_path / "rejects.ndjson"
    imported = run("import", "--rejects", str(rejects), str(path), WATCHLY_HOME=str(home))
    assert imported.returncode == 1
    assert imported.stderr.splitlines() == [
        "line 4: title: is required; release_year: must be at most 2200",
        "line 5: release_year: must be an integer or null",
        "watchly: nothing was added: rows that break rules: 2",
    ]
    assert [json.loads(line)["line"] for line in rejects.read_text().splitlines()] == [4, 5]
    assert titles(home) == []


def test_bad_rows_are_left_out_when_asked(home: Path) -> None:
    text = COLUMNS + "Heat,,1995,\n,,,\nAlien,,1979,\n"
    imported = run("import", "--on-error", "skip", "--format", "csv", "-", stdin=text, WATCHLY_HOME=str(home))
    assert imported.returncode == 0
    assert "movies added: 2, rows rejected: 1" in imported.stderr
    assert titles(home) == ["Heat", "Alien"]


def test_many_bad_rows_do_not_flood_the_terminal(home: Path) -> None:
    imported = run("import", "--format", "csv", "-", stdin=COLUMNS + ",,,x\n" * 5_000, WATCHLY_HOME=str(home))
    assert imported.returncode == 1
    assert len(imported.stderr.splitlines()) == 22


def test_what_spreadsheets_write_is_read(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "films.csv"
    text = 'genre,title\r\nDrama,"Amélie, or ""le fabuleux destin"""\r\n,七人の侍\r\n'
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert run("import", str(path), WATCHLY_HOME=str(home)).returncode == 0
    assert titles(home) == ['Amélie, or "le fabuleux destin"', "七人の侍"]


def test_broken_utf8_is_named_by_line(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "films.csv"
    path.write_bytes(COLUMNS.encode() + b"Heat,,,\nAm\xe9lie,,,\n")
    imported = run("import", str(path), WATCHLY_HOME=str(home))
    assert imported.returncode == 1
    assert imported.stderr.startswith("line 3: title: ")
    assert "UTF-8" in imported.stderr
    assert "Traceback" not in imported.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["import", "--format", "csv", "-"], "the column 'year' is not one of title"),
        (["import", "--format", "csv", "--ignore-unknown", "-"], "movies added: 1"),
        (["import", "-"], "say --format csv or --format ndjson"),
        (["import"], "name a FILE or --sample"),
        (["import", "--sample", "-"], "name a FILE or --sample"),
        (["import", "/nowhere.csv"], "does not exist"),
        (["export", "-o", "/nowhere/movies.csv"], "No such file or directory"),
        (["export", "--sort", "rating"], "watchly: sort: must be a list of id, title"),
        (["export", "--q", "a " * 33], "watchly: q: must have at most 32 words"),
        (["export", "--release-year", "soon"], "is not a valid integer"),
        (["export", "-o", "movies.xlsx"], "say --format csv or --format ndjson"),
    ],
)
def test_wrong_use_is_one_clear_error(home: Path, arguments: list[str], said: str) -> None:
    done = run(*arguments, stdin="title,year\nHeat,1995\n", WATCHLY_HOME=str(home))
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == (
        0 if "added" in said else 1 if "column" in said or "No such" in said or "must" in said else 2
    )


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"PORT": "http"}, "PORT must be an integer from 0 to 65535; an example: PORT=8080"),
        ({"HOST": "256.1.1.1", "DATABASE_URL": "memory:"}, "HOST"),
        ({"DATABASE_URL": "mysql://x"}, "DATABASE_URL must be a postgresql:// URL"),
        ({"DATABASE_URL": "postgresql://u:s3cret@127.0.0.1/x"}, "SECRET_KEY is missing"),
        ({"CLOUDINARY_API_KEY": "k"}, "CLOUDINARY_API_SECRET is missing"),
        ({"WATCHLY_HOME": "/dev/null/x"}, "WATCHLY_HOME"),
    ],
)
def test_serve_refuses_a_bad_setting_in_one_line(
    variables: dict[str, str], said: str, fresh_home: Path
) -> None:
    done = run("serve", **{"WATCHLY_HOME": str(fresh_home), **variables})
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "s3cret" not in done.stderr


@pytest.mark.parametrize("command", ["migrate", "import --sample", "export", "sweep", "reindex"])
def test_memory_is_no_place_for_commands(command: str) -> None:
    done = run(*command.split(), DATABASE_URL="memory:")
    assert done.returncode == 1
    assert "keeps nothing between commands" in done.stderr


def test_a_dotenv_file_is_read_below_the_environment(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PORT=nonsense\nLOG_LEVEL=warning\n")
    with pytest.raises(Misconfigured, match="PORT"):
        load_settings(tmp_path / ".env")


def test_serve_makes_its_home_answers_and_stops_cleanly(fresh_home: Path, tmp_path: Path) -> None:
    with Service(tmp_path / "log", WATCHLY_HOME=str(fresh_home)) as service:
        assert httpx.get(f"{service.url}/health/ready").json()["checks"]["database"] == "up"
        created = httpx.post(f"{service.url}/api/movies", json={"title": "Heat"})
        assert created.status_code == 201
        secret = (fresh_home / "secret_key").read_text()
        assert titles(fresh_home) == ["Heat"]
        assert httpx.get(f"{service.url}/health/live").status_code == 200
        assert service.stop() == 0
    assert not (fresh_home / "postgres/data/postmaster.pid").exists()
    with Service(tmp_path / "log", WATCHLY_HOME=str(fresh_home)) as service:
        assert httpx.get(f"{service.url}{created.headers['location']}").json() == created.json()
        assert (fresh_home / "secret_key").read_text() == secret
        assert service.stop(signal.SIGINT) == 0
    assert not (fresh_home / "postgres/data/postmaster.pid").exists()


def test_two_services_share_a_home_and_only_the_last_stops_the_database(
    fresh_home: Path, tmp_path: Path
) -> None:
    with (
        Service(tmp_path / "one", WATCHLY_HOME=str(fresh_home)) as one,
        Service(tmp_path / "two", WATCHLY_HOME=str(fresh_home)) as two,
    ):
        created = httpx.post(f"{one.url}/api/movies", json={"title": "Heat"})
        assert httpx.get(f"{two.url}{created.headers['location']}").json() == created.json()
        assert one.stop() == 0
        assert httpx.get(f"{two.url}{created.headers['location']}").status_code == 200
        assert two.stop() == 0
    assert not (fresh_home / "postgres/data/postmaster.pid").exists()


def test_a_taken_port_is_one_line(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run("serve", WATCHLY_HOME=str(home), PORT=port)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert port in done.stderr


def test_serve_on_the_fakes_needs_nothing(tmp_path: Path) -> None:
    variables = {"DATABASE_URL": "memory:", "WATCHLY_HOME": str(tmp_path / "home"), "LOG_FORMAT": "json"}
    with Service(tmp_path / "log", "--workers", "4", **variables) as service:
        assert httpx.post(f"{service.url}/api/movies", json={"title": "Heat"}).status_code == 201
        request_id = httpx.get(f"{service.url}/api/movies/1").headers["x-request-id"]
        assert service.stop() == 0
        logged = [json.loads(line) for line in service.log.splitlines() if line.startswith("{")]
    assert not (tmp_path / "home").exists()
    assert {
        "method": "GET",
        "path": "/api/movies/1",
        "status": 200,
        "request_id": request_id,
    }.items() <= logged[-1].items()


def test_serve_on_a_named_database_migrates_it(empty_database: str, tmp_path: Path) -> None:
    url = as_url(empty_database)
    variables = {"DATABASE_URL": url, "SECRET_KEY": "k" * 32, "WATCHLY_HOME": str(tmp_path / "home")}
    with Service(tmp_path / "log", **variables) as service:
        assert httpx.post(f"{service.url}/api/movies", json={"title": "Heat"}).status_code == 201
        assert service.stop() == 0
    assert run("export", **variables).stdout == (
        '{"title":"Heat","description":null,"release_year":null,"genre":null}\n'
    )


#: The command line, which waits for a database a moment where it would wait for half a minute: for a third
#: time after more than a second.
_IMPATIENT = """
from watchly_adapters.postgres import migrate
migrate.__kwdefaults__["wait"] = 1.7
from watchly_http.cli import main
main()
"""


def test_a_database_out_of_reach_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    url = f"postgresql://watchly:s3cret@127.0.0.1:{port}/watchly"
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _IMPATIENT, "migrate"],
        env=environment(DATABASE_URL=url, WATCHLY_HOME=str(tmp_path)),
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert time.monotonic() - started > 1.0, "it was not asked again"
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert f"127.0.0.1:{port}" in done.stderr
    assert "s3cret" not in done.stderr


def test_doctor_tells_what_answers_and_what_does_not(home: Path, tmp_path: Path) -> None:
    well = run("doctor", WATCHLY_HOME=str(home), COLUMNS="200")
    assert well.returncode == 0
    assert "answers: PostgreSQL" in well.stdout
    assert "stores and deletes" in well.stdout
    assert f"{home / 'secret_key'}, made once" in well.stdout
    blocked = tmp_path / "images"
    blocked.write_text("a file where a folder should be")
    ill = run("doctor", WATCHLY_HOME=str(home), IMAGE_STORE_URL=blocked.as_uri(), COLUMNS="200")
    assert ill.returncode == 1
    assert "FAILS" in ill.stdout


def test_sweep_deletes_what_is_due(home: Path, tmp_path: Path) -> None:
    gif = UPRIGHT["gif"]
    with Service(tmp_path / "log", WATCHLY_HOME=str(home)) as service:
        movie = httpx.post(f"{service.url}/api/movies", json={"title": "Heat"}).headers["location"]
        put = httpx.put(f"{service.url}{movie}/image", content=gif, headers={"content-type": "image/gif"})
        assert put.status_code == 200
        image = f"{service.url}{put.json()['image_url']}"
        assert httpx.get(image).content == gif
        assert httpx.delete(f"{service.url}{movie}?purge=true").status_code == 204
        swept = run("sweep", WATCHLY_HOME=str(home))
        assert (swept.returncode, swept.stderr) == (0, "images deleted: 1, to be tried again: 0\n")
        assert httpx.get(image).status_code == 404


def test_a_reader_that_leaves_early_is_told_nothing(home: Path) -> None:
    assert run("import", "--sample", WATCHLY_HOME=str(home)).returncode == 0
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [WATCHLY, "export"],
        stdout=write,
        stderr=subprocess.PIPE,
        env=environment(WATCHLY_HOME=str(home)),
        check=False,
        cwd="/",
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_quote_that_is_never_closed_ends_the_import_whatever_is_skipped(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "films.csv"
    path.write_text('title,description\nHeat,ok\nA,"' + "injected,row\n" * 20_000 + '"\nB,ok\n')
    imported = run("import", "--on-error", "skip", str(path), WATCHLY_HOME=str(home))
    assert imported.returncode == 1
    assert "what starts at line 3 field larger than" in imported.stderr
    assert titles(home) == []


def test_a_line_without_an_end_is_refused(home: Path) -> None:
    imported = run(
        "import", "--format", "ndjson", "-", stdin='{"title":"' + "x" * 2_000_000, WATCHLY_HOME=str(home)
    )
    assert imported.returncode == 1
    assert "what starts at line 1 is longer than 1000000 bytes" in imported.stderr


def test_rejects_never_empty_the_file_that_is_imported(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "films.csv"
    path.write_text(COLUMNS + "Heat,,,\n")
    imported = run("import", str(path), "--rejects", str(path), WATCHLY_HOME=str(home))
    assert imported.returncode == 2
    assert path.read_text() == COLUMNS + "Heat,,,\n"


def test_an_export_takes_the_place_of_a_file_and_of_nothing_else(home: Path, tmp_path: Path) -> None:
    assert run("import", "--sample", WATCHLY_HOME=str(home)).returncode == 0
    whole = run("export", WATCHLY_HOME=str(home)).stdout
    private = tmp_path / "private.ndjson"
    private.write_text("old")
    private.chmod(0o600)
    link = tmp_path / "link.ndjson"
    link.symlink_to(private)
    assert run("export", "-o", str(link), WATCHLY_HOME=str(home)).returncode == 0
    assert link.is_symlink()
    assert private.read_text() == whole
    assert private.stat().st_mode & 0o777 == 0o600
    pipe = tmp_path / "pipe.ndjson"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True) as reader:
        assert run("export", "-o", str(pipe), WATCHLY_HOME=str(home)).returncode == 0
        assert reader.communicate(timeout=60)[0] == whole
    assert pipe.is_fifo()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_stopped_stops_what_it_started(fresh_home: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        [WATCHLY, "import", "--format", "csv", "-"],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(WATCHLY_HOME=str(fresh_home)),
        cwd="/",
    ) as command:
        pid_file = fresh_home / "postgres/data/postmaster.pid"
        wait_until(lambda: pid_file.exists() and "ready" in pid_file.read_text(), "the database runs")
        command.send_signal(number)
        assert command.wait(60) != 0
    assert not pid_file.exists()


def start_and_stop(home: Path, **variables: str) -> None:
    """Start a service, and stop it before it serves: that is no failure."""
    with subprocess.Popen(
        [WATCHLY, "serve", "--port", "0"],
        stderr=subprocess.PIPE,
        env=environment(WATCHLY_HOME=str(home), **variables),
        cwd="/",
        start_new_session=True,
    ) as service:
        wait_until((home / "postgres").exists, "it has begun")
        service.terminate()
        assert service.wait(60) == 0
        assert service.stderr is not None
        assert b"Traceback" not in service.stderr.read()


def test_a_service_that_is_stopped_while_it_starts_is_no_failure(fresh_home: Path) -> None:
    start_and_stop(fresh_home)
    assert not (fresh_home / "postgres/data/postmaster.pid").exists()


#: Sessions that build an index and wait for the end of transactions of others.
BUILDING: Final = """
    SELECT FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%INDEX CONCURRENTLY%'
    AND wait_event = 'virtualxid'
"""


def test_a_service_that_is_told_again_while_it_stops_migrating_ends_well(
    empty_database: str, tmp_path: Path
) -> None:
    variables = {"DATABASE_URL": as_url(empty_database), "SECRET_KEY": "k" * 32}
    with (
        psycopg.connect(empty_database, autocommit=True) as looking,
        psycopg.connect(empty_database) as old,
        Command(tmp_path / "log", "serve", "--port", "0", **variables) as service,
    ):
        old.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        old.execute("SELECT 1")  # its snapshot is what the index waits for
        wait_until(lambda: bool(looking.execute(BUILDING).fetchall()), "an index is being built")
        for _ in range(20):
            service.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                service.process.wait(0.005)
        assert service.process.wait(60) == 0, service.log
        assert "Traceback" not in service.log


def test_a_module_that_never_ends_loading_does_not_hold_up_the_stop(fresh_home: Path, tmp_path: Path) -> None:
    # As a signal in the midst of an import can leave it behind.
    lines = (
        "import _frozen_importlib",
        "lock = _frozen_importlib._get_module_lock('litestar.app')",
        "lock.acquire()",
    )
    (tmp_path / "sitecustomize.py").write_text("\n".join(lines))
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    start_and_stop(fresh_home, PYTHONPATH=path)


#: Tells the main thread to stop in the midst of a destructor, where Python drops what that raises.
TOLD_AT_A_BAD_MOMENT: Final = """
import os, signal, sys, threading

class Teller:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        sum(range(1000))

class Finder:
    def find_spec(self, name, path=None, target=None):
        handler = getattr(signal.getsignal(signal.SIGTERM), "__qualname__", "")
        if handler.startswith("stoppable") and threading.current_thread() is threading.main_thread():
            sys.meta_path.remove(self)
            Teller()

sys.meta_path.insert(0, Finder())
"""


def test_a_service_that_is_told_at_a_bad_moment_of_its_start_stops(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(TOLD_AT_A_BAD_MOMENT)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    variables = {"DATABASE_URL": "memory:", "IMAGE_STORE_URL": "memory:", "PYTHONPATH": path}
    with Command(tmp_path / "log", "serve", "--port", "0", **variables) as service:
        assert service.process.wait(60) == 0
        assert "Exception ignored in: <function Teller" in service.log


def test_sweep_drops_old_events_and_receipts_as_well(home: Path, tmp_path: Path) -> None:
    with Service(tmp_path / "log", WATCHLY_HOME=str(home), SWEEP_INTERVAL="0") as service:
        movies = f"{service.url}/api/movies"
        movie = httpx.post(movies, json={"title": "Ran"}, headers={"idempotency-key": "k"})
        httpx.patch(f"{service.url}{movie.headers['location']}", json={"genre": "Drama"})
        assert len(httpx.get(f"{service.url}/api/changes").json()["data"]) == 2
    with EmbeddedPostgres(home) as url, psycopg.connect(url, autocommit=True) as connection:
        assert connection.execute("UPDATE receipts SET expires_at = now()").rowcount == 1

        kept = run("sweep", WATCHLY_HOME=str(home))
        swept = run("sweep", WATCHLY_HOME=str(home), LOG_RETENTION="0")

        assert (kept.returncode, kept.stderr) == (0, "images deleted: 0, to be tried again: 0\n")
        assert swept.stderr == "events pruned: 1\nimages deleted: 0, to be tried again: 0\n"
        assert connection.execute("SELECT count(*) FROM receipts").fetchone() == (0,)


def test_sweep_goes_on_until_nothing_is_due(home: Path) -> None:
    with EmbeddedPostgres(home) as url, psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO images (key, state, movie_id, width, height, format, bytes, due_at)"
            " SELECT md5(n::text), 'discarded', 1, 1, 1, 'gif', 1, now() FROM generate_series(1, 1200) n"
        )
    swept = run("sweep", WATCHLY_HOME=str(home))
    assert (swept.returncode, swept.stderr) == (0, "images deleted: 1200, to be tried again: 0\n")


def test_doctor_asks_the_broker_and_does_not_show_its_password(home: Path, tmp_path: Path) -> None:
    with Nats(tmp_path, "--user", "films", "--pass", "s3cret") as broker:
        url = broker.url.replace("nats://", "nats://films:s3cret@")
        well = run("doctor", WATCHLY_HOME=str(home), NATS_URL=url, COLUMNS="200")
        assert well.returncode == 0
        assert f"NATS at {broker.url.removeprefix('nats://')}" in well.stdout
        assert "s3cret" not in well.stdout + well.stderr
    gone = run("doctor", WATCHLY_HOME=str(home), NATS_URL=url, COLUMNS="200")
    assert gone.returncode == 1
    assert "FAILS: broker: nobody answers there" in gone.stdout
    assert "s3cret" not in gone.stdout + gone.stderr


def test_doctor_changes_nothing(empty_database: str, tmp_path: Path) -> None:
    variables = {"DATABASE_URL": as_url(empty_database), "WATCHLY_HOME": str(tmp_path), "COLUMNS": "200"}
    shown = run("doctor", **variables)
    assert shown.returncode == 1
    assert "not migrated: 0001_movies" in shown.stdout
    assert "FAILS: it is missing, and DATABASE_URL is set" in shown.stdout
    with psycopg.connect(empty_database) as connection:
        assert connection.execute("SELECT to_regclass('movies')").fetchone() == (None,)


def test_rows_of_other_programs_are_found_after_a_reindex(home: Path) -> None:
    variables = {"WATCHLY_HOME": str(home), "COLUMNS": "200"}
    with EmbeddedPostgres(home) as url, psycopg.connect(url, autocommit=True) as connection:
        connection.execute("INSERT INTO movies (title) VALUES ('Heat'), ('Alien')")
        assert "rows that wait for `watchly reindex`: 2" in run("doctor", **variables).stdout
        # One that looks before it starts would index them: commands that do are not run in between.
        indexed = run("reindex", **variables)
        assert (indexed.returncode, indexed.stdout, indexed.stderr) == (0, "", "movies indexed: 2\n")
        assert run("reindex", **variables).stderr == "movies indexed: 0\n"
        assert "reindex" not in run("doctor", **variables).stdout
    assert "Alien" in run("export", "--q", "alien", **variables).stdout


def test_reindex_brings_an_old_table_up_to_date_and_counts_its_rows(
    empty_database: str, tmp_path: Path
) -> None:
    variables = {"DATABASE_URL": as_url(empty_database), "WATCHLY_HOME": str(tmp_path)}
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE movies (id serial PRIMARY KEY, title varchar(255) NOT NULL, description text,"
            " release_year integer, genre varchar(100), image_url text, created_at timestamp,"
            " updated_at timestamp)"
        )
        connection.execute("INSERT INTO movies (title) SELECT 'Movie ' || n FROM generate_series(1, 5) AS n")
    indexed = run("reindex", **variables)
    assert (indexed.returncode, indexed.stderr) == (0, "movies indexed: 5\n")


def test_doctor_names_a_url_that_is_none(tmp_path: Path) -> None:
    shown = run("doctor", DATABASE_URL="postgresql://h?foo=1", WATCHLY_HOME=str(tmp_path), COLUMNS="200")
    assert shown.returncode == 1
    assert "FAILS: DATABASE_URL" in shown.stdout
    assert "Traceback" not in shown.stderr


def test_rebuild_finds_what_was_lost_and_brings_it_back(home: Path) -> None:
    assert run("import", "--sample", WATCHLY_HOME=str(home)).returncode == 0
    before = titles(home)
    well = run("rebuild", "--check", WATCHLY_HOME=str(home))
    assert (well.returncode, well.stderr) == (0, "")
    assert well.stdout.splitlines()[:2] == [f"movies: {len(before)}", "missing: 0"]
    with EmbeddedPostgres(home) as url, psycopg.connect(url, autocommit=True) as connection:
        connection.execute("TRUNCATE movies")
    ill = run("rebuild", "--check", WATCHLY_HOME=str(home))
    assert (ill.returncode, ill.stdout.splitlines()[1]) == (1, f"missing: {len(before)}")
    assert run("rebuild", "--apply", WATCHLY_HOME=str(home)).returncode == 0
    assert titles(home) == before
    assert run("rebuild", "--check", WATCHLY_HOME=str(home)).returncode == 0


def test_rebuild_wants_to_know_what_to_do(home: Path) -> None:
    asked = run("rebuild", WATCHLY_HOME=str(home))
    assert asked.returncode != 0
    assert "--check or --apply" in asked.stderr
