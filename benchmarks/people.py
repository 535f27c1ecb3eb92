"""What signing in costs: checking a token, refusing a stranger, and fifty uses of one refresh token at once.

- `GET /api/movies/{id}` of a server with AUTH=off, and of one with PUBLIC_READ=false and a token, in turns:
  the processor time of the workers for each request, and the requests a second of one client.
- Signing in to an account that is not there and with a wrong password, in turns: bodies and medians.
- One refresh token sent fifty times at once, again and again; then the old one once more.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import Final, NamedTuple

from transfers import database
from uploads import BINARIES, serving

REQUESTS: Final = 3_000
ROUNDS: Final = 9
TRIES: Final = 2_000
USES: Final = 50
REFRESHES: Final = 20
#: Accounts, so that none of them is tried more often than is let through.
ACCOUNTS: Final = 50
PASSWORD: Final = "correct horse battery staple"
JSON: Final = {"Content-Type": "application/json"}
CLOSED: Final = {"AUTH": "on", "PUBLIC_READ": "false", "TRUSTED_PROXIES": "127.0.0.1", "LOG_LEVEL": "error"}
OPEN: Final = {"LOG_LEVEL": "error"}


class Server(NamedTuple):
    """Where a server answers, and its process."""

    host: str
    pid: int

    def processor_seconds(self) -> float:
        """What its workers have used of the processor."""
        return sum(map(_processor_seconds, _children(self.pid)))

    def call(
        self,
        method: str,
        path: str,
        members: object = None,
        headers: Mapping[str, str] = {},
        connection: HTTPConnection | None = None,
    ) -> tuple[int, bytes]:
        """The status and the body of a reply."""
        connection = connection or HTTPConnection(self.host, timeout=60)
        body = None if members is None else json.dumps(members)
        connection.request(method, path, body, {**JSON, **headers})
        reply = connection.getresponse()
        return reply.status, reply.read()


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def served(home: Path, spools: Path, environment: Mapping[str, str]) -> Iterator[Server]:
    with serving(home, spools, **environment) as (host, pid):
        yield Server(host, pid)


def told(home: Path, *words: str) -> str:
    """What a command prints."""
    done = subprocess.run(
        [str(BINARIES / "watchly"), *words],
        env={**os.environ, "WATCHLY_HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def round_of(server: Server, requests: int, headers: Mapping[str, str]) -> tuple[float, float]:
    """Milliseconds of the processor for each request, and requests a second."""
    connection = HTTPConnection(server.host, timeout=60)
    used, began = server.processor_seconds(), time.perf_counter()
    for number in range(requests):
        status, _ = server.call("GET", f"/api/movies/{number % 600 + 1}", None, headers, connection)
        if status != HTTPStatus.OK:
            raise SystemExit(f"a read answered {status}")
    seconds = time.perf_counter() - began
    return 1_000 * (server.processor_seconds() - used) / requests, requests / seconds


def compare_reads(home: Path, spools: Path, requests: int, rounds: int) -> None:
    bearer = {"Authorization": f"Bearer {told(home, 'token', '--role', 'viewer', '--ttl', '6h')}"}
    with served(home, spools, OPEN) as free, served(home, spools, CLOSED) as closed:
        status, _ = closed.call("GET", "/api/movies/1")
        if status != HTTPStatus.UNAUTHORIZED:
            raise SystemExit(f"a stranger was answered {status}")
        sides = {"AUTH=off": (free, {}), "with a token": (closed, bearer)}
        for server, headers in sides.values():
            round_of(server, requests // 4, headers)
        figures: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for number in range(rounds):
            order = list(sides.items())
            for name, (server, headers) in order if number % 2 else reversed(order):
                figures[name].append(round_of(server, requests, headers))
    print(f"GET /api/movies/{{id}}, {rounds} rounds of {requests:,} requests each, in turns (medians)")
    for name, found in figures.items():
        processor, rate = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"  {name:12} {processor:.3f} ms of the workers' processors a request, {rate:,.0f} requests/s")
    pairs = list(zip(figures["with a token"], figures["AUTH=off"], strict=True))
    processor = statistics.median(mine[0] / other[0] for mine, other in pairs)
    rate = statistics.median(other[1] / mine[1] for mine, other in pairs)
    print(f"  processor time with a token over without: {processor:.3f} (wanted at most 1.10)")
    print(f"  time of a request with a token over without: {rate:.3f}")


def compare_refusals(server: Server, emails: list[str], tries: int) -> None:
    connection = HTTPConnection(server.host, timeout=60)
    seconds: dict[str, list[float]] = {"unknown": [], "wrong password": []}
    bodies: set[bytes] = set()
    for number in range(tries):
        known = emails[number % len(emails)]
        for kind, email in (("unknown", f"u{known}"), ("wrong password", known)):
            # Attempts from one address would soon be refused.
            address = f"10.{number % 250}.{number // 250}.{len(kind)}"
            headers = {"X-Forwarded-For": address, "X-Request-ID": "same"}
            members = {"email": email, "password": "wrong horse battery staple"}
            began = time.perf_counter()
            status, body = server.call("POST", "/api/auth/login", members, headers, connection)
            seconds[kind].append(time.perf_counter() - began)
            bodies.add(body)
            if status != HTTPStatus.UNAUTHORIZED:
                raise SystemExit(f"a login answered {status}: {body!r}")
    medians = {kind: 1_000 * statistics.median(found) for kind, found in seconds.items()}
    print(f"POST /api/auth/login, {tries:,} tries of each kind, in turns")
    for kind, median in medians.items():
        print(f"  {kind:15} median {median:.2f} ms")
    ratio = medians["wrong password"] / medians["unknown"]
    print(
        f"  wrong over unknown: {ratio:.3f} (wanted 0.95 to 1.05); different bodies: {len(bodies)} (wanted 1)"
    )


def compare_refreshes(server: Server, email: str, uses: int, rounds: int) -> None:
    answered: list[int] = []
    kept = lost = revoked = 0
    with ThreadPoolExecutor(uses) as pool:
        connections = [HTTPConnection(server.host, timeout=60) for _ in range(uses)]
        for connection in connections:
            server.call("GET", "/health/live", connection=connection)
        for _ in range(rounds):
            status, body = server.call("POST", "/api/auth/login", {"email": email, "password": PASSWORD})
            if status != HTTPStatus.OK:
                raise SystemExit(f"a login answered {status}: {body!r}")
            old = json.loads(body)["refresh_token"]

            def use(connection: HTTPConnection, token: str = old) -> tuple[int, bytes]:
                return server.call(
                    "POST", "/api/auth/refresh", {"refresh_token": token}, connection=connection
                )

            replies = list(pool.map(use, connections))
            good = [json.loads(body) for status, body in replies if status == HTTPStatus.OK]
            if {status for status, _ in replies} - {HTTPStatus.OK, HTTPStatus.UNAUTHORIZED}:
                raise SystemExit(f"refreshes answered {sorted({status for status, _ in replies})}")
            answered.append(len(good))
            new = good[0]["refresh_token"] if good else old
            status, body = use(connections[0], new)
            if status == HTTPStatus.OK:
                kept += 1
                new = json.loads(body)["refresh_token"]
            else:
                lost += 1
            use(connections[0], old)
            revoked += use(connections[0], new)[0] == HTTPStatus.UNAUTHORIZED
    print(f"POST /api/auth/refresh, one token sent {uses} times at once, {rounds} rounds")
    print(f"  rotations a round: {min(answered)} to {max(answered)} (wanted 1)")
    print(f"  sessions that went on after that: {kept}, that had ended by a use that came late: {lost}")
    print(f"  sessions that the old token, sent once more, has ended: {revoked} of {rounds}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--tries", type=int, default=TRIES)
    parser.add_argument("--refreshes", type=int, default=REFRESHES)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, database(Path(folder)) as (_, home):
        spools = Path(folder, "spools")
        spools.mkdir()
        told(home, "import", "--sample")
        compare_reads(home, spools, given.requests, given.rounds)
        emails = [f"{secrets.token_hex(4)}@films.example" for _ in range(min(ACCOUNTS, given.tries))]
        bearer = {"Authorization": f"Bearer {told(home, 'token')}"}
        with served(home, spools, CLOSED) as server:
            for email in emails:
                server.call("POST", "/api/users", {"email": email, "password": PASSWORD}, bearer)
            compare_refusals(server, emails, given.tries)
            compare_refreshes(server, emails[0], USES, given.refreshes)


if __name__ == "__main__":
    main()
