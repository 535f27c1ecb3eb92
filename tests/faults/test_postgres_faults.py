"""PostgreSQL in every kind of trouble under a load of writers: nothing is lost, and nothing half done."""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Final, LiteralString, NamedTuple

import psycopg
import pytest
from psycopg.rows import TupleRow
from tests.faults.consumers import Consumer
from tests.faults.told import Shown
from tests.faults.trials import Trial, server_of, through
from tests.faults.wire import Reply, send
from tests.proxies import Bandwidth, Latency, LimitData, LoseReply, Proxy, ResetPeer, Timeout, Toxic
from tests.services import Service, wait_until

from watchly_adapters.embedded import EmbeddedPostgres
from watchly_adapters.testing import samples
from watchly_core.errors import Unavailable

SEED: Final = int(os.environ.get("FAULTS_SEED", "5"))
SECRET: Final = "0123456789abcdef" * 4
#: By this the commit is known, also where it was prepared before.
COMMIT: Final = sha256(b"COMMIT").hexdigest()[:16].encode()
JSON: Final = {"Content-Type": "application/json"}
#: Nothing arrives, and nothing is closed.
SILENCE: Final = (Timeout(), Timeout(stream="upstream"))
#: Connections of a service's pool.
POOL: Final = 10

#: Backends of the service, but for the one that listens.
BACKENDS: Final = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'watchly' AND query NOT LIKE 'LISTEN%'
"""
WAITING: Final = BACKENDS + "AND wait_event_type = 'Lock'"
BUSY: Final = BACKENDS + "AND state <> 'idle'"
END: Final = "SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid"


class Site(NamedTuple):
    """A service, its database behind a proxy, and the server of that."""

    trial: Trial
    proxy: Proxy
    server: EmbeddedPostgres
    home: Path

    @property
    def url(self) -> str:
        return self.trial.url


@pytest.fixture(scope="module")
def site(reachable_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = reachable_directory / f"faults-{uuid.uuid4().hex}"
    server = EmbeddedPostgres(home)
    with ExitStack() as stack:
        database_url = stack.enter_context(server)
        with psycopg.connect(database_url, autocommit=True) as connection:
            # Before the short time is over that such requests give a lock.
            connection.execute("ALTER SYSTEM SET deadlock_timeout = '100ms'")
            connection.execute("SELECT pg_reload_conf()")
        proxy = stack.enter_context(Proxy(server_of(database_url), seed=SEED))
        service = stack.enter_context(
            Service(
                tmp_path_factory.mktemp("service") / "log",
                *("--workers", "1"),
                DATABASE_URL=through(proxy, database_url),
                SECRET_KEY=SECRET,
                WATCHLY_HOME=str(home / "service"),
                REQUEST_TIMEOUT="2 s",
                LOG_LEVEL="error",
            )
        )
        yield Site(Trial(database_url, service.url, seed=SEED), proxy, server, home)
        assert service.stop() == 0
        assert "Traceback" not in service.log


@contextmanager
def outside(site: Site, *, autocommit: bool = True) -> Iterator[psycopg.Connection[TupleRow]]:
    """A connection of another program, past the proxy."""
    with psycopg.connect(site.trial.database_url, autocommit=autocommit) as connection:
        yield connection


def post(site: Site, title: str, **headers: str) -> Reply:
    return send("POST", f"{site.url}/api/movies", json.dumps({"title": title}).encode(), {**JSON, **headers})


def added(site: Site, title: str, **headers: str) -> int:
    """A movie that was added for certain, and that no client of the load knows."""
    reply = post(site, title, **headers)
    assert reply.status == 201, reply
    movie = reply.json["id"]
    assert isinstance(movie, int)
    site.trial.told.shown.add(Shown(movie, 1, None))
    site.trial.told.done("add", title, surely=True)
    return movie


def backends(connection: psycopg.Connection[TupleRow], query: LiteralString) -> list[int]:
    return [pid for (pid,) in connection.execute(query).fetchall()]


def test_backends_are_ended_in_the_middle(site: Site) -> None:
    with site.trial.trouble() as load, outside(site) as other:
        ended = 0
        while ended < 10:
            ended += other.execute(END, (backends(other, BUSY),)).rowcount
        load.goes_on(1)
        other.execute(END, (backends(other, BACKENDS),))


def test_a_backend_is_ended_while_its_transaction_waits(site: Site) -> None:
    movie = added(site, "ended while it waits")
    body = b'{"title": "ended while it waits, revised"}'
    with Consumer(site.url) as consumer, outside(site) as other, ThreadPoolExecutor(1) as threads:
        with outside(site, autocommit=False) as holder:
            holder.execute("SELECT 1 FROM movies WHERE id = %s FOR UPDATE", (movie,))
            reply = threads.submit(send, "PATCH", f"{site.url}/api/movies/{movie}", body, JSON)
            wait_until(lambda: backends(other, WAITING) != [], "the write waits for the row")
            other.execute(END, (backends(other, WAITING),))
            wait_until(lambda: backends(other, WAITING) == [] or reply.done(), "it was ended")
        status = reply.result().status
        assert status in {200, 503}
        shown = send("GET", f"{site.url}/api/movies/{movie}").json
        assert shown["version"] == (2 if status == 200 else 1)
        site.trial.check(consumer)


def test_a_lost_reply_to_a_commit_is_no_success(site: Site) -> None:
    with Consumer(site.url) as consumer, site.proxy.toxic(LoseReply(COMMIT)):
        reply = post(site, "lost its reply")
        assert reply.status == 503, reply
        assert "retry-after" in reply.headers
        site.trial.told.done("add", "lost its reply", surely=False)
    with outside(site) as other:
        found = other.execute("SELECT count(*) FROM movies WHERE title = 'lost its reply'").fetchone()
        assert found == (1,)  # it was done, once, which nobody could know
    site.trial.check(consumer)


def test_a_lost_reply_to_a_commit_is_found_by_its_key(site: Site) -> None:
    key = {"Idempotency-Key": "lost"}
    with Consumer(site.url) as consumer:
        with site.proxy.toxic(LoseReply(COMMIT)):
            assert post(site, "lost, with a key", **key).status in {409, 503}
        wait_until(lambda: post(site, "lost, with a key", **key).status == 201, "the key is answered")
        reply = post(site, "lost, with a key", **key)
        assert reply.headers["idempotency-replayed"] == "true"
        site.trial.told.done("add", "lost, with a key", surely=True)
        site.trial.told.keep("lost", Shown(int(str(reply.json["id"])), 1, None))
        site.trial.check(consumer)


def test_replies_to_commits_are_lost_under_load(site: Site) -> None:
    with site.trial.trouble() as load, site.proxy.toxic(LoseReply(COMMIT)):
        load.suffers(3)


def test_the_postmaster_is_killed_under_load(site: Site) -> None:
    with site.trial.trouble() as load:
        os.kill(int((site.home / "postgres/data/postmaster.pid").read_text().split()[0]), signal.SIGKILL)
        load.suffers()

        def revived() -> bool:
            with suppress(Unavailable):
                site.server.revive()
                with outside(site) as other:
                    return other.execute("SELECT 1").fetchone() == (1,)
            return False

        wait_until(revived, "the server is back")


def test_all_pooled_connections_are_dead_and_nobody_notices(site: Site) -> None:
    movie = added(site, "outlives its connections")
    with Consumer(site.url) as consumer:
        for number in range(3):
            site.proxy.cut(reset=True)
            assert send("GET", f"{site.url}/api/movies/{movie}").status == 200
            site.proxy.cut()
            added(site, f"comes on a new connection {number}")
        site.trial.check(consumer)


def test_frozen_backends_cost_a_deadline(site: Site) -> None:
    with site.trial.trouble() as load, outside(site) as other:
        frozen = backends(other, BACKENDS)
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            load.suffers()
        finally:
            for pid in frozen:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)


def test_an_exhausted_pool_says_so_and_recovers(site: Site) -> None:
    movies = [added(site, f"held {number}") for number in range(POOL + 2)]
    with Consumer(site.url) as consumer, outside(site) as other, ThreadPoolExecutor(POOL + 2) as threads:
        with outside(site, autocommit=False) as holder:
            holder.execute("SELECT 1 FROM movies WHERE id = ANY(%s) ORDER BY id FOR UPDATE", (movies,))
            body = b'{"title": "held, and revised"}'
            replies = [
                threads.submit(send, "PATCH", f"{site.url}/api/movies/{movie}", body, JSON)
                for movie in movies
            ]
            wait_until(
                lambda: len(backends(other, WAITING)) >= POOL - 1 or all(reply.done() for reply in replies),
                "the connections wait",
            )
            reply = send("GET", f"{site.url}/api/movies/{movies[0]}")
            assert reply.status == 200 or (reply.status == 503 and "retry-after" in reply.headers), reply
        assert {reply.result().status for reply in replies} <= {200, 503, 504}
        assert send("GET", f"{site.url}/api/movies/{movies[0]}").status == 200
        site.trial.check(consumer)


def test_an_opposed_order_of_locks_is_tried_again(site: Site) -> None:
    movie = added(site, "in two orders")
    told = site.trial.told
    content, headers = samples.UPRIGHT["png"], {"Content-Type": "image/png"}
    image = send("PUT", f"{site.url}/api/movies/{movie}/image", content, headers)
    assert image.status == 200, image
    told.done("attach", movie, surely=True)
    with Consumer(site.url) as consumer, outside(site) as other, ThreadPoolExecutor(1) as threads:
        with outside(site, autocommit=False) as holder:
            # It waits without looking for who is in its way: the service finds out first.
            holder.execute("SET LOCAL deadlock_timeout = '60 s'")
            holder.execute("SELECT 1 FROM images WHERE movie_id = %s FOR UPDATE", (movie,))
            reply = threads.submit(send, "DELETE", f"{site.url}/api/movies/{movie}/image")
            wait_until(lambda: backends(other, WAITING) != [], "the write waits for the image")
            holder.execute("SELECT 1 FROM movies WHERE id = %s FOR UPDATE", (movie,))
        assert reply.result().status == 204
        told.done("detach", movie, surely=True)
        site.trial.check(consumer)


@pytest.mark.parametrize(
    "toxics",
    [
        pytest.param([Latency(20, jitter=15), Latency(10, stream="upstream")], id="latency"),
        pytest.param([Bandwidth(300), Bandwidth(300, stream="upstream")], id="bandwidth"),
        pytest.param([Timeout(100)], id="timeout"),
        pytest.param([Timeout(100, stream="upstream")], id="timeout-upstream"),
        pytest.param([ResetPeer()], id="reset_peer"),
        pytest.param([LimitData(20_000)], id="limit_data"),
        pytest.param([LimitData(5_001, stream="upstream")], id="limit_data-upstream"),
        pytest.param([SILENCE[0]], id="silence"),
        pytest.param([SILENCE[1]], id="silence-upstream"),
    ],
)
def test_the_way_to_the_server_is_bad(site: Site, toxics: list[Toxic]) -> None:
    with site.trial.trouble() as load, site.proxy.toxic(*toxics) as active:
        accepted = site.proxy.accepted
        if toxics[0] in SILENCE:
            load.suffers()
        elif isinstance(toxics[0], Latency | Bandwidth):
            wait_until(lambda: active.hits > 20, "all of it was slow")
        else:
            wait_until(lambda: site.proxy.accepted > accepted + 1, "connections were lost, and others made")


def test_the_way_to_the_server_is_cut_for_a_while(site: Site) -> None:
    with site.trial.trouble() as load:
        site.proxy.down()
        load.suffers()
        site.proxy.up()
