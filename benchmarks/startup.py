"""How long a start takes beside a bare interpreter, and what a worker that has nothing to do keeps.

Every start is a process of its own, with the bytecode at hand; the kinds of start take turns.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

ROUNDS: Final = 20
WORKERS: Final = 2
_PATIENCE: Final = 60.0

_WATCHLY: Final = "import sys; from watchly_http.cli import main; sys.argv[0] = 'watchly'; main()"
#: Prints ms of a processor: of the first application, of later ones, and of plain ones with as many routes.
_CREATE_APP: Final = """
import statistics
import time
from litestar import Litestar, get
from watchly_adapters.container import Container
from watchly_adapters.settings import read_settings
from watchly_http.app import create_app
settings = read_settings({"DATABASE_URL": "memory:", "SECRET_KEY": "k" * 32})
async def answer(number: int) -> int:
    return number
def plain():
    Litestar([get(f"/{at}/{{number:int}}")(answer) for at in range(routes)], openapi_config=None)
def spent(make):
    begun = time.process_time()
    make()
    return 1000 * (time.process_time() - begun)
first = spent(lambda: create_app(Container(settings=settings)))
routes = len(create_app(Container(settings=settings)).routes)
rounds = [(spent(lambda: create_app(Container(settings=settings))), spent(plain)) for _ in range(9)]
print(first, *map(statistics.median, zip(*rounds)))
"""

#: What is started: a name, the milliseconds that it may take beyond a bare interpreter, and a program.
_BARE: Final = "a bare interpreter"
_STARTS: Final[dict[str, tuple[float | None, list[str]]]] = {
    _BARE: (None, ["pass"]),
    "import asyncio, msgspec": (None, ["import asyncio, msgspec"]),
    "import watchly_core": (60, ["import watchly_core"]),
    "from watchly_core import Movie": (None, ["from watchly_core import Movie"]),
    "from watchly_core import Catalogue": (None, ["from watchly_core import Catalogue"]),
    "watchly --help": (250, [_WATCHLY, "--help"]),
    "import watchly_http.app": (None, ["import watchly_http.app"]),
}
_COMMANDS: Final = (["token"], ["user", "add"], ["export"], ["doctor"])


class Spent(NamedTuple):
    """Milliseconds on the clock, and of processors."""

    wall: float
    cpu: float


def spend(program: list[str], environment: dict[str, str], stdin: str = "") -> Spent:
    """What a process took."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", *program],
        env=environment,
        input=stdin.encode(),
        stdout=subprocess.DEVNULL,
        check=True,
    )
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Spent(1000 * wall, 1000 * cpu)


def median(spent: list[Spent]) -> Spent:
    """Of each kind."""
    return Spent(*(statistics.median(kind) for kind in zip(*spent, strict=True)))


def starts(rounds: int, environment: dict[str, str]) -> None:
    """Print what importing and helping takes."""
    taken: dict[str, list[Spent]] = {name: [] for name in _STARTS}
    for _ in range(rounds + 1):
        for name, (_, program) in _STARTS.items():
            taken[name].append(spend(program, environment))
    bare = median(taken[_BARE][1:])
    print(f"{'start':36} {'ms':>7} {'beyond bare':>12} {'cpu ms':>7}  wanted")
    for name, (most, _) in _STARTS.items():
        found = median(taken[name][1:])  # the first round wrote the bytecode
        wanted = "" if most is None else f"  < {most:g}"
        print(f"{name:36} {found.wall:7.1f} {found.wall - bare.wall:12.1f} {found.cpu:7.1f}{wanted}")


def commands(rounds: int, environment: dict[str, str]) -> None:
    """Print what commands take on an embedded database that runs."""
    taken: dict[str, list[Spent]] = {" ".join(command): [] for command in _COMMANDS}
    for number in range(rounds + 1):
        for command in _COMMANDS:
            more = [f"a{number}@films.example"] if command == ["user", "add"] else []
            spent = spend([_WATCHLY, *command, *more], environment, "correct horse battery\n")
            taken[" ".join(command)].append(spent)
    for name, spent in taken.items():
        found = median(spent[1:])
        print(f"{'watchly ' + name:36} {found.wall:7.1f} {'':12} {found.cpu:7.1f}")


def applications(rounds: int, environment: dict[str, str]) -> None:
    """Print what `create_app` takes, the first time with what it loads."""
    rows = []
    for _ in range(rounds):
        shown = subprocess.run(
            [sys.executable, "-c", _CREATE_APP], env=environment, capture_output=True, text=True, check=True
        )
        rows.append([float(line) for line in shown.stdout.split()])
    first, later, plain = (statistics.median(column) for column in zip(*rows, strict=True))
    print(f"{'create_app, with what it loads':36} {'':20} {first:7.1f}")
    print(f"{'create_app':36} {'':20} {later:7.1f}  < 50")
    print(f"{'  beside Litestar with plain routes':36} {'':20} {plain:7.1f}  {later / plain:.2f} times that")


@contextmanager
def served(environment: dict[str, str], workers: int) -> Iterator[int]:
    """The id of a service that answers."""
    options = ["serve", "--port", "0", "--workers", str(workers)]
    with subprocess.Popen(
        [sys.executable, "-c", _WATCHLY, *options],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as service:
        try:
            if service.stderr is None or not any("answers at" in line for line in service.stderr):
                raise SystemExit("the service did not start")
            yield service.pid
        finally:
            service.terminate()


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def memory(pid: int) -> dict[str, float]:
    """MB of a process by kind."""
    rows = re.findall(r"^(\w+): +(\d+) kB$", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return {name: int(kilobytes) / 1024 for name, kilobytes in rows}


def idle(environment: dict[str, str], workers: int) -> None:
    """Print what each process of a service keeps that has just started."""
    print(f"\n{'idle':36} {'RSS MB':>7} {'PSS MB':>12} {'own MB':>7}")
    with served(environment, workers) as supervisor:
        processes = {"the supervisor": supervisor}
        for number, worker in enumerate(children(supervisor), start=1):
            if b"postgres" not in Path(f"/proc/{worker}/cmdline").read_bytes():
                processes[f"worker {number}"] = worker
        for name, pid in processes.items():
            kept = memory(pid)
            own = kept["Private_Clean"] + kept["Private_Dirty"]
            print(f"{name:36} {kept['Rss']:7.1f} {kept['Pss']:12.1f} {own:7.1f}")


def main() -> None:
    """Print all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--workers", type=int, default=WORKERS)
    given = parser.parse_args()
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory(prefix="watchly-startup-") as directory:
        Path(directory).chmod(0o755)
        environment = kept | {
            "PYTHONPYCACHEPREFIX": f"{directory}/bytecode",
            "WATCHLY_HOME": f"{directory}/home",
            "LOG_LEVEL": "warning",
        }
        starts(given.rounds, environment)
        applications(given.rounds, environment)
        with served(environment, 1):  # its database runs on for the commands
            commands(given.rounds, environment)
        idle(environment, given.workers)


if __name__ == "__main__":
    main()
