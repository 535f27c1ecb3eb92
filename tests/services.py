"""`watchly serve` as a process of its own, for tests that need a real one."""

from __future__ import annotations

import os
import secrets
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self
from urllib.parse import quote, urlencode

from tests.canaries import secrets_in
from tests.preloaded import Preloaded, Process

WATCHLY = str(Path(sys.executable).with_name("watchly"))
START_LIMIT = 60.0
#: For clients that are made for one request: to read certificates takes longer than that.
NO_CERTIFICATES: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

#: Leaves a database as it is after all migrations.
EMPTY: Final = """
    TRUNCATE movies, images, events, trigrams, receipts, relay_targets, relay_letters,
        watchly_users, watchly_sessions, watchly_api_keys, watchly_signing_keys,
        watchly_throttles RESTART IDENTITY;
    UPDATE change_log SET last_seq = 0, horizon = 0
"""


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without what would configure Watchly, with `variables`.

    Everybody may do everything, unless these say otherwise.
    """
    ours = (
        "DATABASE_URL",
        "READ_DATABASE_URL",
        "SECRET_KEY",
        "SERVICE",
        "JWKS_URL",
        "AUTH",
        "PUBLIC_READ",
        "REGISTRATION",
        "TRUSTED_PROXIES",
        "CLOUDINARY_",
        "IMAGE_STORE_URL",
        "WATCHLY_",
        "HOST",
        "PORT",
        "LOG_",
        "NATS_URL",
        "RELAY",
        "CACHE",
        "VALKEY_URL",
        "RATE_LIMIT",
        "WEBHOOK_",
        "METRICS_PORT",
        "SERVER_TIMING",
        "SLOW_STATEMENT",
        "REQUEST_TIMEOUT",
        "MAX_REQUESTS",
        "OTEL_",
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "PYTHONWARNINGS": "default", "AUTH": "off", **variables}


def run(*words: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command of `watchly` to its end, in a process that has it loaded if nothing is said to Python."""
    command, given = [WATCHLY, *words], environment(**variables)
    if _is_for_python(variables):
        done = subprocess.run(
            command, input=stdin, env=given, capture_output=True, text=True, cwd="/", check=False
        )
    else:
        done = _preloaded().run(command, stdin, given)
    assert not (found := secrets_in(done.stderr)), f"secrets where logs go: {found}"
    return done


def _is_for_python(variables: Mapping[str, str]) -> bool:
    return any(name.startswith("PYTHON") for name in variables)


@cache
def _preloaded() -> Preloaded:
    return Preloaded(environment())


def _start(
    words: Sequence[str],
    variables: Mapping[str, str],
    stdout: IO[str] | None,
    stderr: IO[str],
    *,
    apart: bool,
) -> subprocess.Popen[bytes] | Process:
    """Start a command of `watchly` that goes on, which has it loaded already if nothing is said to Python."""
    command = [WATCHLY, *words]
    with Path(os.devnull).open("r+") as nothing:
        streams = nothing, stdout or nothing, stderr
        if _is_for_python(variables):
            stdin, *said = streams
            return subprocess.Popen(
                command,
                stdin=stdin,
                stdout=said[0],
                stderr=said[1],
                start_new_session=apart,
                env=environment(**variables),
                cwd="/",
            )
        numbers = [stream.fileno() for stream in streams]
        return _preloaded().start(command, environment(**variables), numbers, apart=apart)


class Program:
    """A module of the tests that runs by itself, and has loaded already what it has of `watchly serve`.

    It is killed if it is left before it has ended.

    Attributes:
        process: the process that it is.
        output: what it prints.
    """

    def __init__(
        self, module: str, *words: str, variables: Mapping[str, str], errors: int, apart: bool = False
    ) -> None:
        said, says = os.pipe()
        self.output = os.fdopen(said, "rb")
        with os.fdopen(says, "wb"), Path(os.devnull).open() as nothing:
            self.process = _preloaded().start(
                ["-m", module, *words], variables, [nothing.fileno(), says, errors], apart=apart
            )

    def heard(self) -> str:
        """Wait for the next line; empty where no more comes."""
        return self.output.readline().decode().strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait(60)
        self.output.close()


@contextmanager
def on_fakes(
    module: str, home: Path, variables: Mapping[str, str], errors: int | None = None
) -> Iterator[tuple[Program, Path]]:
    """A module of the tests that serves what is in memory, and the file that it logs to, but for `errors`."""
    log = home / "log"
    given = {"DATABASE_URL": "memory:", "WATCHLY_HOME": str(home), "SECRET_KEY": secrets.token_hex(32)}
    with log.open("wb") as file:
        number = file.fileno() if errors is None else errors
        with Program(module, variables={**os.environ, **given, **variables}, errors=number) as program:
            yield program, log


def as_url(conninfo: str) -> str:
    """A URL for a conninfo string, as DATABASE_URL wants one."""
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415 - the core's tests go without

    parts = conninfo_to_dict(conninfo)
    rest = urlencode({key: str(value) for key, value in parts.items() if key not in {"user", "dbname"}})
    return f"postgresql://{quote(str(parts.get('user', '')))}@/{parts['dbname']}?{rest}"


def folder_in_memory() -> str | None:
    """A file system in memory that has room for some homes, and runs programs: most waits are for disks."""
    try:
        shared = os.statvfs("/dev/shm")  # noqa: S108 - what is made there has a random name
    except OSError:
        return None
    roomy = shared.f_bavail * shared.f_frsize > 1 << 30 and not shared.f_flag & os.ST_NOEXEC
    return "/dev/shm" if roomy and os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - as above


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition; fail when it does not come to pass."""
    deadline = time.monotonic() + START_LIMIT
    while not condition():
        assert time.monotonic() < deadline, f"in vain waited until {what}"
        time.sleep(0.005)  # between looks, not in place of one


class Service:
    """A running `watchly serve`, in a process group of its own.

    Attributes:
        url: where it answers.
        process: the supervisor.
    """

    def __init__(self, log: Path, *words: str, **variables: str) -> None:
        self._log, self._data = log, log.with_name(f"{log.name}.data")
        with log.open("w") as stderr, self._data.open("w") as stdout:
            self.process = _start(["serve", "--port", "0", *words], variables, stdout, stderr, apart=True)
        self.url = self._address()

    def _address(self) -> str:
        deadline = time.monotonic() + START_LIMIT
        while time.monotonic() < deadline:
            for line in self.log.splitlines():
                if line.startswith("Watchly answers at "):
                    return line.split()[3]
            if self.process.poll() is not None:
                raise AssertionError(f"serve ended with {self.process.returncode}: {self.log}")
            time.sleep(0.01)  # between looks, not in place of one
        raise AssertionError(f"serve did not start in time: {self.log}")

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self._log.read_text()

    @property
    def data(self) -> str:
        """What it has printed so far."""
        return self._data.read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal to the supervisor; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)

    def kill(self) -> None:
        """Kill the whole process group at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(60)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.stop()
        assert not (found := secrets_in(self.log)), f"the log tells secrets: {found}"


class Command:
    """A running command that goes on until it is told to stop.

    Attributes:
        process: the process that it is.
    """

    def __init__(self, log: Path, *words: str, **variables: str) -> None:
        self._log = log
        with log.open("w") as stderr:
            self.process = _start(words, variables, None, stderr, apart=False)

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self._log.read_text()

    def says(self, text: str) -> bool:
        """Whether it has said so; it must not have ended."""
        assert self.process.poll() is None, self.log
        return text in self.log

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send it a signal; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.end(signal.SIGKILL)
        assert not (found := secrets_in(self.log)), f"the log tells secrets: {found}"
