"""The machine below a home: the user the server runs as, directories and their modes, whole files, locks.

PostgreSQL refuses to run as root. So root looks for another user, and lets that one pass the directories it
makes, without letting anybody list them.
"""

import fcntl
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from watchly_core.errors import Misconfigured, Unavailable

_PAUSE = 0.02
_FIRST_CLOSED = 'for directory; do [ -x "$directory" ] || { echo "$directory"; exit; }; done'


class Account(NamedTuple):
    """A user of the machine: its id, the id of its group, its name."""

    uid: int
    gid: int
    name: str

    def run(self, *command: str | Path, cwd: Path = Path("/")) -> subprocess.CompletedProcess[str]:
        """Run a command as this user, out of reach of this terminal and of libpq's variables.

        Returns:
            The ended process, with its exit status and what it wrote.

        Raises:
            OSError: the command cannot be run at all.
        """
        root = os.geteuid() == 0
        return subprocess.run(  # noqa: S603 - our own arguments, and no shell
            command,
            cwd=cwd,
            env={name: value for name, value in os.environ.items() if name[:2] != "PG"} | {"LC_ALL": "C"},
            user=self.uid if root else None,
            group=self.gid if root else None,
            extra_groups=[] if root else None,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            start_new_session=True,  # Ctrl-C in a terminal does not reach it
        )


def account_for(data: Path) -> Account:
    """Choose the user whose the server is: this one, or as root the one who owns the data, or `watchly`.

    Raises:
        Misconfigured: there is no such user, or this one has no name.
    """
    uid = os.geteuid()
    if uid != 0:
        return Account(uid, os.getegid(), user_name(uid))
    with suppress(FileNotFoundError):
        found = data.stat()
        if found.st_uid != 0:
            return Account(found.st_uid, found.st_gid, user_name(found.st_uid))
    try:
        entry = _system_user()
    except KeyError:
        raise Misconfigured(
            "PostgreSQL does not run as root: useradd --system watchly, or set DATABASE_URL"
        ) from None
    return Account(entry.pw_uid, entry.pw_gid, entry.pw_name)


def user_name(uid: int) -> str:
    """Look up a user's name; another one that has none goes by its number.

    Raises:
        Misconfigured: it is this process's own user who has no name.
    """
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


def make_directory(directory: Path) -> None:
    """Make what is missing, closed to others; root lets them pass, for PostgreSQL runs as one of them.

    Raises:
        OSError: it cannot be made.
    """
    if directory.is_dir():
        return
    make_directory(directory.parent)
    mode = 0o711 if os.geteuid() == 0 else 0o700
    # Not a chmod afterwards: whoever comes second would meet the directory with the wrong mode.
    previous = os.umask(0o777 & ~mode)
    try:
        directory.mkdir(mode, exist_ok=True)
    finally:
        os.umask(previous)


def make_private(directory: Path, account: Account) -> None:
    """Make a directory of an account, closed to everybody else, or make sure that it is one.

    Raises:
        Misconfigured: what is there is somebody else's, open to others, or no directory.
        OSError: it cannot be made.
    """
    with suppress(FileExistsError):
        directory.mkdir(0o700)
    found = directory.lstat()
    trusted = stat.S_ISDIR(found.st_mode) and found.st_uid in {os.geteuid(), account.uid}
    if not trusted or stat.S_IMODE(found.st_mode) & 0o077:
        raise Misconfigured(f"{directory} is not a private directory of {account.name}: remove it")
    if found.st_uid != account.uid:
        os.chown(directory, account.uid, account.gid, follow_symlinks=False)


def check_passage(directory: Path, account: Account) -> None:
    """Make sure that the account root has chosen can pass through a directory and all above it.

    Raises:
        Misconfigured: one of them is closed to it.
    """
    if os.geteuid() != 0:
        return
    path = [str(step) for step in reversed((directory, *directory.parents))]
    closed = account.run("/bin/sh", "-c", _FIRST_CLOSED, "sh", *path).stdout.strip()
    if closed:
        raise Misconfigured(
            f"{closed} is closed to the user {account.name} that PostgreSQL runs as: "
            f"chmod o+x {closed}, or set WATCHLY_HOME to a directory elsewhere"
        )


def write_once(path: Path, content: str) -> None:
    """Make a file that only this user reads, unless somebody was faster; nobody ever sees a part of it.

    Raises:
        OSError: it cannot be written.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # Unlike a rename, a link never replaces the file of somebody who was faster.
        with suppress(FileExistsError):
            os.link(name, path)
    finally:
        Path(name).unlink()
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Bring a directory's new names to the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path, seconds: float) -> Iterator[None]:
    """Hold a lock file for the block; the kernel lets go of it if this process dies.

    Raises:
        Unavailable: somebody else has held it all these seconds.
        OSError: it cannot be opened.
    """
    # Python opens files close-on-exec, so that no server started in the block inherits the lock.
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + seconds
    try:
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if time.monotonic() > deadline:
                raise Unavailable("database", f"another watchly has held {path} for too long")
            time.sleep(_PAUSE)
        yield
    finally:
        os.close(lock)
