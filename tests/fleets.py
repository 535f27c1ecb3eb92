"""Two instances of the service, and the gateway of deploy/ before them."""

from __future__ import annotations

import secrets
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import httpx

from tests.gateways import DEPLOY, Gateway, Names, free_port
from tests.services import NO_CERTIFICATES, Service, run, wait_until

HOSTS: Final = ("127.0.0.2", "127.0.0.3")
SECRET: Final = "k" * 32
PASSWORD: Final = "correct horse battery"  # noqa: S105 - of nobody
#: Where a movie is from the start.
FIRST: Final = "/api/movies/1"


class Fleet:
    """What runs while `stack` is open.

    Attributes:
        gateway: before all of it.
        instances: by their addresses.
        variables: the settings of each.
        token: of an administrator, for a while.
        key: of the same, for good.
    """

    def __init__(self, logs: Path, stack: ExitStack, **variables: str) -> None:
        self._logs, self._port = logs, free_port(*HOSTS)
        self.variables = {
            "AUTH": "on",
            "ENVIRONMENT": "production",
            "SECRET_KEY": SECRET,
            "TRUSTED_PROXIES": "127.0.0.1",
            "WATCHLY_HOME": str(logs / "home"),
            "WORKERS": "1",
            **variables,
        }
        migrated = run("migrate", **self.variables)
        assert migrated.returncode == 0, migrated.stderr
        added = run("user", "add", "ada@films.example", "--role", "admin", stdin=PASSWORD, **self.variables)
        assert added.returncode == 0, added.stderr
        self.instances = {host: self.start(host) for host in HOSTS}
        stack.callback(self._stop)
        names = stack.enter_context(Names({"watchly.test": HOSTS}))
        fetch = (sys.executable, "-I", str(DEPLOY / "haproxy" / "keys.py"))
        jwks = f"http://{HOSTS[0]}:{self._port}/.well-known/jwks.json"
        subprocess.run([*fetch, jwks, str(logs / "keys")], check=True, timeout=60)
        self.gateway = stack.enter_context(
            Gateway(
                logs / "gateway",
                DNS=names.address,
                KEYS=str(logs / "keys"),
                WATCHLY_SERVERS=f"watchly.test:{self._port}",
                CLIENT_REQUESTS="1000000",
            )
        )
        self.wait_for(*HOSTS)
        with self.client() as client:
            pair = client.post("/api/auth/login", json={"email": "ada@films.example", "password": PASSWORD})
            self.token: str = pair.json()["access_token"]
        with self.client(self.token) as client:
            made = client.post("/api/api-keys", json={"name": "a client", "role": "admin"})
            self.key: str = made.json()["secret"]
            assert client.post("/api/movies", json={"title": "The first"}).headers["Location"] == FIRST

    def start(self, host: str) -> Service:
        """Another instance, at an address where none is."""
        log = self._logs / f"{host}-{secrets.token_hex(4)}"
        return Service(log, "--host", host, "--port", str(self._port), **self.variables)

    def restart(self, host: str) -> None:
        """Stop an instance as a deployment does, and put another in its place."""
        with self.instances[host] as stopped:
            assert stopped.stop() == 0, stopped.log
        assert "Traceback" not in stopped.log, stopped.log
        assert self.gateway.up() == set(HOSTS) - {host}
        self.instances[host] = self.start(host)
        self.wait_for(*HOSTS)

    def _stop(self) -> None:
        for instance in self.instances.values():
            with instance:
                instance.stop()

    def wait_for(self, *hosts: str) -> None:
        """Wait until the gateway gives requests to these instances, and to no other."""
        wait_until(lambda: self.gateway.up() == set(hosts), f"the gateway had {hosts} and no other")

    def client(self, bearer: str | None = None) -> httpx.Client:
        """Somebody who asks the gateway."""
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        return httpx.Client(base_url=self.gateway.url, headers=headers, verify=NO_CERTIFICATES, timeout=60)
