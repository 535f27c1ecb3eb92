"""The suite of the image stores on the real Cloudinary, for who has an account there and asks for it."""

import asyncio
import contextlib
import io
import os
import urllib.request
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import IO

import pytest
from urllib3 import encode_multipart_formdata

from watchly_adapters.cloudinary import Account, CloudinaryImages
from watchly_adapters.testing import samples
from watchly_adapters.testing.image_stores import ImageStoreContract
from watchly_core.errors import WatchlyError
from watchly_core.images import VARIANTS, Image, new_key

URL = os.environ.get("CLOUDINARY_URL", "")
WANTED = os.environ.get("CLOUDINARY_LIVE_TESTS") == "1"

#: What the plan of most accounts takes.
FREE_PLAN = 10_000_000


class NotedImages(CloudinaryImages):
    """A store that remembers what was put into it, so that nothing of the tests stays in the account."""

    def __init__(self, account: Account) -> None:
        super().__init__(account, max_bytes=FREE_PLAN)
        self.keys: set[str] = set()

    async def put(self, key: str, source: IO[bytes], image: Image) -> None:
        self.keys.add(key)
        await super().put(key, source, image)


@pytest.mark.skipif(
    not (WANTED and URL), reason="CLOUDINARY_LIVE_TESTS=1 and CLOUDINARY_URL ask for the real Cloudinary"
)
class TestImagesInTheRealCloudinary(ImageStoreContract[CloudinaryImages]):
    @pytest.fixture
    async def store(self) -> AsyncIterator[CloudinaryImages]:
        store = NotedImages(Account.from_url(URL, folder="watchly-tests"))
        yield store
        for key in store.keys:
            with contextlib.suppress(WatchlyError):
                await store.delete(key)

    def secrets(self) -> Sequence[str]:
        account = Account.from_url(URL)
        return (account.api_key, account.api_secret)

    async def test_the_original_and_its_variants_can_be_loaded(self, store: CloudinaryImages) -> None:
        """The suite itself compares sizes alone, because the CDN is slow to forget what it has shown."""
        key, content = new_key(), samples.UPRIGHT["jpeg"]
        await store.put(
            key, io.BytesIO(content), Image(key, samples.WIDTH, samples.HEIGHT, "jpeg", len(content))
        )
        assert await asyncio.to_thread(loaded, store.url(key)) == content
        for variant in VARIANTS:
            assert await asyncio.to_thread(loaded, store.url(key, variant))

    async def test_a_ticket_is_taken_and_what_it_brings_is_found(self, store: CloudinaryImages) -> None:
        key, content = new_key(), samples.UPRIGHT["jpeg"]
        ticket = store.ticket(
            key, Image(key, 0, 0, "jpeg", len(content)), datetime.now(UTC) + timedelta(minutes=10)
        )
        try:
            body, media_type = encode_multipart_formdata({**ticket.fields, "file": ("film.jpg", content)})
            assert await asyncio.to_thread(loaded, ticket.url, body, media_type)
            found = await store.stat(key)
            assert found is not None
            assert (found.width, found.height, found.format) == (samples.WIDTH, samples.HEIGHT, "jpeg")
        finally:
            await store.delete(key)


def loaded(url: str, body: bytes | None = None, media_type: str = "") -> bytes:
    request = urllib.request.Request(  # noqa: S310 - Cloudinary's own address
        url, body, {"Content-Type": media_type} if media_type else {}
    )
    with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310 - as above
        content: bytes = reply.read()
        return content
