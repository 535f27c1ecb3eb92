"""What a store of images promises.

::

    class TestMyImages(ImageStoreContract[MyImages]):
        @pytest.fixture
        def store(self) -> MyImages:
            return MyImages(...)
"""

from __future__ import annotations

import asyncio
import io
import tempfile
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

import pytest

from watchly_adapters.testing import samples
from watchly_core.errors import ImageNotFound, ImageRejected
from watchly_core.images import Image, new_key
from watchly_core.ports import ImageFiles, ImageStore

#: What has not the form of a key, and names no image anywhere.
ODD_KEYS = (
    "",
    ".",
    "..",
    "../../etc/passwd",
    "a/b",
    "A" * 32,
    "g" * 32,
    "0" * 31,
    "0" * 33,
    "0" * 32 + "\n",
    "\0",
)

_LARGE = 12_000_000
_LARGEST_CHUNK = 1_048_576
#: A limit above this is not tried out.
_LARGEST_LIMIT = 50_000_000

StoreT = TypeVar("StoreT", bound=ImageStore)


class ServedStore(ImageStore, ImageFiles, Protocol):
    """A store whose images the service reads back and serves itself."""


class ImageStoreContract(Generic[StoreT]):
    """Putting, dropping and finding images. Supply `store`; `content` and `secrets` let it see more."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend(self) -> str:
        """The suite runs on asyncio."""
        return "asyncio"

    @pytest.fixture
    def store(self) -> StoreT:
        """The store under test; images of others may be in it."""
        raise NotImplementedError("supply a fixture `store`")

    async def content(self, store: StoreT, key: str) -> bytes | None:  # noqa: ARG002 - for those who override
        """The bytes that clients would load for `key`.

        Override it where the test can load them. As it is it says None, for a store whose images only
        its own servers can show; then the suite compares sizes alone.
        """
        return None

    def secrets(self) -> Sequence[str]:
        """What must not appear in a URL: the store's passwords and keys."""
        return ()

    async def test_what_was_put_is_there(self, store: StoreT) -> None:
        key, image = new_key(), samples.png(1_000)
        await _put(store, key, image)
        await self._holds(store, key, image)

    async def test_nothing_is_there_before(self, store: StoreT) -> None:
        assert await store.stat(new_key()) is None

    @pytest.mark.parametrize("sizes", [(1_000, 3_000), (3_000, 1_000)])
    async def test_putting_again_replaces(self, store: StoreT, sizes: tuple[int, int]) -> None:
        """A retry lands on the same asset; nothing of the first content is left, even if it was longer."""
        key = new_key()
        for size in sizes:
            await _put(store, key, samples.png(size))
            await self._holds(store, key, samples.png(size))

    async def test_putting_the_same_again_changes_nothing(self, store: StoreT) -> None:
        key, image = new_key(), samples.png(1_000)
        await _put(store, key, image)
        await _put(store, key, image)
        await self._holds(store, key, image)

    @pytest.mark.parametrize("position", [0, 1, 500, 1_000, 2_000])
    async def test_the_source_is_read_from_its_start(self, store: StoreT, position: int) -> None:
        key, image = new_key(), samples.png(1_000)
        source = io.BytesIO(image)
        source.seek(position)
        await store.put(key, source, _described(key, image))
        await self._holds(store, key, image)

    async def test_the_source_stays_open(self, store: StoreT) -> None:
        """It belongs to the caller, who may send it again."""
        first, second, image = new_key(), new_key(), samples.png(1_000)
        with tempfile.SpooledTemporaryFile(max_size=100) as source:
            source.write(image)
            await store.put(first, source, _described(first, image))
            source.seek(0)
            assert source.read() == image
            await store.put(second, source, _described(second, image))
        await self._holds(store, first, image)
        await self._holds(store, second, image)

    async def test_a_large_image_arrives_whole(self, store: StoreT) -> None:
        key, image = new_key(), samples.png(min(_LARGE, store.max_bytes or _LARGE))
        with tempfile.TemporaryFile() as source:
            source.write(image)
            await store.put(key, source, _described(key, image))
            source.seek(0)
            assert source.read(8) == image[:8]
        await self._holds(store, key, image)
        await store.delete(key)

    async def test_what_is_too_large_leaves_nothing(self, store: StoreT) -> None:
        """A store that states a limit keeps to it, before or after the bytes are sent."""
        if store.max_bytes is None or store.max_bytes > _LARGEST_LIMIT:
            return
        key, image = new_key(), samples.png(store.max_bytes + 1)
        with pytest.raises(ImageRejected):
            await _put(store, key, image)
        assert await store.stat(key) is None

    async def test_a_dropped_image_is_gone(self, store: StoreT) -> None:
        key = new_key()
        await _put(store, key, samples.png(1_000))
        await store.delete(key)
        assert await store.stat(key) is None
        assert await self.content(store, key) is None

    async def test_dropping_is_idempotent(self, store: StoreT) -> None:
        """The sweeper drops again whatever it is not sure of."""
        key = new_key()
        await store.delete(key)
        await _put(store, key, samples.png(1_000))
        await store.delete(key)
        await store.delete(key)
        assert await store.stat(key) is None

    async def test_a_dropped_key_can_be_put_again(self, store: StoreT) -> None:
        key = new_key()
        await _put(store, key, samples.png(1_000))
        await store.delete(key)
        await _put(store, key, samples.png(2_000))
        await self._holds(store, key, samples.png(2_000))

    async def test_keys_do_not_touch_each_other(self, store: StoreT) -> None:
        """Not even keys that differ in their last digit only."""
        key = new_key()[:-1]
        first, second = f"{key}0", f"{key}1"
        await _put(store, first, samples.png(1_000))
        await _put(store, second, samples.png(2_000))
        await self._holds(store, first, samples.png(1_000))
        await store.delete(first)
        assert await store.stat(first) is None
        await self._holds(store, second, samples.png(2_000))

    async def test_concurrent_puts_of_one_key_leave_one_whole_content(self, store: StoreT) -> None:
        key = new_key()
        images = [samples.png(1_000 + 100 * number) for number in range(8)]
        await asyncio.gather(*(_put(store, key, image) for image in images))
        size = await store.stat(key)
        (winner,) = [image for image in images if len(image) == size]
        await self._holds(store, key, winner)

    async def test_concurrent_puts_of_many_keys_all_arrive(self, store: StoreT) -> None:
        images = {new_key(): samples.png(1_000 + number) for number in range(20)}
        await asyncio.gather(*(_put(store, key, image) for key, image in images.items()))
        for key, image in images.items():
            await self._holds(store, key, image)

    async def test_a_cancelled_put_leaves_all_or_nothing(self, store: StoreT) -> None:
        """And is done with the source, which its owner closes next."""
        key, image = new_key(), samples.png(3_000_000)
        with io.BytesIO(image) as source:
            put = asyncio.ensure_future(store.put(key, source, _described(key, image)))
            await asyncio.sleep(0)
            put.cancel()
            await asyncio.wait({put})
        if await store.stat(key) is not None:
            await self._holds(store, key, image)

    async def test_urls_are_the_same_each_time(self, store: StoreT) -> None:
        """Also before the image is there and after it is gone: no look-up is made."""
        key = new_key()
        before = store.url(key)
        await _put(store, key, samples.png(1_000))
        assert store.url(key) == before
        await store.delete(key)
        assert store.url(key) == before

    async def test_urls_differ_by_key_and_hold_no_secret(self, store: StoreT) -> None:
        first, second = store.url(new_key()), store.url(new_key())
        assert first != second
        for url in (first, second):
            assert url.startswith(("https://", "http://", "/"))
            assert url.isascii()
            assert url.isprintable()
            assert " " not in url
            assert not [secret for secret in self.secrets() if secret in url]

    @pytest.mark.parametrize("key", ODD_KEYS)
    async def test_odd_keys_name_nothing(self, store: StoreT, key: str) -> None:
        """Keys come from the core; a store neither looks for others nor lets them out of its place."""
        assert await store.stat(key) is None
        await store.delete(key)
        with pytest.raises(ValueError):  # noqa: PT011 - its words are the store's own
            await store.put(key, io.BytesIO(samples.png(1_000)), _described(key, samples.png(1_000)))
        assert await store.stat(key) is None

    async def _holds(self, store: StoreT, key: str, image: bytes) -> None:
        assert await store.stat(key) == len(image)
        content = await self.content(store, key)
        assert content is None or content == image


