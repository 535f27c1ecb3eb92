"""Commands that run for long, each as a process of its own: how they start beside each other, and end."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

import httpx
import psycopg
import pytest
from tests.services import Command, Service, as_url, run, wait_until

from watchly_adapters.embedded import EmbeddedPostgres

#: Each command, and what it says when it has begun.
COMMANDS: Final = {"relay": "relaying", "sweep --every 1s": "sweeping"}
STOPS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.mark.parametrize("number", STOPS)
@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_that_is_told_to_stop_ends_well(
    words: str, number: signal.Signals, database_url: str, tmp_path: Path
) -> None:
    # Without a secret: it signs nothing.
    with Command(tmp_path / "log", *words.split(), DATABASE_URL=as_url(database_url)) as command:
        wait_until(partial(command.says, COMMANDS[words]), "it has begun")
        assert command.end(number) == 0
        assert "Traceback" not in command.log


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_that_is_stopped_while_it_starts_ends_well(
    words: str, fresh_home: Path, tmp_path: Path
) -> None:
    with Command(tmp_path / "log", *words.split(), WATCHLY_HOME=str(fresh_home)) as command:
        wait_until((fresh_home / "postgres").exists, "it has begun")
        assert command.end() == 0
        assert "Traceback" not in command.log
    assert not (fresh_home / "postgres/data/postmaster.pid").exists()


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_stops_what_it_started_however_often_it_is_told_to(
    words: str, fresh_home: Path, tmp_path: Path
) -> None:
    pid_file = fresh_home / "postgres/data/postmaster.pid"
    with Command(tmp_path / "log", *words.split(), WATCHLY_HOME=str(fresh_home)) as command:
        wait_until(partial(command.says, COMMANDS[words]), "it has begun")
        # At its very end Python itself gives signals back: by then there is nothing left to stop.
        while pid_file.exists():
            for number in STOPS:
                command.process.send_signal(number)
        assert command.process.wait(60) == 0
        assert "Traceback" not in command.log


@pytest.mark.parametrize("words", [*COMMANDS, "migrate"])
def test_a_command_waits_for_its_database(words: str, fresh_home: Path, tmp_path: Path) -> None:
    server = EmbeddedPostgres(fresh_home)
    url = server.start()
    server.stop()
    with Command(tmp_path / "log", *words.split(), DATABASE_URL=url) as command, server:
        if words == "migrate":
            assert command.process.wait(60) == 0, command.log
            assert "applied 0001_movies" in command.log
        else:
            wait_until(partial(command.says, COMMANDS[words]), "it has begun")
            assert command.end() == 0


def test_all_of_them_share_one_embedded_database(fresh_home: Path, tmp_path: Path) -> None:
    pid_file = fresh_home / "postgres/data/postmaster.pid"
    home = {"WATCHLY_HOME": str(fresh_home)}
    with ExitStack() as stack:
        commands = [
            stack.enter_context(Command(tmp_path / f"log-{number}", *words.split(), **home))
            for number, words in enumerate(COMMANDS)
        ]
        for command, said in zip(commands, COMMANDS.values(), strict=True):
            wait_until(partial(command.says, said), "it has begun")
        server = pid_file.read_text().split()[0]
        with Service(tmp_path / "log", WORKERS="1", **home) as service:
            assert httpx.get(f"{service.url}/health/ready").status_code == 200
            assert run("migrate", **home).stderr == "the schema is up to date\n"
            assert [command.end() for command in commands] == [0, 0]
            assert pid_file.read_text().split()[0] == server
    assert not pid_file.exists()


def test_services_that_start_at_once_migrate_once(empty_database: str, tmp_path: Path) -> None:
    common = {"DATABASE_URL": as_url(empty_database), "SECRET_KEY": "s3cret" * 6, "WORKERS": "1"}
    with ExitStack() as stack:
        commands = [
            stack.enter_context(Command(tmp_path / f"log-{number}", *words, **common))
            for number, words in enumerate((("serve", "--port", "0"),) * 3 + (("migrate",),))
        ]
        for command in commands[:3]:
            wait_until(partial(command.says, "Watchly answers at"), "it answers")
        assert commands[3].process.wait(60) == 0, commands[3].log
        assert [command.end() for command in commands[:3]] == [0, 0, 0]
    with psycopg.connect(empty_database) as connection:
        found = connection.execute("SELECT number FROM watchly_migrations ORDER BY number").fetchall()
    assert [number for (number,) in found] == list(range(1, len(found) + 1))


def test_what_is_due_is_swept_by_a_command_of_its_own(database_url: str, tmp_path: Path) -> None:
    common = {"DATABASE_URL": as_url(database_url), "WATCHLY_HOME": str(tmp_path / "home")}
    due = """
        INSERT INTO images (key, state, movie_id, width, height, format, bytes, due_at)
        VALUES (md5(%s), 'discarded', 1, 1, 1, 'gif', 1, now())
    """
    with psycopg.connect(database_url, autocommit=True) as connection:

        def swept() -> bool:
            return connection.execute("SELECT count(*) FROM images").fetchone() == (0,)

        connection.execute(due, ("first",))
        # The first sweep does not wait: an hour would be long for a test.
        with Command(tmp_path / "first", "sweep", "--every", "1 h", LOG_FORMAT="json", **common) as hourly:
            wait_until(swept, "it was swept")
            wait_until(partial(hourly.says, "swept images"), "that was told")
            assert '"deleted":1' in hourly.log
            assert hourly.end() == 0
        with Command(tmp_path / "second", "sweep", "--every", "1s", **common) as often:
            for name in ("second", "third"):
                connection.execute(due, (name,))
                wait_until(swept, "it was swept")
            assert often.end() == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("--every 0", 1, "watchly: --every must be more than 0; an example: --every 30s"),
        ("--every often", 1, "watchly: --every must be a duration: a whole number with one of"),
        ("--every 1s --retry-dead", 2, "Error: say one of --retry-dead and --every"),
    ],
)
def test_how_often_to_sweep_is_said_well_or_refused(words: str, code: int, said: str) -> None:
    done = run("sweep", *words.split())
    assert done.returncode == code
    assert said in done.stderr
