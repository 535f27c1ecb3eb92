"""Disks that are full, that for uploads and that of images: an upload is refused, and all else goes on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from tests.disks import fill, small_disk
from tests.faults.stores import Disk
from tests.faults.trials import Shop, Trial
from tests.faults.wire import Reply, form, send
from tests.services import Service

from watchly_adapters.settings import read_settings
from watchly_adapters.testing import samples

SEED: Final = int(os.environ.get("FAULTS_SEED", "5"))
#: More than is kept in memory on its way.
LARGE: Final = samples.png(600_000)


class Site(NamedTuple):
    """A service whose uploads wait on a small disk, and whose images are kept on another."""

    trial: Trial
    disks: dict[str, Path]


@pytest.fixture(scope="module")
def site(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("disks")
    with ExitStack() as stack:
        disks = {name: stack.enter_context(small_disk(folder / name, "4m")) for name in ("spools", "images")}
        images = Disk(disks["images"], "")
        variables = {
            "DATABASE_URL": module_database,
            "SECRET_KEY": "0123456789abcdef" * 4,
            "WATCHLY_HOME": str(folder / "home"),
            "SWEEP_INTERVAL": "1 h",
            "LOG_LEVEL": "error",
            **images.environment,
        }
        service = stack.enter_context(
            Service(folder / "log", *("--workers", "1"), **variables, TMPDIR=str(disks["spools"]))
        )
        shop = Shop(images, read_settings(variables))
        yield Site(Trial(module_database, service.url, seed=SEED, shop=shop), disks)
        assert service.stop() == 0
        assert "Traceback" not in service.log
        assert [path for path in disks["spools"].iterdir() if path.is_file()] == []


def put(site: Site, movie: int) -> Reply:
    return send("PUT", f"{site.trial.url}/api/movies/{movie}/image", LARGE, {"Content-Type": "image/png"})


@pytest.mark.parametrize("full", ["spools", "images"])
def test_a_full_disk_refuses_uploads_and_nothing_else(site: Site, full: str) -> None:
    told, title = site.trial.told, f"has no room in {full}"
    with site.trial.trouble() as load:
        body = b'{"title": "%s"}' % title.encode()
        made = send("POST", f"{site.trial.url}/api/movies", body, {"Content-Type": "application/json"})
        movie = made.json["id"]
        assert isinstance(movie, int)
        told.done("add", title, surely=True)
        filling = site.disks[full] / "filling"
        fill(filling)
        for _ in range(3):
            refused = put(site, movie)
            assert (refused.status, refused.json["code"]) == (503, "unavailable"), refused
            assert "retry-after" in refused.headers
            assert str(site.disks[full]) not in refused.body.decode()
        load.goes_on()
        whole, headers = form({"title": f"{title}, nor this"}, "image", LARGE, "image/png")
        assert send("POST", f"{site.trial.url}/api/movies", whole, headers).status == 503
        filling.unlink()
        done = put(site, movie)
        assert done.status == 200, done
        shown = send("GET", f"{site.trial.url}{done.json['image_url']}")
        assert (shown.status, shown.headers["content-type"]) == (200, "image/png")
        told.confirm(told.see(done), LARGE)
        told.done("attach", movie, surely=True)
