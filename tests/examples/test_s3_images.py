"""The image store in S3: it is small, and is chosen by its URL alone; its page runs its suites."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import httpx
import pytest
from moto.server import ThreadedMotoServer

from tests.examples.packages import MOST_LINES, install, lines_of, path_with
from tests.services import Service
from watchly_adapters.testing import samples

NAME = "s3_images"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(NAME, tmp_path_factory.mktemp("s3"))


def test_it_is_small() -> None:
    assert lines_of(NAME) < MOST_LINES


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def test_it_is_chosen_by_its_url(
    installed: Path, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the secret of nobody")
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="posters")
    store = f"s3://posters/of/films?endpoint={endpoint}"
    variables = {"DATABASE_URL": "memory:", "IMAGE_STORE_URL": store, "PYTHONPATH": path_with(installed)}
    png = samples.UPRIGHT["png"]
    with (
        Service(tmp_path / "log", **variables, WATCHLY_HOME=str(tmp_path)) as service,
        httpx.Client(base_url=service.url) as browser,
    ):
        movie = browser.post("/api/movies", json={"title": "Heat"}).json()
        path = f"/api/movies/{movie['id']}/image"
        shown = browser.put(path, content=png, headers={"Content-Type": "image/png"}).json()
        name = f"of/films/{shown['image']['key']}"
        assert shown["image_url"] == f"{endpoint}/posters/{name}"
        stored = client.get_object(Bucket="posters", Key=name)
        assert len(stored["Body"].read()) == shown["image"]["bytes"]

        # By a ticket, straight to the bucket, which takes whatever is sent.
        for sent, status in ((png, 200), (b"no image".ljust(len(png)), 422)):
            announced = {"content_type": "image/png", "bytes": len(sent)}
            ticket = browser.post(f"{path}/tickets", json=announced).json()
            assert httpx.post(ticket["url"], data=ticket["fields"], files={"file": sent}).is_success
            done = browser.post(f"{path}/tickets/{ticket['key']}/complete")
            assert done.status_code == status, done.text
        image = browser.get(f"/api/movies/{movie['id']}").json()["image"]
        assert (image["width"], image["height"]) == (shown["image"]["width"], shown["image"]["height"])
