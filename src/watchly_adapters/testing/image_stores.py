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
from datetime import UTC, datetime, timedelta
from typing import Generic, Protocol, TypeVar

import pytest

from watchly_adapters.testing import samples
from watchly_adapters.testing.suites import Suite
from watchly_core.errors import ImageRejected
from watchly_core.images import VARIANTS, Image, new_key
from watchly_core.ports import ImageFiles, ImageStore

__all__ = ["ImageStoreContract", "ServedStore"]

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

#: Bytes of an image that goes in several pieces.
LARGE = 12_000_000
#: A limit above this is not tried out.
_LARGEST_LIMIT = 50_000_000

StoreT = TypeVar("StoreT", bound=ImageStore)


class ServedStore(ImageStore, ImageFiles, Protocol):
    """A store whose images the service reads back and serves itself; `image_files` has its suite."""


class ImageStoreContract(Suite, Generic[StoreT]):
    """Putting, dropping and finding images. Supply `store`; `content` and `secrets` let it see more."""

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
        """What must not appear in a URL or a ticket: the store's passwords."""
        return ()

    async def test_what_was_put_is_there(self, store: StoreT) -> None:
        key, image = new_key(), samples.png(1_000)
        await put(store, key, image)
        await self._holds(store, key, image)

    async def test_nothing_is_there_before(self, store: StoreT) -> None:
        assert await store.stat(new_key()) is None

    @pytest.mark.parametrize("sizes", [(1_000, 3_000), (3_000, 1_000)])
    async def test_putting_again_replaces(self, store: StoreT, sizes: tuple[int, int]) -> None:
        """A retry lands on the same asset; nothing of the first content is left, even if it was longer."""
        key = new_key()
        for size in sizes:
            await put(store, key, samples.png(size))
            await self._holds(store, key, samples.png(size))

    async def test_putting_the_same_again_changes_nothing(self, store: StoreT) -> None:
        key, image = new_key(), samples.png(1_000)
        await put(store, key, image)
        await put(store, key, image)
        await self._holds(store, key, image)

    @pytest.mark.parametrize("position", [0, 1, 500, 1_000, 2_000])
    async def test_the_source_is_read_from_its_start(self, store: StoreT, position: int) -> None:
        key, image = new_key(), samples.png(1_000)
        source = io.BytesIO(image)
        source.seek(position)
        await store.put(key, source, described(key, image))
        await self._holds(store, key, image)

    async def test_the_source_stays_open(self, store: StoreT) -> None:
        """It belongs to the caller, who may send it again."""
        first, second, image = new_key(), new_key(), samples.png(1_000)
        with tempfile.SpooledTemporaryFile(max_size=100) as source:
            source.write(image)
            await store.put(first, source, described(first, image))
            source.seek(0)
            assert source.read() == image
            await store.put(second, source, described(second, image))
        await self._holds(store, first, image)
        await self._holds(store, second, image)

    async def test_a_large_image_arrives_whole(self, store: StoreT) -> None:
        key, image = new_key(), samples.png(min(LARGE, store.max_bytes or LARGE))
        with tempfile.TemporaryFile() as source:
            source.write(image)
            await store.put(key, source, described(key, image))
            source.seek(0)
            assert source.read(8) == image[:8]
        await self._holds(store, key, image)
        await store.delete(key)

    async def test_what_was_just_written_to_the_source_arrives(self, store: StoreT) -> None:
        """Also what its own buffer still holds."""
        key, image = new_key(), bytearray(samples.png(3_000_000))
        with tempfile.TemporaryFile() as source:
            source.write(image)
            source.seek(1_000_000)
            source.write(b"mended")
            image[1_000_000:1_000_006] = b"mended"
            await store.put(key, source, described(key, bytes(image)))
        await self._holds(store, key, bytes(image))

    async def test_what_is_too_large_leaves_nothing(self, store: StoreT) -> None:
        """A store that states a limit keeps to it, before or after the bytes are sent."""
        if store.max_bytes is None or store.max_bytes > _LARGEST_LIMIT:
            return
        key, image = new_key(), samples.png(store.max_bytes + 1)
        with pytest.raises(ImageRejected):
            await put(store, key, image)
        assert await store.stat(key) is None

    async def test_a_dropped_image_is_gone(self, store: StoreT) -> None:
        key = new_key()
        await put(store, key, samples.png(1_000))
        await store.delete(key)
        assert await store.stat(key) is None
        assert await self.content(store, key) is None

    async def test_dropping_is_idempotent(self, store: StoreT) -> None:
        """The sweeper drops again whatever it is not sure of."""
        key = new_key()
        await store.delete(key)
        await put(store, key, samples.png(1_000))
        await store.delete(key)
        await store.delete(key)
        assert await store.stat(key) is None

    async def test_a_dropped_key_can_be_put_again(self, store: StoreT) -> None:
        key = new_key()
        await put(store, key, samples.png(1_000))
        await store.delete(key)
        await put(store, key, samples.png(2_000))
        await self._holds(store, key, samples.png(2_000))

    async def test_keys_do_not_touch_each_other(self, store: StoreT) -> None:
        """Not even keys that differ in their last digit only."""
        key = new_key()[:-1]
        first, second = f"{key}0", f"{key}1"
        await put(store, first, samples.png(1_000))
        await put(store, second, samples.png(2_000))
        await self._holds(store, first, samples.png(1_000))
        await store.delete(first)
        assert await store.stat(first) is None
        await self._holds(store, second, samples.png(2_000))

    async def test_concurrent_puts_of_one_key_leave_one_whole_content(self, store: StoreT) -> None:
        key = new_key()
        images = [samples.png(1_000 + 100 * number) for number in range(8)]
        await asyncio.gather(*(put(store, key, image) for image in images))
        stored = await store.stat(key)
        assert stored is not None
        (winner,) = [image for image in images if len(image) == stored.bytes]
        await self._holds(store, key, winner)

    async def test_concurrent_puts_of_many_keys_all_arrive(self, store: StoreT) -> None:
        images = {new_key(): samples.png(1_000 + number) for number in range(20)}
        await asyncio.gather(*(put(store, key, image) for key, image in images.items()))
        for key, image in images.items():
            await self._holds(store, key, image)

    async def test_a_cancelled_put_leaves_all_or_nothing(self, store: StoreT) -> None:
        """And is done with the source, which its owner closes next."""
        key, image = new_key(), samples.png(3_000_000)
        with io.BytesIO(image) as source:
            putting = asyncio.ensure_future(store.put(key, source, described(key, image)))
            await asyncio.sleep(0)
            putting.cancel()
            await asyncio.wait({putting})
        if await store.stat(key) is not None:
            await self._holds(store, key, image)

    async def test_urls_are_the_same_each_time(self, store: StoreT) -> None:
        """Also before the image is there and after it is gone: no look-up is made."""
        key = new_key()
        before = store.url(key)
        await put(store, key, samples.png(1_000))
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

    async def test_each_variant_has_a_url_of_its_own(self, store: StoreT) -> None:
        key = new_key()
        urls = [store.url(key), *(store.url(key, variant) for variant in VARIANTS)]
        assert len(set(urls)) == len(VARIANTS) + 1
        assert urls == [store.url(key), *(store.url(key, variant) for variant in VARIANTS)]

    @pytest.mark.parametrize("variant", ["", "poster", "THUMBNAIL", "../card"])
    async def test_other_variants_have_none(self, store: StoreT, variant: str) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 - its words are the store's own
            store.url(new_key(), variant)

    async def test_a_ticket_says_how_to_send_an_image(self, store: StoreT) -> None:
        key, expires_at = new_key(), datetime.now(UTC) + timedelta(minutes=10)
        ticket = store.ticket(key, described(key, samples.png(1_000)), expires_at)
        assert ticket.key == key
        assert ticket.method in {"PUT", "POST"}
        assert ticket.url.startswith(("https://", "http://", "/"))
        # Stores that count in seconds may round it down.
        assert expires_at - timedelta(seconds=1) < ticket.expires_at <= expires_at
        said = [ticket.url, *ticket.headers, *ticket.headers.values(), *ticket.fields.values()]
        assert all(text.isascii() and text.isprintable() for text in said)
        assert not [secret for secret in self.secrets() for text in said if secret in text]

    async def test_tickets_differ_by_key_and_time(self, store: StoreT) -> None:
        now, keys = datetime.now(UTC), (new_key(), new_key())
        tickets = [
            store.ticket(key, described(key, samples.png(1_000)), now + timedelta(minutes=minutes))
            for key in keys
            for minutes in (10, 20)
        ]
        assert len({(ticket.url, *sorted(ticket.fields.items())) for ticket in tickets}) == len(tickets)

    async def test_a_ticket_stores_nothing(self, store: StoreT) -> None:
        key = new_key()
        store.ticket(key, described(key, samples.png(1_000)), datetime.now(UTC) + timedelta(minutes=10))
        assert await store.stat(key) is None

    @pytest.mark.parametrize("key", ODD_KEYS)
    async def test_odd_keys_get_no_ticket(self, store: StoreT, key: str) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 - its words are the store's own
            store.ticket(key, described(key, samples.png(1_000)), datetime.now(UTC) + timedelta(minutes=10))

    @pytest.mark.parametrize("key", ODD_KEYS)
    async def test_odd_keys_name_nothing(self, store: StoreT, key: str) -> None:
        """Keys come from the core; a store neither looks for others nor lets them out of its place."""
        assert await store.stat(key) is None
        await store.delete(key)
        with pytest.raises(ValueError):  # noqa: PT011 - its words are the store's own
            await store.put(key, io.BytesIO(samples.png(1_000)), described(key, samples.png(1_000)))
        assert await store.stat(key) is None

    async def _holds(self, store: StoreT, key: str, image: bytes) -> None:
        stored = await store.stat(key)
        assert stored is not None
        assert stored.bytes == len(image)
        assert stored.format in {None, "png"}
        assert (stored.width, stored.height) in {(None, None), (samples.WIDTH, samples.HEIGHT)}
        content = await self.content(store, key)
        assert content is None or content == image


async def put(store: ImageStore, key: str, image: bytes) -> None:
    """Put a PNG."""
    await store.put(key, io.BytesIO(image), described(key, image))


def described(key: str, image: bytes) -> Image:
    """What the core would say of it."""
    return Image(key, samples.WIDTH, samples.HEIGHT, "png", len(image))
