"""What an inspector of images promises."""

from __future__ import annotations

import io
import tempfile
from typing import IO

import pytest

from watchly_adapters.testing import samples
from watchly_core.errors import ImageRejected, ImageTypeUnsupported, ImageUnreadable
from watchly_core.images import Measured
from watchly_core.ports import ImageInspector

#: A cut that leaves enough of each sample to know its format, and not its size.
_CUT = 24


class ImageInspectorContract:
    """Formats, sizes, broken headers. Supply `inspector`."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend(self) -> str:
        """The suite runs on asyncio."""
        return "asyncio"

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


async def _outcome(inspector: ImageInspector, source: IO[bytes]) -> Measured | type[ImageRejected]:
    try:
        return await inspector.measure(source)
    except ImageRejected as error:
        return type(error)


def _format(name: str) -> str:
    return name.partition(" ")[0]
