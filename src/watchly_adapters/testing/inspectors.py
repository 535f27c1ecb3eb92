"""What an inspector of images promises."""

from __future__ import annotations

import io
import tempfile
from typing import IO

import pytest

from watchly_adapters.testing import samples
from watchly_adapters.testing.suites import Suite
from watchly_core.errors import ImageRejected, ImageTooLarge, ImageTypeUnsupported, ImageUnreadable
from watchly_core.images import MAX_FRAMES, RENDERED, VARIANTS, Measured, Rendition
from watchly_core.ports import ImageInspector

__all__ = ["ImageDecoderContract", "ImageInspectorContract"]

#: A cut that leaves enough of each sample to know its format, and not its size.
_CUT = 24

#: What makes a file that ends with it something else too.
_TAILS = {
    "zip": b"PK\x03\x04\x14\0\0\0\0\0" + bytes(16) + b"\x05\0\0\0a.txt",
    "html": b"<!DOCTYPE html><script>alert(1)</script>",
}

_SOUND = {
    **samples.UPRIGHT,
    **{f"{name}, turned": content for name, content in samples.TURNED.items()},
    **{f"{name}, told": told.content for name, told in samples.TOLD.items()},
    "png of one pixel": samples.png_showing(1, 1),
    "gif, animated": samples.gif_of(3),
}


