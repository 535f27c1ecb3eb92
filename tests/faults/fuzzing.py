"""Requests that schemathesis makes of the OpenAPI document, sent to a real service by all kinds of people.

    python -m tests.faults.fuzzing --cases 50000 --seed 7

None of them may be answered by a 5xx, by a status that the document does not name, or by a body or headers
that it does not describe; and each operation has to succeed now and then, or they would prove little. Then
the corpus of bytes is sent (`tests/corpus`).
"""

from __future__ import annotations

import multiprocessing
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Final, NamedTuple

import httpx
import requests
import schemathesis
from hypothesis import given
from hypothesis import seed as seeded
from hypothesis.errors import Flaky, Unsatisfiable
from hypothesis.strategies import SearchStrategy
from schemathesis.core.result import Ok
from schemathesis.core.transport import Response
from schemathesis.generation.modes import GenerationMode
from schemathesis.generation.stateful import run_state_machine_as_test
from tests.corpus.all import CASES
from tests.corpus.town import Town, check, running
from tests.faults.runs import Outcome, options, perform, with_database
from tests.http.fuzz import Case, Fuzzer, configured, quiet
from tests.http.senders import People
from tests.services import run as command

WORKERS: Final = 2
#: Processes that make cases, which takes longer than to answer them.
_LANES: Final = 2
#: Right cases of an operation that are made at a time, beside a third of wrong ones; walks along links, and
#: their steps.
_RIGHT: Final = 30
_WALKS: Final = 25
_STEPS: Final = 20
_ALL: Final = ": all"
#: Of so many cases, some of each operation succeed.
_ENOUGH: Final = 5_000

PROMISE: Final = "no request is answered by a 5xx, or by a status that the document does not name"


class Plan(NamedTuple):
    """A run: how many requests are sent, and the seed of all chance."""

    cases: int
    seed: int


class Lane(NamedTuple):
    """What one process has to send, and where."""

    number: int
    plan: Plan
    url: str
    token: str


class Sent(NamedTuple):
    """What one process has sent: its replies by operation and status, and what was wrong."""

    statuses: Counter[tuple[str, int]]
    wrong: dict[tuple[str, str], str]


def _try(fuzzer: Fuzzer, cases: SearchStrategy[Case], examples: int, chance: random.Random) -> None:
    @seeded(chance.randrange(2**32))
    @quiet(examples)
    @given(cases)
    def trial(case: Case) -> None:
        fuzzer.send(case)

    with suppress(Unsatisfiable):  # where nothing can be wrong
        trial()


def send(lane: Lane) -> Sent:
    """Send so many cases: those of each operation in turn, and walks along the links between them."""
    chance = random.Random(f"fuzzing/{lane.plan.seed}/{lane.number}")  # noqa: S311 - to be repeated
    schema = configured(schemathesis.openapi.from_url(f"{lane.url}/openapi.json"))
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    with httpx.Client(base_url=lane.url, timeout=30) as client, requests.Session() as session:
        fuzzer = Fuzzer(People(client, lane.token, chance), chance, session)

        class Walk(schema.as_state_machine()):  # type: ignore[misc] # it is made of the document
            def call(self, case: Case, **_kwargs: object) -> Response:
                return fuzzer.send(case, linked=True)

            def validate_response(self, *_args: object, **_kwargs: object) -> None:
                """Judged already."""

        # Of few cases each operation has some as well.
        some = min(_RIGHT, -(-lane.plan.cases // (2 * len(operations))))
        while fuzzer.sent < lane.plan.cases:
            for operation in chance.sample(operations, len(operations)):
                for mode, examples in (
                    (GenerationMode.POSITIVE, some),
                    (GenerationMode.NEGATIVE, -(-some // 3)),
                ):
                    if fuzzer.sent < lane.plan.cases:
                        _try(fuzzer, operation.as_strategy(generation_mode=mode), examples, chance)
            with suppress(Flaky):  # the service answers the same request in more than one way
                run_state_machine_as_test(
                    seeded(chance.randrange(2**32))(Walk), settings=quiet(_WALKS, _STEPS)
                )
    return Sent(fuzzer.statuses, fuzzer.wrong)


def run(plan: Plan, folder: Path, server_url: str) -> Outcome:
    """Send all cases, and the corpus of bytes to a service of its own.

    Args:
        plan: what to do.
        folder: an empty one, for images and logs.
        server_url: a database server that runs, on which databases can be made.
    """
    for name in ("cases", "bytes"):
        (folder / name).mkdir()
    outcome = run_cases(plan, folder / "cases", server_url, _LANES)
    with running(server_url, folder / "bytes") as town:
        wrong = [*outcome.wrong, *_wrong_bytes(town)]
    held = f"{outcome.held}, and {len(CASES)} of bytes as they should be"
    return outcome._replace(wrong=wrong, held=held)


def run_cases(plan: Plan, folder: Path, server_url: str, lanes: int) -> Outcome:
    """Send all cases to a service over a socket, then look how it fared.

    Args:
        plan: what to do.
        folder: an empty one, for images and a log.
        server_url: as above.
        lanes: how many processes send at a time; one is this process.
    """
    began = time.monotonic()
    settings = {
        "REGISTRATION": "open",
        "TRUSTED_PROXIES": "127.0.0.1",
    }  # so that each case comes from elsewhere
    with running(server_url, folder, WORKERS, **settings) as town:
        token = command("token", "--ttl", "24h", **town.variables).stdout.strip()
        share = Plan(-(-plan.cases // lanes), plan.seed)
        work = [Lane(number, share, town.service.url, token) for number in range(lanes)]
        if lanes == 1:
            sent = [send(work[0])]
        else:
            with multiprocessing.get_context("spawn").Pool(lanes) as pool:
                sent = pool.map(send, work, chunksize=1)
        wrong = [f"the log: {line}" for line in town.faults()]
    for lane in sent:
        wrong += [f"{name}, {what}: {words}" for (name, what), words in lane.wrong.items()]
    counts = _counts(sum((lane.statuses for lane in sent), Counter[tuple[str, int]]()))
    if plan.cases >= _ENOUGH:
        names = sorted(what.removesuffix(_ALL) for what in counts if what.endswith(_ALL))
        wrong += [f"{name} never succeeds" for name in names if not counts[f"{name}: 2xx"]]
    counts["seconds"] = round(time.monotonic() - began)
    return Outcome(plan, counts, wrong, PROMISE, f"{counts['cases']:,} cases: 0 5xx, 0 undocumented statuses")


def _wrong_bytes(town: Town) -> Iterator[str]:
    """The cases of the corpus that are not answered as they have to be."""
    for name, case in CASES.items():
        try:
            check(town, case)
        except (AssertionError, OSError) as error:
            yield f"{name}: {error!r}"


def _counts(statuses: Mapping[tuple[str, int], int]) -> Counter[str]:
    """How many replies there were: in all, by status, and by operation those that are a success."""
    counts: Counter[str] = Counter()
    for (name, status), number in statuses.items():
        counts["cases"] += number
        counts[f"status {status}"] += number
        counts[f"{name}{_ALL}"] += number
        counts[f"{name}: 2xx"] += number if status < HTTPStatus.MULTIPLE_CHOICES else 0
    return counts


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--cases", type=int, default=50_000)
    given_ = parser.parse_args()
    plan = Plan(given_.cases, given_.seed)
    return perform("fuzzing", PROMISE, given_, with_database(run, plan))


if __name__ == "__main__":
    sys.exit(main())
