"""What a store promises whose images the service serves itself: reading them back, and renditions.

::

    class TestMyImages(ServedStoreContract):
        @pytest.fixture
        def store(self) -> MyImages:
            return MyImages(...)
"""

from __future__ import annotations

import asyncio
from typing import IO

import pytest

from watchly_adapters.testing import samples
from watchly_adapters.testing.image_stores import LARGE, ODD_KEYS, ImageStoreContract, ServedStore, put
from watchly_core.errors import ImageNotFound, ImageUnreadable
from watchly_core.images import RENDERED, VARIANTS, Rendition, new_key
from watchly_core.ports import Render

__all__ = ["ServedStoreContract"]

_LARGEST_CHUNK = 1_048_576

_SIZE = 700_000
#: Where stores may cut an image into chunks.
_BORDER = 262_144

RENDITIONS = tuple(Rendition(variant, form) for variant in VARIANTS.values() for form in RENDERED)
THUMBNAIL = RENDITIONS[0]

#: No call of these suites takes so long; what waits longer waits for ever.
_LONG = 30


class Rendering:
    """Renders nothing, but says what it was asked for, and can be held up."""

    def __init__(self, *, held: bool = False) -> None:
        self.originals: list[bytes] = []
        self.at_once: int = 0
        self.most_at_once: int = 0
        self.began: asyncio.Event = asyncio.Event()
        self.go_on: asyncio.Event = asyncio.Event()
        if not held:
            self.go_on.set()

    async def __call__(self, original: IO[bytes]) -> bytes:
        """What every rendition of an original is, here."""
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        self.began.set()
        try:
            self.originals.append(original.read())
            await asyncio.sleep(0)  # so that others get to it, who should not
            await self.go_on.wait()
            return rendered(self.originals[-1])
        finally:
            self.at_once -= 1


def rendered(original: bytes) -> bytes:
    """A rendition that tells which original it was made of."""
    return b"made of " + original[-20:] + len(original).to_bytes(4)