class ServedStoreContract(ImageStoreContract[ServedStore]):
    """The same for a store whose images are read back, and reading itself. Supply `store`."""

    @pytest.fixture
    def store(self) -> ServedStore:
        """The store under test; images of others may be in it."""
        raise NotImplementedError("supply a fixture `store`")

    async def content(self, store: ServedStore, key: str) -> bytes | None:
        """What the store reads back."""
        try:
            async with store.read(key) as (size, chunks):
                content = b"".join([chunk async for chunk in chunks])
        except ImageNotFound:
            return None
        assert len(content) == size
        return content

    async def test_a_large_image_is_read_in_chunks(self, store: ServedStore) -> None:
        key, image = new_key(), samples.png(_LARGE)
        await _put(store, key, image)
        async with store.read(key) as (size, chunks):
            sizes = [len(chunk) async for chunk in chunks]
        assert size == sum(sizes) == len(image)
        assert 0 < min(sizes) <= max(sizes) <= _LARGEST_CHUNK

    async def test_reading_can_be_given_up(self, store: ServedStore) -> None:
        key = new_key()
        await _put(store, key, samples.png(3_000_000))
        async with store.read(key) as (_, chunks):
            assert (await anext(chunks)).startswith(b"\x89PNG")
        await self._holds(store, key, samples.png(3_000_000))

    async def test_an_image_replaced_while_it_is_read_is_read_whole(self, store: ServedStore) -> None:
        key, before, after = new_key(), samples.png(3_000_000), samples.png(4_000_000, mark=1)
        await _put(store, key, before)
        async with store.read(key) as (size, chunks):
            content = await anext(chunks)
            await _put(store, key, after)
            content += b"".join([chunk async for chunk in chunks])
        assert content in (before, after)
        assert len(content) == size
        await self._holds(store, key, after)

    @pytest.mark.parametrize("key", ["0123456789abcdef" * 2, *ODD_KEYS])
    async def test_nothing_is_read_from_where_nothing_is(self, store: ServedStore, key: str) -> None:
        with pytest.raises(ImageNotFound):
            async with store.read(key):
                raise AssertionError("there is something")


async def _put(store: ImageStore, key: str, image: bytes) -> None:
    await store.put(key, io.BytesIO(image), _described(key, image))


def _described(key: str, image: bytes) -> Image:
    return Image(key, samples.WIDTH, samples.HEIGHT, "png", len(image))
