"""The relay as users run it: inside `serve`, and as a command of its own, killed and replaced."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import httpx
import pytest
from standardwebhooks import Webhook
from tests.brokers import Nats, kept
from tests.receivers import Receiver, answer, receiving
from tests.services import Command, Service, as_url, environment, run, wait_until

from watchly_adapters.postgres import PostgresDatabase, migrate
from watchly_core import Catalogue

SECRET: Final = "s3cret" * 6
MINE: Final = {"WEBHOOK_PRIVATE": "on", "LOG_LEVEL": "info"}
#: What a relay logs when it begins.
BEGUN: Final = "this process relays"


@pytest.fixture
def url(empty_database: str) -> str:
    url = as_url(empty_database)
    asyncio.run(migrate(url))
    return url


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def added(url: str, *words: str, **variables: str) -> dict[str, str]:
    """What `webhook add` shows."""
    done = run("webhook", "add", *words, DATABASE_URL=url, **{**MINE, **variables})
    assert (done.returncode, done.stderr) == (0, "")
    shown = json.loads(done.stdout)
    assert isinstance(shown, dict)
    return shown


def listed(url: str) -> list[dict[str, object]]:
    done = run("webhook", "list", DATABASE_URL=url)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


class Relay(Command):
    """A running `watchly relay`."""

    def begins(self) -> bool:
        return self.says(BEGUN)


def relaying(log: Path, url: str, **variables: str) -> Relay:
    return Relay(log, "relay", DATABASE_URL=url, **{**MINE, **variables})


def write(url: str, movies: int, revisions: int = 0) -> None:
    """Add movies, and revise each of them so often."""

    async def writing() -> None:
        async with PostgresDatabase(url) as database:
            catalogue = Catalogue(database.queries, database.transactions)
            for _ in range(movies):
                movie = await catalogue.add({"title": "Heat"})
                for year in range(1900, 1900 + revisions):
                    await catalogue.revise(movie.id, {"release_year": year})

    asyncio.run(writing())


@contextmanager
def writing(url: str, seed: int) -> Iterator[None]:
    """A process that writes while the block runs, which ends after it."""
    with subprocess.Popen([sys.executable, "-c", WRITER, url, str(seed)], env=environment()) as writer:
        yield
        assert writer.wait(100) == 0


def test_a_service_tells_webhooks_of_what_it_writes(url: str, receiver: Receiver, tmp_path: Path) -> None:
    hook = added(url, receiver.url)
    settings = {"DATABASE_URL": url, "SECRET_KEY": SECRET, "WORKERS": "2", "RELAY": "on", **MINE}
    with Service(tmp_path / "log", **settings, PUBLIC_URL="https://films.example") as service:
        for title in ("Heat", "Ran"):
            reply = httpx.post(f"{service.url}/api/movies", json={"title": title})
            assert reply.status_code == 201
        wait_until(lambda: len(receiver.taken) >= 2, "both were told")
        # Of two workers one relays.
        wait_until(lambda: BEGUN in service.log, "one says so")
        assert service.stop() == 0
        assert service.log.count(BEGUN) == 1
    bodies = [Webhook(hook["secret"]).verify(each.body, each.headers) for each in receiver.taken]
    assert sorted((body["id"], body["data"]["movie"]["title"]) for body in bodies) == [
        ("1-1", "Heat"),
        ("2-1", "Ran"),
    ]
    assert {body["source"] for body in bodies} == {"https://films.example"}


def test_a_service_tells_nobody_unless_it_is_told_to(url: str, receiver: Receiver, tmp_path: Path) -> None:
    added(url, receiver.url)
    settings = {"DATABASE_URL": url, "SECRET_KEY": SECRET, "WORKERS": "1", **MINE}
    with Service(tmp_path / "log", **settings) as service:
        httpx.post(f"{service.url}/api/movies", json={"title": "Heat"}).raise_for_status()
        with relaying(tmp_path / "relay", url):
            wait_until(lambda: len(receiver.taken) == 1, "another process told it")
        assert BEGUN not in service.log


def test_another_relay_takes_over_when_one_is_killed(url: str, receiver: Receiver, tmp_path: Path) -> None:
    added(url, receiver.url)
    with relaying(tmp_path / "first", url) as first:
        wait_until(first.begins, "the first relays")
        with relaying(tmp_path / "second", url) as second:
            wait_until(lambda: "relaying" in second.log, "the second waits")
            write(url, 3)
            wait_until(lambda: len(receiver.taken) == 3, "the first told of it")
            assert not second.begins()
            first.end(signal.SIGKILL)
            killed = time.monotonic()
            write(url, 3)
            wait_until(partial(_told, receiver, 6), "the second told of it")
            assert time.monotonic() - killed < 20
            wait_until(second.begins, "the second says that it relays")
            assert second.end(signal.SIGTERM) == 0
    # What the first did not live to note comes again.
    assert sorted(set(ids(receiver))) == [f"{number}-1" for number in range(1, 7)]


def test_nothing_is_lost_when_relays_and_targets_are_killed(url: str, tmp_path: Path) -> None:
    """A webhook that fails now and then and goes away, a broker that is killed, relays that are killed."""
    chance = random.Random(7)  # noqa: S311 - no secret
    with receiving() as receiver, Nats(tmp_path / "nats") as broker, writing(url, 1), writing(url, 2):
        port = int(receiver.url.rpartition(":")[2].partition("/")[0])
        receiver.choose = lambda _: answer(200) if chance.random() < 0.9 else answer(500)
        added(url, receiver.url, "--all")
        for turn in range(5):
            with relaying(tmp_path / f"relay-{turn}", url, NATS_URL=broker.url) as relay:
                wait_until(relay.begins, "it relays")
                enough = min(len(set(ids(receiver))) + 20, TOTAL)
                wait_until(partial(_told, receiver, enough), "it tells")
                if turn % 2:  # the broker as well
                    broker.stop()
                    broker.start()
                relay.end(signal.SIGKILL)
    receiver.choose = lambda _: answer(200)
    with receiving(port, receiver), broker, relaying(tmp_path / "last", url, NATS_URL=broker.url):
        wait_until(partial(_told, receiver, TOTAL), "all were told")
        wait_until(lambda: len(asyncio.run(kept(broker))) >= TOTAL, "the broker has all")
        found = [message.id for message in asyncio.run(kept(broker))]
    # The broker drops repeats by itself, the receiver of a webhook has to.
    for firsts in (found, list(dict.fromkeys(ids(receiver)))):
        assert len(firsts) == len(set(firsts)) == TOTAL
        versions: dict[str, list[int]] = {}
        for name in firsts:
            movie, _, version = name.partition("-")
            versions.setdefault(movie, []).append(int(version))
        assert all(each == list(range(1, len(each) + 1)) for each in versions.values())


def _told(receiver: Receiver, count: int) -> bool:
    return len(set(ids(receiver))) >= count


def ids(receiver: Receiver) -> list[str]:
    return [each.headers["webhook-id"] for each in receiver.taken]


# The commands


def test_webhooks_are_added_listed_and_removed(url: str) -> None:
    first = added(url, "https://films.example/hook", WEBHOOK_PRIVATE="off")
    second = added(url, "http://127.0.0.1:1/", "--secret", "whsec_" + "c2VjcmV0" * 4)
    assert second["secret"] == "whsec_" + "c2VjcmV0" * 4
    shown = listed(url)
    assert {(each["id"], each["url"]) for each in shown} == {
        (first["id"], "https://films.example/hook"),
        (second["id"], "http://127.0.0.1:1/"),
    }
    assert "secret" not in json.dumps(shown).replace("whsec_c2VjcmV0", "secret")
    assert run("webhook", "remove", first["id"], DATABASE_URL=url).returncode == 0
    assert [each["id"] for each in listed(url)] == [second["id"]]
    again = run("webhook", "remove", first["id"], DATABASE_URL=url)
    assert (again.returncode, again.stderr) == (1, f"watchly: no webhook is called {first['id']!r}\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["http://127.0.0.1:80/"], "127.0.0.1 is not on the public internet"),
        (["http://localhost/"], "localhost is not on the public internet"),
        (["http://169.254.169.254/latest"], "169.254.169.254 is not on the public internet"),
        (["films.example"], "url: must be an http or https URL"),
        (["http://[::1/"], "url: must be an http or https URL"),
        (["https://films.example/", "--secret", "short"], "secret: must be whsec_"),
    ],
)
def test_a_bad_webhook_is_refused(url: str, words: list[str], said: str) -> None:
    done = run("webhook", "add", *words, DATABASE_URL=url)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert listed(url) == []


def test_what_was_given_up_is_shown_and_can_be_sent_again(
    url: str, receiver: Receiver, tmp_path: Path
) -> None:
    receiver.choose = lambda _: answer(413)
    added(url, receiver.url)
    with relaying(tmp_path / "log", url) as relay:
        write(url, 2)
        wait_until(lambda: len(receiver.received) >= 2, "both were refused")
        wait_until(lambda: listed(url)[0]["dead"] == 2, "they are noted")
        assert "413" in relay.log
        receiver.choose = lambda _: answer(204)
        done = run("relay", "--retry-dead", DATABASE_URL=url)
        assert (done.returncode, done.stderr) == (0, "messages due again: 2\n")
        wait_until(lambda: sorted(ids(receiver)) == ["1-1", "2-1"], "both were taken")
        wait_until(lambda: listed(url)[0]["dead"] == 0, "they are forgotten")


def test_a_target_that_is_down_is_shown(url: str, receiver: Receiver, tmp_path: Path) -> None:
    receiver.choose = lambda _: answer(500)
    added(url, receiver.url)
    write(url, 1)
    with relaying(tmp_path / "log", url):
        wait_until(lambda: listed(url)[0]["reason"] is not None, "it is noted")
    (shown,) = listed(url)
    assert shown["reason"] == "webhook: it answered 500"
    assert shown["failing_since"] is not None
    assert (shown["position"], shown["waiting"], shown["dead"]) == (0, 0, 0)


def test_memory_has_no_webhooks() -> None:
    for words in (["relay"], ["webhook", "list"]):
        done = run(*words, DATABASE_URL="memory:")
        assert done.returncode == 1
        assert "memory:" in done.stderr


#: Changes that one of two writers makes.
WRITTEN: Final = 250
TOTAL: Final = 2 * WRITTEN
WRITER: Final = f"""
import asyncio, random, sys
from watchly_adapters.postgres import PostgresDatabase
from watchly_core import Catalogue

async def main(url, seed):
    chance = random.Random(seed)
    async with PostgresDatabase(url) as database:
        catalogue = Catalogue(database.queries, database.transactions)
        movies = []
        for number in range({WRITTEN}):
            if len(movies) < 20:
                movies.append((await catalogue.add({{"title": "Heat"}})).id)
            else:
                movie = chance.choice(movies)
                await catalogue.revise(movie, {{"description": str(number)}})
            await asyncio.sleep(0.04)

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""
