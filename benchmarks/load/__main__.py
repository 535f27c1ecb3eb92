"""A realistic mix of ever more users on Watchly, up to 1,000, who hurry more and more; see the package.

Prints the page of what was found; `--write` also writes docs/reference/load.md and its picture. Everything
listens on loopback only, and lives below a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import string
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from benchmarks.comparison.database import Database, embedded
from benchmarks.comparison.loads import noise
from benchmarks.comparison.servers import WATCHLY, Running, install, processor_seconds, running
from benchmarks.films import GENRES, Film, real_films
from benchmarks.load import report
from benchmarks.load.figures import Findings, Recording, Use, findings
from benchmarks.load.picture import draw
from benchmarks.load.plan import SECONDS, SHORT_SECONDS, SHORT_STAGES, STAGES, VARIABLE, Plan, Stage

ROOT: Final = Path(__file__).parents[2]
REFERENCE: Final = ROOT / "docs" / "reference"
POSTERS: Final = 500
EDITORS: Final = 10
PASSWORD: Final = "correct horse battery staple"
SHORT_FILMS: Final = 5_000
SHORT_POSTERS: Final = 20
#: Seconds that locust gets for its own start, and for the last answers.
_GRACE: Final = 90
_STOPPING: Final = 20
_LONG_WORD: Final = 5
_POPULAR: Final = 500
_OTHERS: Final = 2_000
_CREATED: Final = 201


class Extent(NamedTuple):
    """How much is done."""

    stages: tuple[Stage, ...] = STAGES
    seconds: int = SECONDS
    films: int | None = None
    posters: int = POSTERS


SHORT: Final = Extent(SHORT_STAGES, SHORT_SECONDS, SHORT_FILMS, SHORT_POSTERS)


def words(films: Sequence[Film], chance: random.Random) -> tuple[list[str], list[str], list[str]]:
    """Popular ones, rare ones, and popular ones with a letter that is none of theirs."""
    found = Counter(
        word.lower()
        for film in films
        for word in film.title.split()
        if len(word) >= _LONG_WORD and word.isalpha() and word.isascii()
    )
    popular = [word for word, _ in found.most_common(_POPULAR)]
    once = sorted(word for word, times in found.items() if times == 1)
    misspelt = []
    for word in chance.choices(popular, k=_OTHERS):
        place = chance.randrange(1, len(word))
        misspelt.append(word[:place] + chance.choice(string.ascii_lowercase) + word[place + 1 :])
    return popular, chance.sample(once, min(_OTHERS, len(once))), misspelt


def prepare(database: Database, server: Running, folder: Path, extent: Extent, ids: Sequence[int]) -> Plan:
    """Accounts, images, and what users know."""
    chance = random.Random(1895)
    bearer = {"Authorization": f"Bearer {database.told(database.url, 'token', '--ttl', '1h')}"}

    def sent(reply: tuple[int, str, bytes], wanted: int) -> bytes:
        status, _, body = reply
        if status != wanted:
            raise SystemExit(f"Watchly answered {status}: {body!r}")
        return body

    editors = [f"editor{number}@films.example" for number in range(EDITORS)]
    for email in editors:
        account = json.dumps({"email": email, "password": PASSWORD, "role": "editor"}).encode()
        sent(server.post("/api/users", account, bearer | {"Content-Type": "application/json"}), _CREATED)
    movies = chance.sample(ids, len(ids))
    poster = folder / "poster.jpg"
    poster.write_bytes(noise())
    thumbnails = []
    for movie in movies[: extent.posters]:
        kind = {"Content-Type": "image/jpeg"}
        body = sent(server.put(f"/api/movies/{movie}/image", poster.read_bytes(), bearer | kind), 200)
        thumbnails.append(json.loads(body)["image"]["variants"]["thumbnail"])
        # The first one who asks for it waits until it is made.
        sent(server.get(thumbnails[-1]), 200)
    # Who reads the history waits until all events have their numbers.
    sent(server.get(f"/api/movies/{movies[0]}/history"), 200)
    database.vacuum()
    popular, rare, misspelt = words(real_films()[: extent.films], chance)
    recordings = folder / "recordings"
    recordings.mkdir()
    return Plan(
        host=server.host,
        folder=str(recordings),
        stages=extent.stages,
        seconds=extent.seconds,
        movies=movies,
        popular=popular,
        rare=rare,
        misspelt=misspelt,
        genres=GENRES,
        thumbnails=thumbnails,
        editors=editors,
        password=PASSWORD,
        poster=str(poster),
    )


def busy_seconds() -> float:
    """What all processors of this machine have been used, by whomever."""
    user, nice, system, _, _, *interrupts = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def used(server: Running, postmaster: int, locust: int) -> Use:
    """What everybody has used up to now; of others, what they did while this looked."""
    server_seconds, database, generator = (
        server.processor_seconds(),
        processor_seconds(postmaster),
        processor_seconds(locust),
    )
    others = busy_seconds() - server_seconds - database - generator
    return Use(time.time(), server_seconds, database, generator, others)


def drive(plan: Plan, server: Running, postmaster: int, processes: int) -> tuple[list[Recording], list[Use]]:
    """Let locust do it, and look at the processors meanwhile."""
    path = Path(plan.folder).with_name("plan.json")
    path.write_bytes(msgspec.json.encode(plan))
    options = ["--headless", "--only-summary", "--loglevel", "WARNING", "--exit-code-on-error", "0"]
    if processes > 1:
        options += ["--processes", str(processes)]
    users = str(Path(__file__).with_name("users.py"))
    said = path.with_name("locust.txt")
    deadline = time.monotonic() + len(plan.stages) * plan.seconds + _GRACE
    uses = []
    with (
        said.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-m", "locust", "-f", users, "--stop-timeout", str(_STOPPING), *options],
            cwd=ROOT,
            env={**os.environ, VARIABLE: str(path)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        ) as locust,
    ):
        try:
            while locust.poll() is None and time.monotonic() < deadline:
                uses.append(used(server, postmaster, locust.pid))
                time.sleep(1)
        finally:
            locust.terminate()
    recordings = [
        msgspec.json.decode(found.read_bytes(), type=Recording) for found in Path(plan.folder).iterdir()
    ]
    if locust.returncode or len(recordings) != processes:
        raise SystemExit(f"locust failed: {said.read_text(errors='replace')[-4_000:]}")
    return recordings, uses


def find(extent: Extent, processes: int) -> tuple[Findings, int]:
    """All of it, and how many movies there were."""
    with embedded() as (database, folder):
        ids = database.fill(folder, extent.films)
        contestant = install(WATCHLY, folder)
        production = {**database.environment(database.url), "ENVIRONMENT": "production"}
        with running(contestant, production) as server:
            print(f"{len(ids):,} movies; adding {extent.posters} images", file=sys.stderr)
            plan = prepare(database, server, folder, extent, ids)
            print(f"{len(plan.stages)} stages of {plan.seconds} s", file=sys.stderr)
            recordings, uses = drive(plan, server, database.postmaster(), processes)
        found = findings(plan.stages, plan.seconds, recordings, uses)
        if found.errors:
            print((contestant.folder / "log.txt").read_text(errors="replace")[-4_000:], file=sys.stderr)
        return found, len(ids)


def main() -> None:
    """Load, and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=int, default=SECONDS, help="of each stage")
    parser.add_argument("--processes", type=int, default=1, help="of locust")
    parser.add_argument("--short", action="store_true", help="a few seconds of it: that all of it runs")
    parser.add_argument(
        "--write", action="store_true", help="write the page of the reference, and its picture"
    )
    given = parser.parse_args()
    extent = SHORT if given.short else Extent(seconds=given.seconds)
    # Who ends this ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # A connection for each user, at both ends.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    found, movies = find(extent, given.processes)
    full = extent == Extent() and given.processes == 1
    command = "nox -s load" if full else "python -m benchmarks.load"
    run = report.Run(command, datetime.now(tz=UTC).date(), movies, extent.seconds, given.processes)
    print(report.page(found, run, ""))
    with tempfile.TemporaryDirectory() as temporary:
        folder = REFERENCE if given.write else Path(temporary)
        draw(report.panels(found), extent.stages, extent.seconds, folder / "load.svg")
        (folder / "load.md").write_text(report.page(found, run, "load.svg"), encoding="utf-8")
    print(report.headline(found))
    if given.short and found.errors:
        raise SystemExit("so few users should see no error")


if __name__ == "__main__":
    main()