class ServedStoreContract(ImageStoreContract[ServedStore]):
    """Everything of `ImageStoreContract`, reading, ranges and renditions. Supply `store`.

    Attributes:
        shared: set it where images of others may be in the store.
    """

    shared: bool = False

    def another(self, store: ServedStore) -> ServedStore:
        """The same store as another process has it; override it where there may be several."""
        return store

    @pytest.fixture
    def store(self) -> ServedStore:
        """The store under test; images of others may be in it."""
        raise NotImplementedError("supply a fixture `store`")

    async def content(self, store: ServedStore, key: str) -> bytes | None:
        """What the store reads back."""
        return await read(store, key)

    async def test_a_large_image_is_read_in_chunks(self, store: ServedStore) -> None:
        key, image = new_key(), samples.png(LARGE)
        await put(store, key, image)
        async with store.read(key) as file:
            sizes = [len(chunk) async for chunk in file.chunks()]
        assert file.size == sum(sizes) == len(image)
        assert 0 < min(sizes) <= max(sizes) <= _LARGEST_CHUNK

    @pytest.mark.parametrize(
        ("start", "end"),
        [
            (0, None),
            (0, 0),
            (0, 1),
            (1, None),
            (100, 50),
            (0, _SIZE - 1),
            (_SIZE - 1, _SIZE),
            (_SIZE - 1, None),
            (_SIZE, None),
            (_SIZE, _SIZE),
            (_SIZE + 5, None),
            (0, _SIZE + 1),
            (_BORDER - 1, _BORDER + 1),
            (_BORDER, 2 * _BORDER),
            (_BORDER, 2 * _BORDER + 1),
            (_BORDER + 1, None),
        ],
    )
    async def test_a_range_is_read(self, store: ServedStore, start: int, end: int | None) -> None:
        key, image = new_key(), samples.png(_SIZE, mark=0x0102030405060708)
        await put(store, key, image)
        async with store.read(key) as file:
            chunks = [chunk async for chunk in file.chunks(start, end)]
        assert all(chunks)
        assert b"".join(chunks) == image[start:end]

    async def test_it_is_not_empty_while_an_image_is_kept(self, store: ServedStore) -> None:
        before = await store.is_empty()
        assert before or self.shared
        key = new_key()
        await put(store, key, samples.png(200))
        assert not await store.is_empty()
        await store.delete(key)
        assert await store.is_empty() == before

    @pytest.mark.parametrize("size", [200, _BORDER - 1, _BORDER, _BORDER + 1])
    async def test_all_of_it_is_said_at_once_up_to_a_size(self, store: ServedStore, size: int) -> None:
        key, image = new_key(), samples.png(size)
        await put(store, key, image)
        await store.render(key, THUMBNAIL, _saying(image[::-1]))
        for rendition, content in ((None, image), (THUMBNAIL, image[::-1])):
            assert await store.content(key, rendition, at_most=size) == content
            assert await store.content(key, rendition, at_most=_SIZE) == content
            assert await store.content(key, rendition, at_most=size - 1) is None

    async def test_an_empty_rendition_is_said_at_once(self, store: ServedStore) -> None:
        key = new_key()
        await put(store, key, samples.png(1_000))
        await store.render(key, THUMBNAIL, _saying(b""))
        assert await store.content(key, THUMBNAIL, at_most=0) == b""
        assert await store.content(key, at_most=0) is None

    async def test_one_file_is_read_by_several_at_once(self, store: ServedStore) -> None:
        key, image = new_key(), samples.png(_SIZE)
        await put(store, key, image)
        async with store.read(key) as file:

            async def ranged(start: int) -> bytes:
                return b"".join([chunk async for chunk in file.chunks(start)])

            starts = (0, 1, _BORDER, 300_000)
            contents = await asyncio.gather(*map(ranged, starts))
        assert contents == [image[start:] for start in starts]

    async def test_nothing_is_read_after_the_block(self, store: ServedStore) -> None:
        """By then another file may have taken the place of this one."""
        key = new_key()
        await put(store, key, samples.png(3_000_000))
        async with store.read(key) as file:
            begun = file.chunks()
            await anext(begun)
        for chunks in (begun, file.chunks()):
            with pytest.raises(ValueError):  # noqa: PT011 - its words are the store's own
                await anext(chunks)

    async def test_reading_can_be_given_up(self, store: ServedStore) -> None:
        key = new_key()
        await put(store, key, samples.png(3_000_000))
        async with store.read(key) as file:
            assert (await anext(file.chunks())).startswith(b"\x89PNG")
        await self._holds(store, key, samples.png(3_000_000))

    async def test_an_image_replaced_while_it_is_read_is_read_whole(self, store: ServedStore) -> None:
        key, before, after = new_key(), samples.png(3_000_000), samples.png(4_000_000, mark=1)
        await put(store, key, before)
        async with store.read(key) as file:
            chunks = file.chunks()
            content = await anext(chunks)
            await put(store, key, after)
            content += b"".join([chunk async for chunk in chunks])
        assert content in (before, after)
        assert len(content) == file.size
        await self._holds(store, key, after)

    @pytest.mark.parametrize("rendition", [None, THUMBNAIL])
    @pytest.mark.parametrize("key", ["0123456789abcdef" * 2, *ODD_KEYS])
    async def test_nothing_is_read_from_where_nothing_is(
        self, store: ServedStore, key: str, rendition: Rendition | None
    ) -> None:
        with pytest.raises(ImageNotFound):
            async with store.read(key, rendition):
                raise AssertionError("there is something")
        with pytest.raises(ImageNotFound):
            await store.content(key, rendition, at_most=_SIZE)

    async def test_a_rendition_is_there_when_it_was_made(self, store: ServedStore) -> None:
        key, image, rendering = new_key(), samples.png(1_000), Rendering()
        await put(store, key, image)
        assert await read(store, key, THUMBNAIL) is None
        await store.render(key, THUMBNAIL, rendering)
        assert rendering.originals == [image]
        assert await read(store, key, THUMBNAIL) == rendered(image)
        await self._holds(store, key, image)

    async def test_a_rendition_is_made_once(self, store: ServedStore) -> None:
        key, rendering = new_key(), Rendering()
        await put(store, key, samples.png(1_000))
        stores = [store, self.another(store)]
        await asyncio.gather(*(each.render(key, THUMBNAIL, rendering) for each in stores * 4))
        await self.another(store).render(key, THUMBNAIL, rendering)
        assert len(rendering.originals) == 1

    async def test_renditions_do_not_touch_each_other(self, store: ServedStore) -> None:
        first, second = new_key(), new_key()
        await put(store, first, samples.png(1_000))
        await put(store, second, samples.png(2_000))
        for number, rendition in enumerate(RENDITIONS):
            assert await read(store, first, rendition) is None
            await store.render(first, rendition, _saying(b"rendition %d" % number))
        for number, rendition in enumerate(RENDITIONS):
            assert await read(store, first, rendition) == b"rendition %d" % number
            assert await read(store, second, rendition) is None

    async def test_of_one_image_one_rendition_is_made_at_a_time(self, store: ServedStore) -> None:
        key, rendering = new_key(), Rendering()
        await put(store, key, samples.png(1_000))
        stores = (store, self.another(store))
        await asyncio.gather(
            *(each.render(key, rendition, rendering) for rendition in RENDITIONS for each in stores)
        )
        assert rendering.most_at_once == 1
        assert len(rendering.originals) == len(RENDITIONS)

    async def test_other_images_are_rendered_meanwhile(self, store: ServedStore) -> None:
        """Many of them, so that those who wait hold up nobody else."""
        key, others, held = new_key(), [new_key() for _ in range(20)], Rendering(held=True)
        for name in (key, *others):
            await put(store, name, samples.png(1_000))
        waiting = [asyncio.ensure_future(store.render(key, THUMBNAIL, held)) for _ in range(20)]
        async with asyncio.timeout(_LONG):
            await held.began.wait()
            await asyncio.gather(*(store.render(other, THUMBNAIL, Rendering()) for other in others))
            assert await read(store, key) == samples.png(1_000)
            held.go_on.set()
            await asyncio.gather(*waiting)

    async def test_a_failure_leaves_nothing_and_can_be_tried_again(self, store: ServedStore) -> None:
        key, image, rendering = new_key(), samples.png(1_000), Rendering()
        await put(store, key, image)

        async def failing(original: IO[bytes]) -> bytes:
            original.close()
            raise ImageUnreadable("too large by far")

        with pytest.raises(ImageUnreadable, match="too large by far"):
            await store.render(key, THUMBNAIL, failing)
        assert await read(store, key, THUMBNAIL) is None
        async with asyncio.timeout(_LONG):
            await store.render(key, THUMBNAIL, rendering)
        assert await read(store, key, THUMBNAIL) == rendered(image)

    async def test_a_cancelled_rendering_makes_way_for_the_next(self, store: ServedStore) -> None:
        key, held, rendering = new_key(), Rendering(held=True), Rendering()
        await put(store, key, samples.png(1_000))
        first = asyncio.ensure_future(store.render(key, THUMBNAIL, held))
        async with asyncio.timeout(_LONG):
            await held.began.wait()
            given_up, next_one = (
                asyncio.ensure_future(store.render(key, THUMBNAIL, rendering)) for _ in range(2)
            )
            await asyncio.sleep(0)
            given_up.cancel()
            first.cancel()
            await asyncio.wait({first, given_up})
            await next_one
        assert first.cancelled()
        assert given_up.cancelled()
        assert len(rendering.originals) == 1
        assert await read(store, key, THUMBNAIL) is not None

    @pytest.mark.parametrize("key", ["0123456789abcdef" * 2, *ODD_KEYS])
    async def test_nothing_is_rendered_where_nothing_is(self, store: ServedStore, key: str) -> None:
        rendering = Rendering()
        with pytest.raises(ImageNotFound):
            await store.render(key, THUMBNAIL, rendering)
        assert not rendering.originals

    async def test_renditions_go_with_their_original(self, store: ServedStore) -> None:
        key = new_key()
        await put(store, key, samples.png(1_000))
        for rendition in RENDITIONS:
            await store.render(key, rendition, Rendering())
        await store.delete(key)
        assert [await read(store, key, rendition) for rendition in RENDITIONS] == [None] * len(RENDITIONS)
        await put(store, key, samples.png(1_000))
        assert [await read(store, key, rendition) for rendition in RENDITIONS] == [None] * len(RENDITIONS)

    async def test_a_new_original_has_no_renditions(self, store: ServedStore) -> None:
        key = new_key()
        await put(store, key, samples.png(1_000))
        await store.render(key, THUMBNAIL, Rendering())
        await put(store, key, samples.png(2_000))
        assert await read(store, key, THUMBNAIL) is None
        await store.render(key, THUMBNAIL, Rendering())
        assert await read(store, key, THUMBNAIL) == rendered(samples.png(2_000))

    async def test_what_is_dropped_while_it_is_rendered_leaves_nothing(self, store: ServedStore) -> None:
        key, held = new_key(), Rendering(held=True)
        await put(store, key, samples.png(1_000))
        rendering = asyncio.ensure_future(store.render(key, THUMBNAIL, held))
        async with asyncio.timeout(_LONG):
            await held.began.wait()
            await store.delete(key)
            held.go_on.set()
            with pytest.raises(ImageNotFound):
                await rendering
        assert await read(store, key, THUMBNAIL) is None
        await put(store, key, samples.png(1_000))
        assert await read(store, key, THUMBNAIL) is None

    async def test_what_is_replaced_while_it_is_rendered_is_rendered_anew(self, store: ServedStore) -> None:
        key, before, after, held = new_key(), samples.png(1_000), samples.png(2_000), Rendering(held=True)
        await put(store, key, before)
        rendering = asyncio.ensure_future(store.render(key, THUMBNAIL, held))
        async with asyncio.timeout(_LONG):
            await held.began.wait()
            await put(store, key, after)
            assert await read(store, key, THUMBNAIL) is None
            held.go_on.set()
            await rendering
        assert held.originals == [before, after]
        assert await read(store, key, THUMBNAIL) == rendered(after)

    async def test_a_rendition_dropped_while_it_is_read_is_read_whole(self, store: ServedStore) -> None:
        key, content = new_key(), bytes(_SIZE)
        await put(store, key, samples.png(1_000))
        await store.render(key, THUMBNAIL, _saying(content))
        async with store.read(key, THUMBNAIL) as file:
            await store.delete(key)
            assert b"".join([chunk async for chunk in file.chunks()]) == content


async def read(store: ServedStore, key: str, rendition: Rendition | None = None) -> bytes | None:
    """All of an image or a rendition, which the store says in either way; None if there is none."""
    try:
        async with store.read(key, rendition) as file:
            content = b"".join([chunk async for chunk in file.chunks()])
    except ImageNotFound:
        with pytest.raises(ImageNotFound):
            await store.content(key, rendition, at_most=_SIZE)
        return None
    assert len(content) == file.size
    assert await store.content(key, rendition, at_most=len(content)) == content
    return content


def _saying(content: bytes) -> Render:
    async def render(original: IO[bytes]) -> bytes:  # noqa: ARG001 - whatever it is
        return content

    return render
