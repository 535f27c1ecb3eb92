"""What a store promises that takes in images itself, by tickets and piece by piece.

::

    class TestMyUploads(ImageUploadsContract):
        @pytest.fixture
        def store(self) -> MyImages:
            return MyImages(...)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from itertools import accumulate, pairwise
from typing import NamedTuple, Protocol
from urllib.parse import parse_qsl, urlsplit

import pytest

from watchly_adapters.testing import samples
from watchly_adapters.testing.image_stores import ODD_KEYS, described, put
from watchly_adapters.testing.suites import Suite
from watchly_core.errors import ImageNotFound, ImageTooLarge, SignatureRejected, UploadConflict
from watchly_core.images import Ticket, new_key
from watchly_core.ports import ImageStore, ImageUploads

__all__ = ["ImageUploadsContract", "ReceivingStore"]

#: No call of this suite takes so long; what waits longer waits for ever.
_LONG = 30

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
INSTANT = timedelta(microseconds=1)

IMAGE = samples.png(10_000, mark=7)


class ReceivingStore(ImageStore, ImageUploads, Protocol):
    """A store whose tickets lead to the service itself."""


class Said(NamedTuple):
    """What the URL of a ticket says."""

    key: str
    expires: str
    signature: str

    @classmethod
    def by(cls, ticket: Ticket) -> Said:
        """What this ticket says."""
        parts = urlsplit(ticket.url)
        query = dict(parse_qsl(parts.query, strict_parsing=True))
        assert sorted(query) == ["expires", "signature"]
        return cls(parts.path.rpartition("/")[2], query["expires"], query["signature"])


class Pieces:
    """Content that comes chunk by chunk; after the last one it can break off, or wait."""

    def __init__(
        self, *chunks: bytes, breaks: BaseException | None = None, waits: asyncio.Event | None = None
    ) -> None:
        self._chunks = iter(chunks)
        self._breaks, self._waits = breaks, waits
        self.asked: int = 0
        self.given: asyncio.Event = asyncio.Event()

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Itself."""
        return self

    async def __anext__(self) -> bytes:
        """The next chunk."""
        self.asked += 1
        for chunk in self._chunks:
            return chunk
        self.given.set()
        if self._waits is not None:
            await self._waits.wait()
        if self._breaks is not None:
            raise self._breaks
        raise StopAsyncIteration


class ClientGone(Exception):
    """The sender went away."""


