"""The gateway before parts of the API that are processes of their own, of which one alone has the secret."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx
from tests.gateways import DEPLOY, Gateway, Names, needs_haproxy
from tests.services import NO_CERTIFICATES, Service, as_url, run, wait_until

from watchly_adapters.testing import samples

pytestmark = needs_haproxy

PASSWORD: Final = "correct horse battery"  # noqa: S105 - of nobody
KEYS: Final = "/.well-known/jwks.json"
SECRET: Final = {"SECRET_KEY": "k" * 32}


def test_a_session_goes_to_the_services_that_each_request_is_for(database_url: str, tmp_path: Path) -> None:
    common = {
        "AUTH": "on",
        "DATABASE_URL": as_url(database_url),
        "WATCHLY_HOME": str(tmp_path / "home"),
        "WORKERS": "1",
    }
    added = run("user", "add", "ada@films.example", "--role", "admin", stdin=PASSWORD, **common, **SECRET)
    assert added.returncode == 0, added.stderr
    with ExitStack() as stack:

        def started(service: str, **variables: str) -> Service:
            log = tmp_path / service
            return stack.enter_context(Service(log, SERVICE=service, **common, **variables))

        people = started("people", **SECRET)
        trusting = {"JWKS_URL": f"{people.url}{KEYS}"}
        # Images that are files are uploaded by tickets, which it signs.
        parts = {"images": started("images", **trusting, **SECRET), "people": people}
        parts["changes"], parts["watchly"] = started("changes", **trusting), started("movies", **trusting)
        names = stack.enter_context(Names({f"{name}.test": ["127.0.0.1"] for name in parts}))
        fetch = (sys.executable, "-I", str(DEPLOY / "haproxy" / "keys.py"))
        subprocess.run([*fetch, f"{people.url}{KEYS}", str(tmp_path / "keys")], check=True, timeout=60)
        servers = {
            f"{name.upper()}_SERVERS": f"{name}.test:{urlsplit(part.url).port}"
            for name, part in parts.items()
        }
        gateway = stack.enter_context(
            Gateway(tmp_path / "gateway", DNS=names.address, KEYS=str(tmp_path / "keys"), **servers)
        )
        wait_until(lambda: all(gateway.up(name) for name in parts), "all services were found")
        client = stack.enter_context(httpx.Client(base_url=gateway.url, verify=NO_CERTIFICATES, timeout=30))

        pair = client.post("/api/auth/login", json={"email": "ada@films.example", "password": PASSWORD})
        client.headers["Authorization"] = f"Bearer {pair.json()['access_token']}"
        movie = client.post("/api/movies", json={"title": "Heat"})
        assert movie.status_code == 201, movie.text
        place = movie.headers["Location"]
        png = {"Content-Type": "image/png"}
        shown = client.put(f"{place}/image", content=samples.UPRIGHT["png"], headers=png).json()
        assert client.get(shown["image_url"]).status_code == 200
        assert client.get(place).json() == shown
        kinds = [change["kind"] for change in client.get(f"{place}/history").json()["data"]]
        assert kinds == ["image_attached", "movie_added"]
        assert client.post(f"{place}/revert", json={"version": 1}).json()["version"] == 3
        assert client.get("/api/me").json()["email"] == "ada@films.example"
        assert client.get(KEYS).json()["keys"]
        # None of them has what is another's.
        for name, theirs in (("watchly", "/api/me"), ("people", "/api/movies"), ("changes", "/api/genres")):
            assert httpx.get(f"{parts[name].url}{theirs}").status_code == 404
