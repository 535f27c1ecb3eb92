"""The suite of image stores, on moto's server: it is all the tests of this store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import boto3
import httpx
import pytest
from moto.server import ThreadedMotoServer
from watchly_s3 import S3Images, make_images

from watchly_adapters.settings import read_settings
from watchly_adapters.testing.image_stores import ImageStoreContract

SECRET = "the secret of nobody"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def make_bucket(endpoint: str) -> None:
    """A bucket that everybody may read."""
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="films")
    statement = {"Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject", "s3:ListBucket"]}
    resource = ["arn:aws:s3:::films", "arn:aws:s3:::films/*"]
    policy = {"Version": "2012-10-17", "Statement": [{**statement, "Resource": resource}]}
    client.put_bucket_policy(Bucket="films", Policy=json.dumps(policy))
    client.close()


class TestImagesInS3(ImageStoreContract[S3Images]):
    @pytest.fixture
    def store(self, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Images]:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        make_bucket(endpoint)
        store = make_images(read_settings({"IMAGE_STORE_URL": f"s3://films/images?endpoint={endpoint}"}))
        yield store
        store.close()

    async def content(self, store: S3Images, key: str) -> bytes | None:
        """As a browser loads it."""
        async with httpx.AsyncClient() as browser:
            response = await browser.get(store.url(key))
        assert response.status_code in {200, 404}
        return response.content if response.status_code == 200 else None

    def secrets(self) -> Sequence[str]:
        return (SECRET,)