class ImageUploadsContract(Suite):
    """Tickets and uploads. Supply `store`."""

    @pytest.fixture
    def store(self) -> ReceivingStore:
        """The store under test; images and uploads of others may be in it."""
        raise NotImplementedError("supply a fixture `store`")

    async def test_a_ticket_leads_to_where_the_image_will_be(self, store: ReceivingStore) -> None:
        key = new_key()
        ticket = _ticket(store, key)
        assert (ticket.method, ticket.headers, ticket.fields) == ("PUT", {"Content-Type": "image/png"}, {})
        assert ticket.url.partition("?")[0] == store.url(key)
        assert ticket.expires_at == NOON

    async def test_a_ticket_is_good_until_it_ends(self, store: ReceivingStore) -> None:
        said = Said.by(_ticket(store, new_key()))
        for now in (NOON - HOUR, NOON - INSTANT, NOON):
            store.admit(*said, now)
        for now in (NOON + INSTANT, NOON + HOUR):
            with pytest.raises(SignatureRejected):
                store.admit(*said, now)

    async def test_a_ticket_ends_no_later_than_it_says(self, store: ReceivingStore) -> None:
        key = new_key()
        ticket = store.ticket(key, described(key, IMAGE), NOON + 999_999 * INSTANT)
        assert NOON <= ticket.expires_at <= NOON + 999_999 * INSTANT
        with pytest.raises(SignatureRejected):
            store.admit(*Said.by(ticket), NOON + timedelta(seconds=1))

    async def test_a_ticket_for_another_image_is_none(self, store: ReceivingStore) -> None:
        said, other = (Said.by(_ticket(store, new_key())) for _ in range(2))
        for forged in (said._replace(key=other.key), said._replace(signature=other.signature)):
            with pytest.raises(SignatureRejected):
                store.admit(*forged, NOON)

    @pytest.mark.parametrize(
        "expires", ["", "0", "-1", "+1", "1e9", "9" * 400, "99999999999", " 1772366400", "١٧٧٢٣٦٦٤٠٠", "\0"]
    )
    async def test_a_ticket_for_another_time_is_none(self, store: ReceivingStore, expires: str) -> None:
        said = Said.by(_ticket(store, new_key()))
        with pytest.raises(SignatureRejected):
            store.admit(said.key, expires, said.signature, NOON)

    async def test_other_signatures_are_none(self, store: ReceivingStore) -> None:
        said = Said.by(_ticket(store, new_key()))
        right = said.signature
        odd = ("", "0", "0" * len(right), right[:-1], f"{right}0", f" {right}", right.upper(), "é", "\ud800")
        for signature in odd:
            if signature != right:
                with pytest.raises(SignatureRejected):
                    store.admit(said.key, said.expires, signature, NOON)

    @pytest.mark.parametrize("key", [*ODD_KEYS, "é", "\ud800"])
    async def test_nothing_is_signed_for_odd_keys(self, store: ReceivingStore, key: str) -> None:
        said = Said.by(_ticket(store, new_key()))
        with pytest.raises(SignatureRejected):
            store.admit(key, said.expires, said.signature, NOON)

    @pytest.mark.parametrize("cuts", [[], [1], [5_000], [9_999], [1, 2, 3], range(0, 10_000, 100)])
    async def test_an_upload_arrives_in_chunks(self, store: ReceivingStore, cuts: Iterable[int]) -> None:
        key, borders = new_key(), [0, *cuts, len(IMAGE)]
        chunks = [IMAGE[start:end] for start, end in pairwise(borders)]
        assert await store.receive(key, Pieces(*chunks), 0, len(IMAGE)) == len(IMAGE)
        assert await store.received(key) == len(IMAGE)
        assert await _uploaded(store, key) == IMAGE

    async def test_a_large_upload_arrives_whole(self, store: ReceivingStore) -> None:
        key, image = new_key(), samples.png(5_000_000, mark=7)
        borders = [*accumulate([65_536] * 40 + [1_500_000], initial=0), len(image)]
        chunks = [image[start:end] for start, end in pairwise(borders)]
        assert await store.receive(key, Pieces(*chunks), 0, len(image)) == len(image)
        assert await _uploaded(store, key) == image

    async def test_an_upload_arrives_in_pieces(self, store: ReceivingStore) -> None:
        key = new_key()
        for start in range(0, len(IMAGE), 2_000):
            assert await store.received(key) == start
            now = await store.receive(key, Pieces(IMAGE[start : start + 2_000]), start, len(IMAGE))
            assert now == start + 2_000
        assert await _uploaded(store, key) == IMAGE

    async def test_an_upload_is_no_image_yet(self, store: ReceivingStore) -> None:
        key = new_key()
        await store.receive(key, Pieces(IMAGE), 0, len(IMAGE))
        assert await store.stat(key) is None
        async with store.uploaded(key) as file:
            assert await store.stat(key) is None
            await store.put(key, file, described(key, IMAGE))
        stored = await store.stat(key)
        assert stored is not None
        assert stored.bytes == len(IMAGE)
        assert await store.received(key) == 0

    async def test_an_upload_leaves_the_image_under_its_key_alone(self, store: ReceivingStore) -> None:
        key = new_key()
        await put(store, key, samples.png(3_000))
        await store.receive(key, Pieces(IMAGE), 0, len(IMAGE))
        await _uploaded(store, key)
        stored = await store.stat(key)
        assert stored is not None
        assert stored.bytes == 3_000

    async def test_an_upload_that_was_used_is_gone(self, store: ReceivingStore) -> None:
        key = new_key()
        await store.receive(key, Pieces(IMAGE), 0, len(IMAGE))
        await _uploaded(store, key)
        assert await store.received(key) == 0
        with pytest.raises(ImageNotFound):
            await _uploaded(store, key)

    async def test_an_upload_whose_use_failed_stays_as_it_is_then(self, store: ReceivingStore) -> None:
        key = new_key()
        await store.receive(key, Pieces(IMAGE), 0, len(IMAGE))
        with pytest.raises(ClientGone):
            async with store.uploaded(key) as file:
                file.seek(100)
                file.write(b"changed")
                file.truncate(5_000)
                raise ClientGone
        assert await store.received(key) == 5_000
        assert await _uploaded(store, key) == IMAGE[:100] + b"changed" + IMAGE[107:5_000]

    async def test_whoever_uses_an_upload_may_close_it(self, store: ReceivingStore) -> None:
        key = new_key()
        await store.receive(key, Pieces(IMAGE), 0, len(IMAGE))
        async with store.uploaded(key) as file:
            file.close()
            with pytest.raises(UploadConflict):
                await store.receive(key, Pieces(IMAGE), 0, len(IMAGE))
        assert await store.received(key) == 0

    @pytest.mark.parametrize("start", [1, 3_999, 4_001, 10_000, 10**30])
    async def test_a_piece_has_to_follow_on_what_is_there(self, store: ReceivingStore, start: int) -> None:
        key, piece = new_key(), Pieces(b"xyz")
        await store.receive(key, Pieces(IMAGE[:4_000]), 0, len(IMAGE))
        with pytest.raises(UploadConflict) as raised:
            await store.receive(key, piece, start, len(IMAGE))
        assert raised.value.received == 4_000
        assert piece.asked == 0
        await store.receive(key, Pieces(IMAGE[4_000:]), 4_000, len(IMAGE))
        assert await _uploaded(store, key) == IMAGE

    async def test_the_first_piece_begins_at_byte_zero(self, store: ReceivingStore) -> None:
        key = new_key()
        with pytest.raises(UploadConflict) as raised:
            await store.receive(key, Pieces(IMAGE), 1, len(IMAGE))
        assert raised.value.received == 0
        assert await store.received(key) == 0
        with pytest.raises(ImageNotFound):
            await _uploaded(store, key)

    async def test_byte_zero_begins_anew(self, store: ReceivingStore) -> None:
        key = new_key()
        await store.receive(key, Pieces(bytes(20_000)), 0, 20_000)
        assert await store.receive(key, Pieces(IMAGE), 0, len(IMAGE)) == len(IMAGE)
        assert await _uploaded(store, key) == IMAGE

    @pytest.mark.parametrize("breaks", [ClientGone(), asyncio.CancelledError()])
    async def test_what_arrived_before_a_break_stays(
        self, store: ReceivingStore, breaks: BaseException
    ) -> None:
        key = new_key()
        with pytest.raises(type(breaks)):
            await store.receive(key, Pieces(IMAGE[:3_000], IMAGE[3_000:6_000], breaks=breaks), 0, len(IMAGE))
        assert await store.received(key) == 6_000
        await store.receive(key, Pieces(IMAGE[6_000:]), 6_000, len(IMAGE))
        assert await _uploaded(store, key) == IMAGE

    async def test_what_arrived_before_it_was_cancelled_stays(self, store: ReceivingStore) -> None:
        key, piece = new_key(), Pieces(IMAGE[:3_000], waits=asyncio.Event())
        receiving = asyncio.ensure_future(store.receive(key, piece, 0, len(IMAGE)))
        async with asyncio.timeout(_LONG):
            await piece.given.wait()
            receiving.cancel()
            await asyncio.wait({receiving})
        assert receiving.cancelled()
        assert await store.received(key) == 3_000
        await store.receive(key, Pieces(IMAGE[3_000:]), 3_000, len(IMAGE))
        assert await _uploaded(store, key) == IMAGE

    @pytest.mark.parametrize(
        ("before", "chunks", "total"),
        [
            (0, [IMAGE], len(IMAGE) - 1),
            (0, [IMAGE[:5_000], IMAGE[5_000:], b"x"], len(IMAGE)),
            (0, [bytes(2_000_000), bytes(2_000_000)], 3_000_000),
            (5_000, [bytes(5_001)], 10_000),
            (5_000, [b"x"], 3_000),
            (5_000, [], 4_999),
        ],
    )
    async def test_what_is_longer_than_announced_is_dropped(
        self, store: ReceivingStore, before: int, chunks: list[bytes], total: int
    ) -> None:
        key = new_key()
        await store.receive(key, Pieces(bytes(before)), 0, 10_000)
        with pytest.raises(ImageTooLarge):
            await store.receive(key, Pieces(*chunks), before, total)
        assert await store.received(key) == 0
        with pytest.raises(ImageNotFound):
            await _uploaded(store, key)
        await store.receive(key, Pieces(IMAGE), 0, len(IMAGE))
        assert await _uploaded(store, key) == IMAGE

    async def test_a_piece_comes_alone(self, store: ReceivingStore) -> None:
        key, go_on = new_key(), asyncio.Event()
        piece = Pieces(IMAGE[:3_000], waits=go_on)
        receiving = asyncio.ensure_future(store.receive(key, piece, 0, len(IMAGE)))
        async with asyncio.timeout(_LONG):
            await piece.given.wait()
            for start in (0, 3_000):
                with pytest.raises(UploadConflict):
                    await store.receive(key, Pieces(b"xyz"), start, len(IMAGE))
            with pytest.raises(UploadConflict):
                await _uploaded(store, key)
            go_on.set()
            assert await receiving == 3_000
        await store.receive(key, Pieces(IMAGE[3_000:]), 3_000, len(IMAGE))
        assert await _uploaded(store, key) == IMAGE

    async def test_nothing_arrives_while_an_upload_is_used(self, store: ReceivingStore) -> None:
        key = new_key()
        await store.receive(key, Pieces(IMAGE), 0, len(IMAGE))
        async with store.uploaded(key) as file:
            with pytest.raises(UploadConflict) as raised:
                await store.receive(key, Pieces(b"xyz"), 0, 3)
            assert raised.value.received == len(IMAGE)
            with pytest.raises(UploadConflict) as raised:
                await _uploaded(store, key)
            assert raised.value.received == len(IMAGE)
            assert file.read() == IMAGE

    async def test_deleting_drops_an_upload(self, store: ReceivingStore) -> None:
        key = new_key()
        await store.receive(key, Pieces(IMAGE), 0, len(IMAGE))
        await store.delete(key)
        assert await store.received(key) == 0
        with pytest.raises(ImageNotFound):
            await _uploaded(store, key)

    async def test_an_upload_deleted_while_it_arrives_leaves_nothing(self, store: ReceivingStore) -> None:
        key, go_on = new_key(), asyncio.Event()
        piece = Pieces(IMAGE, waits=go_on)
        receiving = asyncio.ensure_future(store.receive(key, piece, 0, len(IMAGE)))
        async with asyncio.timeout(_LONG):
            await piece.given.wait()
            await store.delete(key)
            go_on.set()
            with pytest.raises(UploadConflict) as raised:
                await receiving
        assert raised.value.received == 0
        assert await store.received(key) == 0

    async def test_an_upload_deleted_while_it_is_used_leaves_the_next_alone(
        self, store: ReceivingStore
    ) -> None:
        key = new_key()
        await store.receive(key, Pieces(bytes(3_000)), 0, 3_000)
        async with store.uploaded(key):
            await store.delete(key)
            await store.receive(key, Pieces(IMAGE), 0, len(IMAGE))
        assert await _uploaded(store, key) == IMAGE

    async def test_many_uploads_arrive_at_once(self, store: ReceivingStore) -> None:
        uploads = {new_key(): samples.png(200_000, mark=number) for number in range(20)}
        await asyncio.gather(
            *(
                store.receive(key, Pieces(image[:70_000], image[70_000:]), 0, len(image))
                for key, image in uploads.items()
            )
        )
        for key, image in uploads.items():
            assert await _uploaded(store, key) == image

    async def test_nothing_is_uploaded_where_nothing_arrived(self, store: ReceivingStore) -> None:
        key = new_key()
        for _ in range(2):
            assert await store.received(key) == 0
            with pytest.raises(ImageNotFound):
                await _uploaded(store, key)
            assert await store.receive(key, Pieces(), 0, len(IMAGE)) == 0

    @pytest.mark.parametrize("key", ODD_KEYS)
    async def test_odd_keys_take_no_uploads(self, store: ReceivingStore, key: str) -> None:
        assert await store.received(key) == 0
        with pytest.raises(ImageNotFound):
            await _uploaded(store, key)
        with pytest.raises(ValueError):  # noqa: PT011 - its words are the store's own
            await store.receive(key, Pieces(IMAGE), 0, len(IMAGE))


async def _uploaded(store: ReceivingStore, key: str) -> bytes:
    async with store.uploaded(key) as file:
        return file.read()


def _ticket(store: ReceivingStore, key: str) -> Ticket:
    return store.ticket(key, described(key, IMAGE), NOON)
