"""The commands on people, and how a service starts that asks who somebody is."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import time
from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import httpx
import psycopg
import pytest
from tests.services import WATCHLY, Service, as_url, environment, run, wait_until

from watchly_adapters.container import Container
from watchly_adapters.embedded import EmbeddedPostgres
from watchly_adapters.settings import read_settings
from watchly_core.errors import NotSignedIn
from watchly_http.running import entered, running_database, with_secret

T = TypeVar("T")

PASSWORD = "correct horse battery"  # noqa: S105 - of nobody
ADA = "ada@films.example"
PEOPLE = ("token", f"user add {ADA}", "keys rotate")
SECRET = "k" * 32


@pytest.fixture
def service(home: Path, tmp_path: Path) -> Iterator[Service]:
    with Service(tmp_path / "log", WATCHLY_HOME=str(home), AUTH="on") as service:
        yield service


def token(home: Path, *words: str) -> str:
    done = run("token", *words, WATCHLY_HOME=str(home))
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1
    return done.stdout.strip()


def post(service: Service, bearer: str | None = None) -> httpx.Response:
    headers = {"authorization": f"Bearer {bearer}"} if bearer else {}
    return httpx.post(f"{service.url}/api/movies", json={"title": "Heat"}, headers=headers)


def with_parts(home: Path, do: Callable[[Container], Awaitable[T]]) -> T:
    """What comes of `do` with the parts over an embedded home."""

    async def do_it() -> T:
        async with entered(prepared) as container:
            return await do(container)

    settings = read_settings({"WATCHLY_HOME": str(home)})
    with running_database(with_secret(settings)) as (prepared, _):
        return asyncio.run(do_it())


@pytest.mark.parametrize("command", ["token", "user add", "keys rotate"])
def test_every_command_on_people_explains_itself_with_examples(command: str) -> None:
    shown = run(*command.split(), "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "Example" in shown.stdout
    assert f"watchly {command}" in shown.stdout.partition("Example")[2]


def test_a_token_opens_the_service_of_its_home(service: Service, home: Path) -> None:
    assert post(service).status_code == 401
    assert post(service, token(home, "--role", "viewer")).status_code == 403
    for words in ((), ("--role", "editor")):
        written = post(service, token(home, *words))
        assert written.status_code == 201
        log = httpx.get(f"{service.url}{written.headers['location']}/history").json()
        assert log["data"][0]["actor"] == "system"


@pytest.mark.parametrize(
    ("words", "seconds"), [((), 3600), (("--ttl", "90 s"), 90), (("--ttl", "24h"), 86_400)]
)
def test_a_token_is_good_for_as_long_as_was_asked(home: Path, words: tuple[str, ...], seconds: int) -> None:
    before = time.time()
    payload = token(home, *words).split(".")[1]
    says = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert (says["sub"], says["role"]) == ("system", "admin")
    assert says["exp"] - says["iat"] == seconds
    assert before - 1 <= says["iat"] <= time.time()


@pytest.mark.parametrize("ttl", ["25h", "2d", "0", "-1h", "soon", "1.5h", "1w", ""])
def test_no_token_is_good_for_ever_or_for_nothing(ttl: str) -> None:
    done = run("token", "--ttl", ttl, WATCHLY_HOME="/nonexistent")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"watchly: --ttl must be .*; an example: --ttl 15m\n", done.stderr)


def test_a_user_is_added_with_the_line_on_stdin(home: Path) -> None:
    added = run(
        "user",
        "add",
        "Ada@Films.example",
        "--role",
        "editor",
        stdin=f"{PASSWORD}\nmore\n",
        WATCHLY_HOME=str(home),
    )
    assert (added.returncode, added.stderr) == (0, "")
    assert len(added.stdout.splitlines()) == 1
    shown = json.loads(added.stdout)
    assert {"id": 1, "email": ADA, "role": "editor", "version": 1}.items() <= shown.items()
    assert shown.keys() == {"id", "email", "role", "created_at", "version"}

    async def sign_in(container: Container) -> None:
        with pytest.raises(NotSignedIn):
            await container.sessions().sign_in(ADA, f"{PASSWORD}\n", address="")
        await container.sessions().sign_in(ADA, PASSWORD, address="")

    with_parts(home, sign_in)
    again = run("user", "add", ADA, stdin=PASSWORD, WATCHLY_HOME=str(home))
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr == "watchly: there is an account with this address\n"


def test_a_user_is_a_viewer_unless_it_is_said_otherwise(home: Path) -> None:
    added = run("user", "add", ADA, stdin=f"{PASSWORD}\r\n", WATCHLY_HOME=str(home))
    assert json.loads(added.stdout)["role"] == "viewer"


@pytest.mark.parametrize(
    ("email", "password", "said"),
    [
        ("ada", PASSWORD, "email: must be an address like ada@films.example"),
        (ADA, "s3cret", "password: must have at least 8 characters"),
        (ADA, "", "password: must have at least 8 characters"),
        (ADA, "password1", "password: is one of the first that everybody tries"),
        (ADA, "s3cret" * 10_000, "password: must have at most 1,024 characters"),
        ("ada", "s3cret", "email: must be an address like ada@films.example; password: must have at least 8"),
    ],
)
def test_a_user_who_may_not_be_is_refused_in_one_line(
    home: Path, email: str, password: str, said: str
) -> None:
    done = run("user", "add", email, stdin=password, WATCHLY_HOME=str(home))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"watchly: {said}")
    assert len(done.stderr.splitlines()) == 1
    assert "s3cret" not in done.stderr


def test_a_password_that_is_no_text_is_refused(home: Path) -> None:
    done = subprocess.run(
        [WATCHLY, "user", "add", ADA],
        input=b"correct \xff horse",
        capture_output=True,
        check=False,
        env=environment(WATCHLY_HOME=str(home)),
        cwd="/",
    )
    assert (done.returncode, done.stderr) == (1, b"watchly: password: must be text\n")


def test_on_a_terminal_a_password_is_typed_twice_and_not_shown(home: Path) -> None:
    terminal, theirs = os.openpty()
    with subprocess.Popen(
        [WATCHLY, "user", "add", ADA],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(WATCHLY_HOME=str(home)),
        cwd="/",
        start_new_session=True,  # without /dev/tty, so that stdin is the terminal
    ) as command:
        os.close(theirs)
        assert command.stdout is not None
        assert command.stderr is not None
        said = b""
        for prompt, typed in (("Password", PASSWORD), ("Repeat for confirmation", "another")) * 2:
            said += _until(command.stderr.fileno(), f"{prompt}: ".encode())
            # The second time it is the same.
            os.write(terminal, f"{PASSWORD if said.count(b'Error') else typed}\n".encode())
        shown, rest = command.communicate(timeout=60)
    os.set_blocking(terminal, False)
    echoed = _left(terminal)
    os.close(terminal)
    assert command.returncode == 0
    assert json.loads(shown)["email"] == ADA
    assert said.count(b"Password") == said.count(b"Repeat for confirmation") == 2
    assert PASSWORD.encode() not in said + rest + shown + echoed


def test_on_a_terminal_no_password_is_asked_for_an_address_that_is_none(home: Path) -> None:
    terminal, theirs = os.openpty()
    try:
        done = subprocess.run(
            [WATCHLY, "user", "add", "ada"],
            stdin=theirs,
            capture_output=True,
            check=False,
            env=environment(WATCHLY_HOME=str(home)),
            cwd="/",
            start_new_session=True,
            timeout=60,
        )
    finally:
        os.close(terminal)
        os.close(theirs)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"watchly: email: must be an address like ada@films.example\n"


def _until(stream: int, end: bytes) -> bytes:
    """What comes up to a prompt."""
    read = b""
    while not read.endswith(end):
        piece = os.read(stream, 1)
        assert piece, read
        read += piece
    return read


def _left(stream: int) -> bytes:
    """What waits to be read; a terminal whose other side is closed says so by an error."""
    try:
        return os.read(stream, 10_000)
    except OSError:
        return b""


def test_behind_a_proxy_that_is_not_named_a_warning_says_so_once(tmp_path: Path) -> None:
    with Service(tmp_path / "log", DATABASE_URL="memory:", AUTH="on") as service:
        for _ in range(3):
            credentials = {"email": ADA, "password": PASSWORD}
            forwarded = {"X-Forwarded-For": "192.0.2.7"}
            refused = httpx.post(f"{service.url}/api/auth/login", json=credentials, headers=forwarded)
            assert refused.status_code == 401
    log = (tmp_path / "log").read_text()
    assert log.count("TRUSTED_PROXIES") == 1
    assert "192.0.2.7" not in log


def test_keys_are_rotated_with_notice_or_at_once(service: Service, home: Path) -> None:
    before = token(home)
    assert post(service, before).status_code == 201

    rotated = run("keys", "rotate", WATCHLY_HOME=str(home))
    assert (rotated.returncode, rotated.stderr) == (0, "")
    known = json.loads(rotated.stdout)
    assert known.keys() == {"kid", "signs_from"}
    assert _kid(token(home)) == _kid(before) != known["kid"]
    assert post(service, before).status_code == 201

    at_once = json.loads(run("keys", "rotate", "--at-once", WATCHLY_HOME=str(home)).stdout)
    after = token(home)
    assert _kid(after) == at_once["kid"]
    wait_until(lambda: post(service, before).status_code == 401, "the old key is forgotten")
    wait_until(lambda: post(service, after).status_code == 201, "the new key is known")


def _kid(text: str) -> str:
    header = text.partition(".")[0]
    return str(json.loads(urlsafe_b64decode(header + "=" * (-len(header) % 4)))["kid"])


@pytest.mark.parametrize("command", PEOPLE)
def test_commands_on_people_need_a_database_that_stays(command: str) -> None:
    done = run(*command.split(), stdin=PASSWORD, DATABASE_URL="memory:")
    assert (done.returncode, done.stdout) == (1, "")
    assert "keeps nothing between commands" in done.stderr


@pytest.mark.parametrize("command", PEOPLE)
def test_a_database_of_ones_own_needs_the_secret_of_its_service(command: str, empty_database: str) -> None:
    url = as_url(empty_database)
    done = run(*command.split(), stdin=PASSWORD, DATABASE_URL=url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("watchly: SECRET_KEY is missing, and DATABASE_URL is set")
    assert len(done.stderr.splitlines()) == 1

    done = run(*command.split(), stdin=PASSWORD, DATABASE_URL=url, SECRET_KEY=SECRET)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_first_start_shows_an_api_key_once(fresh_home: Path, tmp_path: Path) -> None:
    variables = {"WATCHLY_HOME": str(fresh_home), "AUTH": "on", "LOG_LEVEL": "debug"}
    with Service(tmp_path / "first", **variables) as service:
        key = service.data.removesuffix("\n")
        assert re.fullmatch(r"watchly_[0-9a-f]{12}_[\w-]{43}", key, re.ASCII)
        assert post(service).status_code == 401
        written = post(service, key)
        assert written.status_code == 201
        log = httpx.get(f"{service.url}{written.headers['location']}/history").json()
        assert log["data"][0]["actor"] == "api-key:1"
        assert service.stop() == 0
        assert service.log.startswith("An API key for an administrator, which is shown this once:\n")
        assert key not in service.log
        assert service.data == f"{key}\n"
    with Service(tmp_path / "second", **variables) as service:
        assert post(service, key).status_code == 201
        assert service.stop() == 0
        assert service.data == ""
        assert "API key" not in service.log


def test_no_key_is_made_where_somebody_can_sign_in(home: Path, tmp_path: Path) -> None:
    assert run("user", "add", ADA, stdin=PASSWORD, WATCHLY_HOME=str(home)).returncode == 0
    with Service(tmp_path / "log", WATCHLY_HOME=str(home), AUTH="on") as service:
        assert service.stop() == 0
        assert service.data == ""


def test_no_key_is_made_where_nobody_is_asked(home: Path, tmp_path: Path) -> None:
    with Service(tmp_path / "log", WATCHLY_HOME=str(home), AUTH="off") as service:
        assert post(service).status_code == 201
        assert service.stop() == 0
        assert service.data == ""
    with EmbeddedPostgres(home) as url, psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM watchly_api_keys").fetchone() == (0,)


def test_no_key_is_made_on_a_database_of_ones_own(empty_database: str, tmp_path: Path) -> None:
    variables = {"DATABASE_URL": as_url(empty_database), "SECRET_KEY": SECRET, "WATCHLY_HOME": str(tmp_path)}
    with Service(tmp_path / "log", AUTH="on", **variables) as service:
        made = run("token", **variables)
        assert post(service, made.stdout.strip()).status_code == 201
        assert service.stop() == 0
        assert service.data == ""


def test_in_memory_every_start_shows_a_key(tmp_path: Path) -> None:
    keys = []
    for name in ("first", "second"):
        with Service(tmp_path / name, AUTH="on", DATABASE_URL="memory:") as service:
            keys.append(service.data.removesuffix("\n"))
            assert post(service).status_code == 401
            assert post(service, keys[-1]).status_code == 201
            assert service.stop() == 0
            assert keys[-1] not in service.log
    assert len(set(keys)) == 2
    with Service(tmp_path / "open", AUTH="off", DATABASE_URL="memory:") as service:
        assert post(service).status_code == 201
        assert service.stop() == 0
        assert service.data == ""


def test_every_start_that_lets_everybody_in_says_so(home: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        variables = {"WATCHLY_HOME": str(home), "LOG_FORMAT": "json", "LOG_LEVEL": "warning"}
        with Service(tmp_path / name, AUTH="off", **variables) as service:
            assert service.stop() == 0
            (warned,) = [json.loads(line) for line in service.log.splitlines() if line.startswith("{")]
        assert (warned["level"], warned["event"]) == ("warning", "AUTH is off: everybody may do everything")
    with Service(tmp_path / "closed", AUTH="on", **variables) as service:
        assert service.stop() == 0
        assert "AUTH" not in service.log


@pytest.mark.parametrize(
    "host",
    [
        "0.0.0.0",  # noqa: S104 - it is refused
        "::",
        "192.0.2.1",
        "128.0.0.1",
        "::ffff:127.0.0.1",
        "films.example",
        "localhost.films.example",
    ],
)
def test_other_machines_are_not_let_in_where_nobody_is_asked(host: str) -> None:
    done = run("serve", "--host", host, AUTH="off", DATABASE_URL="memory:")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"watchly: AUTH is off, which is for this machine alone, and HOST is {host};"
        " an example: HOST=127.0.0.1\n"
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost", "LOCALHOST"])
def test_this_machine_is_let_in_where_nobody_is_asked(host: str) -> None:
    # What is wrong here is found next.
    done = run("serve", AUTH="off", HOST=host, WATCHLY_HOME="/dev/null/x")
    assert done.returncode == 1
    assert "AUTH" not in done.stderr
    assert "WATCHLY_HOME" in done.stderr


def test_sweep_drops_what_of_people_is_good_no_longer(home: Path) -> None:
    token(home)
    with EmbeddedPostgres(home) as url, psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            """
            INSERT INTO watchly_users (email, role, password_hash, created_at, version)
            VALUES ('ada@films.example', 'viewer', '', now(), 1);
            INSERT INTO watchly_sessions (id, user_id, handle, secret, created_at, rotated_at, expires_at)
            SELECT n::text, 1, decode(md5(n::text), 'hex'), '', now(), now(), now() + n * interval '1 hour'
            FROM generate_series(-2000, 1) n WHERE n <> 0;
            INSERT INTO watchly_throttles (bucket, count, until)
            SELECT n::text, 1, now() + n * interval '1 hour' FROM generate_series(-2000, 1) n WHERE n <> 0;
            INSERT INTO watchly_signing_keys (kid, sealed, created_at, signs_from, ends_at)
            VALUES ('old', '', now(), now(), now()), ('going', '', now(), now(), now() + interval '1 hour')
            """
        )
        swept = run("sweep", WATCHLY_HOME=str(home))
        assert (swept.returncode, swept.stderr) == (0, "images deleted: 0, to be tried again: 0\n")
        for left, count in (
            ("SELECT count(*), min(id) FROM watchly_sessions", (1, "1")),
            ("SELECT count(*), min(bucket) FROM watchly_throttles", (1, "1")),
            ("SELECT count(*), max(kid) FROM watchly_signing_keys", (2, "going")),
        ):
            assert connection.execute(left).fetchone() == count, left


def test_doctor_tells_how_sign_in_is_set_and_whether_the_secret_is_the_right_one(
    empty_database: str, tmp_path: Path
) -> None:
    variables = {"DATABASE_URL": as_url(empty_database), "WATCHLY_HOME": str(tmp_path), "COLUMNS": "200"}
    assert run("migrate", **variables).returncode == 0
    well = run("doctor", SECRET_KEY=SECRET, AUTH="on", TRUSTED_PROXIES="192.0.2.1", **variables)
    assert "no signing keys yet" in well.stdout
    assert "192.0.2.1" in well.stdout
    assert run("token", SECRET_KEY=SECRET, **variables).returncode == 0
    well = run("doctor", SECRET_KEY=SECRET, AUTH="on", PUBLIC_READ="false", REGISTRATION="open", **variables)
    assert well.returncode == 0
    assert "opens 1 of 1 signing keys" in well.stdout
    assert "reading is for who is known, registration open" in well.stdout
    ill = run("doctor", SECRET_KEY="another" * 5, AUTH="off", **variables)
    assert ill.returncode == 1
    assert "FAILS: it opens none of 1 signing keys" in ill.stdout
    assert "everybody may do everything" in ill.stdout
    assert SECRET not in well.stdout + ill.stdout
