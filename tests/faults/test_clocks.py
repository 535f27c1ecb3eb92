"""One instance whose clock is ten minutes fast and one whose clock is slow, beside one with the right time.

What is said and kept for a time goes by the clock of whoever writes it down: nothing that matters ends early,
nothing is stuck, and the log is one log.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urljoin

import httpx
import pytest
from tests.faults.stores import Disk
from tests.faults.trials import Shop, Trial
from tests.services import Service, run, wait_until

from watchly_adapters.settings import read_settings
from watchly_adapters.testing import samples

SEED: Final = int(os.environ.get("FAULTS_SEED", "5"))
#: By how many seconds their clocks are wrong.
CLOCKS: Final[Mapping[str, int]] = {"right": 0, "fast": 600, "slow": -600}
EMAIL, PASSWORD = "ada@films.example", "correct horse battery"


class Site(NamedTuple):
    """Services of one catalogue, by what their clocks are."""

    trial: Trial
    clients: Mapping[str, httpx.Client]


@pytest.fixture(scope="module")
def site(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("clocks")
    with ExitStack() as stack:
        variables = {
            "DATABASE_URL": module_database,
            "SECRET_KEY": "0123456789abcdef" * 4,
            "WATCHLY_HOME": str(folder / "home"),
            "LOG_LEVEL": "error",
            "AUTH": "on",
            "SWEEP_INTERVAL": "1 s",
        }
        images = Disk(folder, "")
        variables |= images.environment
        services = {
            name: stack.enter_context(
                Service(folder / f"log-{name}", "--workers", "1", **variables, **wrong_by(seconds))
            )
            for name, seconds in CLOCKS.items()
        }
        assert run("user", "add", EMAIL, "--role", "editor", stdin=PASSWORD, **variables).returncode == 0
        shop = Shop(images, read_settings(variables))
        clients = {
            name: stack.enter_context(httpx.Client(base_url=service.url, timeout=60))
            for name, service in services.items()
        }
        # A key has no time in it, by which all of them know whoever writes.
        bearer = {"Authorization": f"Bearer {login(clients['right'])['access_token']}"}
        made = clients["right"].post(
            "/api/api-keys", json={"name": "writers", "role": "editor"}, headers=bearer
        )
        headers = {"Authorization": f"Bearer {made.json()['secret']}"}
        for client in clients.values():
            client.headers.update(headers)
        urls = (service.url for service in services.values())
        yield Site(Trial(module_database, *urls, seed=SEED, shop=shop, headers=headers), clients)
        for service in services.values():
            assert service.stop() == 0
            assert "Traceback" not in service.log


def wrong_by(seconds: int) -> dict[str, str]:
    """What makes the clock of a process wrong; the time that passes is right."""
    paths = [str(Path(__file__).with_name("wrong_clock")), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths), "WRONG_BY": str(seconds)} if seconds else {}


@pytest.fixture(params=list(permutations(CLOCKS, 2)), ids="-".join)
def pair(site: Site, request: pytest.FixtureRequest) -> tuple[httpx.Client, httpx.Client, int]:
    """Two of them, and by how many seconds the second's clock is behind that of the first."""
    first, second = request.param
    return site.clients[first], site.clients[second], CLOCKS[first] - CLOCKS[second]


def test_their_clocks_are_wrong(site: Site) -> None:
    dates = {}
    for name, client in site.clients.items():
        movie = client.post("/api/movies", json={"title": f"by the {name} clock"})
        site.trial.told.done("add", f"by the {name} clock", surely=True)
        dates[name] = movie.json()["created_at"]
    assert dates["slow"] < dates["right"] < dates["fast"]


def test_one_log_is_written_in_one_order(site: Site) -> None:
    with site.trial.trouble() as load:
        load.goes_on(60)


def test_the_times_of_a_movie_ascend_with_its_versions(
    site: Site, pair: tuple[httpx.Client, httpx.Client, int]
) -> None:
    first, second, _ = pair
    title = f"ascends {first.base_url} {second.base_url}"
    movie = first.post("/api/movies", json={"title": title}).headers["location"]
    site.trial.told.done("add", title, surely=True)
    for client, change in ((second, "revised"), (first, "again"), (second, "and again")):
        assert client.patch(movie, json={"description": change}).status_code == 200
    history = second.get(f"{movie}/history").json()["data"]
    times = [change["at"] for change in history]
    assert times == sorted(times, reverse=True)
    assert [change["movie"]["updated_at"] for change in history] == times


def test_a_token_is_good_wherever_clocks_differ_by_less_than_its_life(
    pair: tuple[httpx.Client, httpx.Client, int],
) -> None:
    issuer, reader, behind = pair
    pairs = login(issuer)
    bearer = {"Authorization": f"Bearer {pairs['access_token']}"}
    # It lives for 15 minutes from when it was issued, and may not come from the future but for a minute.
    if -15 * 60 < behind <= 60:
        # A key that was made just now is known elsewhere in half a second.
        wait_until(lambda: reader.get("/api/me", headers=bearer).status_code == 200, "it is good")
    else:
        answer = reader.get("/api/me", headers=bearer)
        assert answer.status_code == 401, answer.text
        assert "www-authenticate" in answer.headers
    # Whoever is refused refreshes, wherever that is, and goes on.
    again = reader.post("/api/auth/refresh", json={"refresh_token": pairs["refresh_token"]})
    assert again.status_code == 200, again.text
    bearer = {"Authorization": f"Bearer {again.json()['access_token']}"}
    assert reader.get("/api/me", headers=bearer).status_code == 200