class ImageInspectorContract(Suite):
    """Formats, sizes, broken headers, metadata. Supply `inspector`."""

    @pytest.fixture
    def inspector(self) -> ImageInspector:
        """The inspector under test."""
        raise NotImplementedError("supply a fixture `inspector`")

    @pytest.mark.parametrize("name", samples.UPRIGHT)
    async def test_each_format_is_measured(self, inspector: ImageInspector, name: str) -> None:
        measured = await inspector.measure(io.BytesIO(samples.UPRIGHT[name]))
        assert measured == Measured(_format(name), samples.WIDTH, samples.HEIGHT)

    @pytest.mark.parametrize("name", samples.TURNED)
    async def test_the_size_is_that_of_the_image_as_it_is_shown(
        self, inspector: ImageInspector, name: str
    ) -> None:
        measured = await inspector.measure(io.BytesIO(samples.TURNED[name]))
        assert measured == Measured(_format(name), samples.HEIGHT, samples.WIDTH)

    @pytest.mark.parametrize("orientation", range(10))
    async def test_orientations_five_to_eight_swap_width_and_height(
        self, inspector: ImageInspector, orientation: int
    ) -> None:
        for content in (samples.turned_jpeg(orientation), samples.turned_png(orientation)):
            measured = await inspector.measure(io.BytesIO(content))
            shown = (measured.width, measured.height)
            upright = (samples.WIDTH, samples.HEIGHT)
            assert shown == (upright[::-1] if 5 <= orientation <= 8 else upright)

    @pytest.mark.parametrize("name", samples.UPRIGHT)
    async def test_a_header_that_ends_too_early_is_unreadable(
        self, inspector: ImageInspector, name: str
    ) -> None:
        with pytest.raises(ImageUnreadable):
            await inspector.measure(io.BytesIO(samples.UPRIGHT[name][:_CUT]))

    @pytest.mark.parametrize("size", [(0, 4), (6, 0), (0, 0)])
    async def test_an_image_without_pixels_is_unreadable(
        self, inspector: ImageInspector, size: tuple[int, int]
    ) -> None:
        with pytest.raises(ImageUnreadable):
            await inspector.measure(io.BytesIO(samples.png_claiming(*size)))

    @pytest.mark.parametrize("size", [(10_000, 10_000), (10_000, 10_001), (65_535, 65_535), (2**31 - 1, 1)])
    async def test_a_huge_size_is_measured_for_the_core_to_judge(
        self, inspector: ImageInspector, size: tuple[int, int]
    ) -> None:
        measured = await inspector.measure(io.BytesIO(samples.png_claiming(*size)))
        assert measured == Measured("png", *size)

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\0",
            b"hello",
            b"<svg xmlns='http://www.w3.org/2000/svg' width='6' height='4'/>",
            b"<!DOCTYPE html><img src=x>",
            b"%PDF-1.7\n",
            b"BM\x1e\0\0\0\0\0\0\0\x1a\0\0\0\x0c\0\0\0\x06\0\x04\0\x01\0\x18\0",
            b"II*\0\x08\0\0\0\0\0",
            b"8BPS\0\x01\0\0\0\0\0\0",
            b"%!PS-Adobe-3.0 EPSF-3.0\n",
            b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        ],
        ids=["empty", "nul", "text", "svg", "html", "pdf", "bmp", "tiff", "psd", "eps", "heic"],
    )
    async def test_anything_else_is_of_no_supported_type(
        self, inspector: ImageInspector, content: bytes
    ) -> None:
        with pytest.raises(ImageTypeUnsupported):
            await inspector.measure(io.BytesIO(content))

    @pytest.mark.parametrize("content", [*samples.UPRIGHT.values(), b"no image", samples.png_claiming(0, 0)])
    async def test_the_source_is_read_from_its_start_and_left_there(
        self, inspector: ImageInspector, content: bytes
    ) -> None:
        """The inspector looks before the store reads the same source: it neither closes nor moves it."""
        with tempfile.TemporaryFile() as source:
            source.write(content)
            first = await _outcome(inspector, source)
            assert source.tell() == 0
            source.seek(min(5, len(content)))
            assert await _outcome(inspector, source) == first
            assert source.read() == content

    async def test_bytes_after_the_image_do_not_matter(self, inspector: ImageInspector) -> None:
        with tempfile.TemporaryFile() as source:
            source.write(samples.UPRIGHT["jpeg"])
            source.truncate(20_000_000)
            assert await inspector.measure(source) == Measured("jpeg", samples.WIDTH, samples.HEIGHT)

    async def test_long_metadata_before_the_pixels_is_passed_over(self, inspector: ImageInspector) -> None:
        content = samples.png(3_000_000)
        assert await inspector.measure(io.BytesIO(content)) == Measured("png", samples.WIDTH, samples.HEIGHT)

    @pytest.mark.parametrize("name", samples.TOLD)
    async def test_metadata_is_taken_out_and_what_is_shown_stays(
        self, inspector: ImageInspector, name: str
    ) -> None:
        told = samples.TOLD[name]
        source = io.BytesIO(told.content)
        measured = await inspector.measure(source)
        await inspector.clean(source)
        cleaned = source.getvalue()
        assert samples.SECRET not in cleaned
        assert samples.LATITUDE not in cleaned
        assert told.pixels in cleaned
        assert await inspector.measure(source) == measured

    @pytest.mark.parametrize("orientation", range(1, 9))
    async def test_the_orientation_stays(self, inspector: ImageInspector, orientation: int) -> None:
        for content in (samples.turned_jpeg(orientation), samples.turned_png(orientation)):
            source = io.BytesIO(content)
            measured = await inspector.measure(source)
            await inspector.clean(source)
            assert await inspector.measure(source) == measured
            if orientation > 1:
                assert samples.exif(orientation)[8:22] in source.getvalue()

    @pytest.mark.parametrize("name", _SOUND)
    async def test_cleaning_again_changes_nothing(self, inspector: ImageInspector, name: str) -> None:
        with tempfile.TemporaryFile() as source:
            source.write(_SOUND[name])
            size = await inspector.clean(source)
            assert source.tell() == 0
            cleaned = source.read()
            assert len(cleaned) == size
            assert await inspector.clean(source) == size
            assert source.read() == cleaned

    @pytest.mark.parametrize("name", [name for name in samples.UPRIGHT if name != "avif"])
    async def test_an_image_without_metadata_stays_as_it_is(
        self, inspector: ImageInspector, name: str
    ) -> None:
        """But for an AVIF, whose pixels have a name."""
        source = io.BytesIO(samples.UPRIGHT[name])
        assert await inspector.clean(source) == len(samples.UPRIGHT[name])
        assert source.getvalue() == samples.UPRIGHT[name]

    async def test_what_follows_a_jpeg_is_cut_off(self, inspector: ImageInspector) -> None:
        plain = samples.UPRIGHT["jpeg"]
        with tempfile.TemporaryFile() as source:
            source.write(plain + _TAILS["zip"] + samples.SECRET * 10_000)
            assert await inspector.clean(source) == len(plain)
            assert source.read() == plain

    @pytest.mark.parametrize("tail", _TAILS)
    @pytest.mark.parametrize("name", [name for name in samples.UPRIGHT if name != "jpeg"])
    async def test_what_is_another_file_too_is_unreadable(
        self, inspector: ImageInspector, name: str, tail: str
    ) -> None:
        with pytest.raises(ImageUnreadable):
            await inspector.clean(io.BytesIO(samples.UPRIGHT[name] + _TAILS[tail]))

    @pytest.mark.parametrize("lost", [3, 0.3, 0.6])
    @pytest.mark.parametrize("name", _SOUND)
    async def test_what_was_cut_short_is_unreadable(
        self, inspector: ImageInspector, name: str, lost: float
    ) -> None:
        content = _SOUND[name]
        with pytest.raises(ImageUnreadable):
            await inspector.clean(io.BytesIO(content[: -int(lost if lost >= 1 else len(content) * lost)]))

    async def test_an_image_of_too_many_pictures_is_too_large(self, inspector: ImageInspector) -> None:
        await inspector.clean(io.BytesIO(samples.gif_of(MAX_FRAMES)))
        with pytest.raises(ImageTooLarge):
            await inspector.clean(io.BytesIO(samples.gif_of(MAX_FRAMES + 1)))

    @pytest.mark.parametrize("name", _SOUND)
    async def test_sound_images_pass_decoding(self, inspector: ImageInspector, name: str) -> None:
        with tempfile.TemporaryFile() as source:
            source.write(_SOUND[name])
            await inspector.decode(source)
            source.seek(0)
            assert source.read() == _SOUND[name]


