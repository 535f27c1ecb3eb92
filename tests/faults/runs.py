"""What long runs share: what they come to, and how they are started from the command line."""

from __future__ import annotations

import argparse
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from tests.faults.record import record
from tests.services import Service, folder_in_memory

P = TypeVar("P")

#: A key for services of a run.
SECRET: Final = "0123456789abcdef" * 4

#: What is printed of all that is wrong, and of each of these.
_FIRST: Final = 40
_LONG: Final = 1_000


class Outcome(NamedTuple):
    """What a run came to.

    Attributes:
        plan: what was to be done.
        counts: how often what happened.
        wrong: all that must not be.
        promise: what must hold, in one line.
        held: what was done, and that it held, in one line.
    """

    plan: object
    counts: Mapping[str, int]
    wrong: Sequence[str]
    promise: str
    held: str

    @property
    def figure(self) -> str:
        """What came of it, in one line."""
        return f"FAILED: {len(self.wrong)} wrong" if self.wrong else self.held

    def __str__(self) -> str:
        lines = [str(self.plan), *(f"{number:7} {what}" for what, number in sorted(self.counts.items()))]
        first = [f"WRONG {words:.{_LONG}}" for words in self.wrong[:_FIRST]]
        return "\n".join([*lines, *first, self.figure])


def options(description: str | None) -> argparse.ArgumentParser:
    """What every run is told on the command line; each adds how much it does."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--write", action="store_true", help="write its row of docs/reference/reliability.md")
    parser.add_argument("--keep", action="store_true", help="leave the folder of the run, with its logs")
    return parser


def with_database(run: Callable[[P, Path, str], Outcome], plan: P) -> Callable[[Path], Outcome]:
    """This run of a plan, in a folder in which a database server runs for it."""

    def begin(folder: Path) -> Outcome:
        # Not above: whoever tries faults in copies of Watchly has this module, and must not have Watchly.
        from watchly_adapters.embedded import EmbeddedPostgres  # noqa: PLC0415

        with EmbeddedPostgres(folder / "database") as database_url:
            return run(plan, folder, database_url)

    return begin


def end(service: Service, logs: Sequence[Path] = ()) -> list[str]:
    """Stop a service; what is wrong about its end, or in its log: `logs` are also those of earlier ones."""
    code = service.stop()
    log = "".join(each.read_text() for each in logs) or service.log
    ended = [f"the service ended with {code}: {log}"] if code else []
    return ended + [f"the log has {line}" for line in log.splitlines() if "Traceback" in line]


def perform(name: str, promise: str, given: argparse.Namespace, run: Callable[[Path], Outcome]) -> int:
    """Run in a folder of its own, and tell what came of it; the exit code.

    Args:
        name: of the row.
        promise: of the row, also where the run comes to no end.
        given: what was parsed.
        run: the run, in this folder.
    """
    # Who ends this ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print(f"{name}: seed {given.seed}", flush=True)  # noqa: T201 - what it is for
    folder = Path(tempfile.mkdtemp(prefix=f"watchly-{name}-", dir=folder_in_memory()))
    folder.chmod(0o711)  # the database is another user's
    began, figure = time.monotonic(), "FAILED: it broke off"
    try:
        outcome = run(folder)
        figure = outcome.figure
        print(outcome)  # noqa: T201 - as above
    finally:
        if given.write:
            record(name, promise, figure, given.seed, time.monotonic() - began)
        if given.keep:
            print(folder)  # noqa: T201 - as above
        else:
            shutil.rmtree(folder)
    return 1 if outcome.wrong else 0