def login(client: httpx.Client) -> Mapping[str, str]:
    reply = client.post("/api/auth/login", json={"email": EMAIL, "password": PASSWORD})
    assert reply.status_code == 200, reply.text
    found: Mapping[str, str] = reply.json()
    return found


def test_a_key_is_known_to_all(site: Site, pair: tuple[httpx.Client, httpx.Client, int]) -> None:
    first, second, _ = pair
    title = f"once {first.base_url} {second.base_url}"
    headers = {"Idempotency-Key": title.replace(" ", "-")}
    done = first.post("/api/movies", json={"title": title}, headers=headers)
    again = second.post("/api/movies", json={"title": title}, headers=headers)
    assert (again.status_code, again.content) == (201, done.content)
    assert again.headers["idempotency-replayed"] == "true"
    site.trial.told.done("add", title, surely=True)


def test_a_cursor_goes_on_anywhere(site: Site, pair: tuple[httpx.Client, httpx.Client, int]) -> None:
    first, second, _ = pair
    for client in (first, second):
        title = f"listed {first.base_url} {second.base_url} {client.base_url}"
        assert client.post("/api/movies", json={"title": title}).status_code == 201
        site.trial.told.done("add", title, surely=True)
    page = first.get("/api/movies", params={"limit": 1, "sort": "-updated_at"}).json()
    rest = second.get("/api/movies", params={"sort": "-updated_at", "cursor": page["next_cursor"]})
    assert rest.status_code == 200
    assert page["data"][0]["id"] not in {movie["id"] for movie in rest.json()["data"]}


@pytest.mark.parametrize(("by", "at"), [("fast", "slow"), ("slow", "fast")])
def test_a_ticket_is_good_anywhere(site: Site, by: str, at: str) -> None:
    first, second = site.clients[by], site.clients[at]
    content = samples.UPRIGHT["png"]
    title = f"ticket {first.base_url} {second.base_url}"
    movie = first.post("/api/movies", json={"title": title}).headers["location"]
    site.trial.told.done("add", title, surely=True)
    asked = {"content_type": "image/png", "bytes": len(content)}
    ticket = first.post(f"{movie}/image/tickets", json=asked).json()
    there = urljoin(str(second.base_url), ticket["url"])
    sent = httpx.request(ticket["method"], there, content=content, headers=ticket["headers"], timeout=60)
    assert sent.is_success, sent.text
    swept(site)
    done = first.post(f"{movie}/image/tickets/{ticket['key']}/complete")
    assert done.status_code == 200, done.text
    site.trial.told.tickets[ticket["key"]] = done.json()["id"]
    site.trial.told.attached[ticket["key"]] = done.json()["id"]


def test_what_was_taken_away_comes_back_though_all_of_them_sweep(site: Site) -> None:
    right = site.clients["right"]
    content, headers = samples.UPRIGHT["png"], {"Content-Type": "image/png"}
    for name, client in site.clients.items():
        movie = client.post("/api/movies", json={"title": f"kept by {name}"}).headers["location"]
        assert client.put(f"{movie}/image", content=content, headers=headers).status_code == 200
        assert client.delete(f"{movie}/image").status_code == 204
        swept(site)
        back = right.post(f"{movie}/revert", json={"version": 2})
        assert back.headers.get("watchly-image") is None
        assert back.json()["image"]
        number = back.json()["id"]
        for deed, whose in (("add", f"kept by {name}"), ("attach", number), ("detach", number)):
            site.trial.told.done(deed, whose, surely=True)


def swept(site: Site) -> None:
    """All of them have swept since: what each has purged is gone."""
    shop = site.trial.shop
    assert shop is not None
    for name, client in site.clients.items():
        title = f"purged by {name} {len(site.trial.told.deeds)}"
        movie = client.post("/api/movies", json={"title": title}).headers["location"]
        content, headers = samples.UPRIGHT["png"], {"Content-Type": "image/png"}
        image = client.put(f"{movie}/image", content=content, headers=headers)
        key = image.json()["image"]["key"]
        number = image.json()["id"]
        assert client.delete(movie, params={"purge": "true"}).status_code == 204
        for deed, whose in (("add", title), ("attach", number), ("remove", number)):
            site.trial.told.done(deed, whose, surely=True)
        wait_until(partial(gone, shop, key), f"what {name} has purged is gone")


def gone(shop: Shop, key: object) -> bool:
    return key not in shop.images.assets()


def test_attempts_are_counted_together_and_nobody_is_locked_out_for_long(site: Site) -> None:
    refused = {}
    for name in ("fast", "slow", "right"):
        for _ in range(4):
            reply = site.clients[name].post(
                "/api/auth/login", json={"email": "nobody@films.example", "password": "wrong horse battery"}
            )
        refused[name] = reply
    assert refused["right"].status_code == 429
    # A window of a quarter of an hour, and what the fast clock is ahead.
    assert 0 < int(refused["right"].headers["retry-after"]) <= (15 + 10) * 60