class ImageDecoderContract(ImageInspectorContract):
    """Broken pixels and renditions, for inspectors that decode. Supply `inspector`."""

    @pytest.mark.parametrize("name", samples.BROKEN)
    async def test_broken_pixels_are_unreadable(self, inspector: ImageInspector, name: str) -> None:
        source = io.BytesIO(samples.BROKEN[name])
        await inspector.clean(source)
        for attempt in (inspector.decode(source), inspector.render(source, _rendition("card", "webp"))):
            with pytest.raises(ImageUnreadable):
                await attempt

    @pytest.mark.parametrize("content", [b"", b"hello", b"<svg/>", b"%PDF-1.7\n", samples.png_claiming(0, 0)])
    async def test_what_is_no_image_is_unreadable(self, inspector: ImageInspector, content: bytes) -> None:
        with pytest.raises(ImageUnreadable):
            await inspector.decode(io.BytesIO(content))
        with pytest.raises(ImageUnreadable):
            await inspector.render(io.BytesIO(content), _rendition("thumbnail", "avif"))

    async def test_a_bomb_is_too_large(self, inspector: ImageInspector) -> None:
        with pytest.raises(ImageTooLarge):
            await inspector.decode(io.BytesIO(samples.png_claiming(65_535, 65_535)))

    @pytest.mark.parametrize("format_", RENDERED)
    @pytest.mark.parametrize("name", _SOUND)
    async def test_each_image_has_its_renditions(
        self, inspector: ImageInspector, name: str, format_: str
    ) -> None:
        source = io.BytesIO(_SOUND[name])
        shown = await inspector.measure(source)
        small = await inspector.render(source, _rendition("card", format_))
        assert await _measured(inspector, small) == Measured(format_, shown.width, shown.height)
        filled = await inspector.render(source, _rendition("thumbnail", format_))
        assert await _measured(inspector, filled) == Measured(format_, 300, 450)
        for content in (small, filled):
            assert samples.SECRET not in content
            assert samples.LATITUDE not in content
        assert source.tell() == 0
        assert source.getvalue() == _SOUND[name]

    @pytest.mark.parametrize(
        ("size", "card"),
        [
            ((600, 900), (600, 900)),
            ((601, 900), (600, 899)),
            ((1200, 1800), (600, 900)),
            ((1600, 1000), (600, 375)),
            ((1000, 1600), (562, 900)),
            ((3000, 20), (600, 4)),
            ((20, 3000), (6, 900)),
            ((5000, 1), (600, 1)),
            ((599, 3), (599, 3)),
        ],
    )
    @pytest.mark.parametrize("orientation", range(1, 9))
    async def test_renditions_are_upright_and_keep_their_shape(
        self, inspector: ImageInspector, size: tuple[int, int], card: tuple[int, int], orientation: int
    ) -> None:
        """Sizes are of the image as it is shown."""
        stored = size if orientation < 5 else size[::-1]
        source = io.BytesIO(samples.png_showing(*stored, orientation=orientation))
        made = await _measured(inspector, await inspector.render(source, _rendition("card", "webp")))
        assert (made.width, made.height) == card
        made = await _measured(inspector, await inspector.render(source, _rendition("thumbnail", "webp")))
        assert (made.width, made.height) == (300, 450)


async def _measured(inspector: ImageInspector, content: bytes) -> Measured:
    return await inspector.measure(io.BytesIO(content))


def _rendition(variant: str, format_: str) -> Rendition:
    return Rendition(VARIANTS[variant], format_)


async def _outcome(inspector: ImageInspector, source: IO[bytes]) -> Measured | type[ImageRejected]:
    try:
        return await inspector.measure(source)
    except ImageRejected as error:
        return type(error)


def _format(name: str) -> str:
    return name.partition(" ")[0]
