"""What renditions look like: colours, orientation, transparency, animation. Pillow is the eye."""

import io
import re
import struct
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageDraw, ImageOps
from PIL.PngImagePlugin import PngImageFile

from watchly_adapters.pillow import PillowInspector
from watchly_adapters.pillow.rendering import render
from watchly_adapters.testing import samples
from watchly_core.images import RENDERED, VARIANTS, Rendition

pytestmark = pytest.mark.anyio

#: No compression of a plain colour strays further.
NEAR = 12

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
CORNERS = (RED, GREEN, BLUE, WHITE)


@pytest.fixture(scope="module")
def inspector() -> Iterator[PillowInspector]:
    inspector = PillowInspector()
    yield inspector
    inspector.close()


def saved(image: Image.Image, format_: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def quarters(size: tuple[int, int], colours: tuple[object, ...], mode: str = "RGB") -> Image.Image:
    """Top left, top right, bottom left, bottom right."""
    image = Image.new(mode, size)
    width, height = size[0] // 2, size[1] // 2
    for index, colour in enumerate(colours):
        left, top = index % 2 * width, index // 2 * height
        image.paste(colour, (left, top, *size))  # type: ignore[arg-type] # of any mode
    return image


async def rendered(
    inspector: PillowInspector, content: bytes, variant: str = "card", format_: str = "webp"
) -> Image.Image:
    rendition = Rendition(VARIANTS[variant], format_)
    image = Image.open(io.BytesIO(await inspector.render(io.BytesIO(content), rendition)))
    assert image.format == format_.upper()
    image.load()
    assert not {"exif", "xmp", "icc_profile"} & set(image.info)
    return image


def corners(image: Image.Image, mode: str = "RGB") -> list[tuple[int, ...]]:
    shown = image.convert(mode)
    right, bottom = shown.width - 2, shown.height - 2
    return [shown.getpixel(at) for at in ((1, 1), (right, 1), (1, bottom), (right, bottom))]  # type: ignore[misc] # of modes with bands


def near(found: list[tuple[int, ...]], expected: tuple[tuple[int, ...], ...]) -> bool:
    return all(
        abs(a - b) <= NEAR
        for one, other in zip(found, expected, strict=True)
        for a, b in zip(one, other, strict=True)
    )


SIZES = [(40, 30), (1400, 1000), (1203, 2005)]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("rendered_as", RENDERED)
@pytest.mark.parametrize("format_", ["jpeg", "png", "webp", "avif"])
async def test_colours_stay(inspector: PillowInspector, format_: str, rendered_as: str, variant: str) -> None:
    for size in SIZES:
        options = {"quality": 95} if format_ != "avif" else {"speed": 10}
        content = saved(quarters(size, CORNERS), format_, **options)
        image = await rendered(inspector, content, variant, rendered_as)
        assert near(corners(image), CORNERS), (size, corners(image))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["jpeg", "png", "webp", "avif"])
async def test_every_orientation_is_shown_upright(
    inspector: PillowInspector, format_: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for size in [(40, 30), (1400, 1000)]:
        options = {"speed": 10} if format_ == "avif" else {}
        content = saved(quarters(size, CORNERS), format_, exif=exif, **options)
        with Image.open(io.BytesIO(content)) as original:
            upright = ImageOps.exif_transpose(original)
        for variant in VARIANTS:
            image = await rendered(inspector, content, variant)
            assert near(corners(image), tuple(corners(upright))), (size, variant)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("progressive", [False, True])
async def test_printers_colours_are_shown(
    inspector: PillowInspector, size: tuple[int, int], *, progressive: bool
) -> None:
    inks = ((0, 255, 255, 0), (255, 0, 255, 0), (255, 255, 0, 0), (0, 0, 0, 0))
    content = saved(quarters(size, inks, "CMYK"), "jpeg", quality=95, progressive=progressive)
    assert near(corners(await rendered(inspector, content)), CORNERS)


@pytest.mark.parametrize("size", SIZES)
async def test_greys_of_16_bits_keep_their_lightness(
    inspector: PillowInspector, size: tuple[int, int]
) -> None:
    content = saved(quarters(size, (0, 16_448, 32_896, 65_535), "I;16"), "png")
    expected = tuple((grey,) * 3 for grey in (0, 64, 128, 255))
    assert near(corners(await rendered(inspector, content)), expected)


async def test_a_grey_of_16_bits_can_be_transparent(inspector: PillowInspector) -> None:
    image = quarters((40, 30), (0, 16_448, 32_896, 65_535), "I;16")
    shown = corners(await rendered(inspector, saved(image, "png", transparency=32_896)), "RGBA")
    assert [alpha for *_, alpha in shown] == [255, 255, 0, 255]
    assert near([shown[1]], ((64, 64, 64, 255),))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rendered_as", RENDERED)
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "L"])
async def test_palettes_and_transparency_are_kept(
    inspector: PillowInspector, mode: str, rendered_as: str, size: tuple[int, int]
) -> None:
    options: dict[str, object] = {}
    if mode == "RGBA":
        image = quarters(size, ((*RED, 255), (*GREEN, 128), (0, 0, 0, 0), (*WHITE, 255)), mode)
        expected = ((*RED, 255), (*GREEN, 128), (0, 0, 0, 0), (*WHITE, 255))
    elif mode == "LA":
        image = quarters(size, ((0, 255), (64, 255), (0, 0), (255, 128)), mode)
        expected = ((0, 0, 0, 255), (64, 64, 64, 255), (0, 0, 0, 0), (255, 255, 255, 128))
    elif mode == "P":
        image = quarters(size, (0, 1, 2, 3), mode)
        image.putpalette([*RED, *GREEN, *BLUE, *WHITE])
        options = {"transparency": 2}
        expected = ((*RED, 255), (*GREEN, 255), (0, 0, 0, 0), (*WHITE, 255))
    elif mode == "1":
        image = quarters(size, (0, 1, 1, 0), mode)
        expected = ((0, 0, 0, 255), (*WHITE, 255), (*WHITE, 255), (0, 0, 0, 255))
    else:
        image = quarters(size, (0, 64, 128, 255), mode)
        expected = ((0, 0, 0, 255), (64, 64, 64, 255), (128, 128, 128, 255), (*WHITE, 255))
    found = corners(await rendered(inspector, saved(image, "png", **options), format_=rendered_as), "RGBA")
    # What colour the invisible has is nobody's business.
    found = [(0, 0, 0, 0) if pixel[3] <= NEAR else pixel for pixel in found]
    assert near(found, expected), found


def swapped_profile() -> bytes:
    """A profile of a device whose red is green, and the other way round."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack_from(">L", profile, 128)[0]
    for at in range(132, 132 + 12 * count, 12):
        name = bytes(profile[at : at + 4])
        profile[at : at + 4] = {b"rXYZ": b"gXYZ", b"gXYZ": b"rXYZ"}.get(name, name)
    return bytes(profile)


@pytest.mark.parametrize("format_", ["jpeg", "png", "webp", "avif"])
async def test_a_colour_profile_is_applied(inspector: PillowInspector, format_: str) -> None:
    for size in SIZES[:2]:
        content = saved(quarters(size, CORNERS), format_, icc_profile=swapped_profile())
        assert near(corners(await rendered(inspector, content)), (GREEN, RED, BLUE, WHITE))


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "CMYK", "I;16"])
async def test_a_profile_of_other_colours_does_no_harm(inspector: PillowInspector, mode: str) -> None:
    if mode == "RGBA":
        image = quarters((40, 30), ((*RED, 255), (*GREEN, 255), (*BLUE, 0), (*WHITE, 255)), mode)
    elif mode == "P":
        image = quarters((40, 30), CORNERS).quantize(4)
    else:
        image = Image.new(mode, (40, 30), 0)
    content = saved(image, "jpeg" if mode == "CMYK" else "png", icc_profile=swapped_profile())
    shown = corners(await rendered(inspector, content), "RGBA")
    if mode in {"RGBA", "P"}:
        assert near(shown[:2], ((*GREEN, 255), (*RED, 255)))
    if mode == "RGBA":
        assert shown[2][3] == 0


@pytest.mark.parametrize("profile", [b"garbage", swapped_profile()[:300], b"\0" * 200])
async def test_a_broken_profile_is_ignored(inspector: PillowInspector, profile: bytes) -> None:
    content = saved(quarters((40, 30), CORNERS), "jpeg", quality=95, icc_profile=profile)
    assert near(corners(await rendered(inspector, content)), CORNERS)


@pytest.mark.parametrize("size", [(900, 300), (3600, 1200), (6, 4)])
async def test_what_stands_out_is_cut_off_on_both_sides(
    inspector: PillowInspector, size: tuple[int, int]
) -> None:
    image = Image.new("RGB", size, RED)
    third = size[0] // 3
    image.paste(GREEN, (third, 0, 2 * third, size[1]))
    for content in (saved(image, "png"), saved(image, "jpeg", quality=95, subsampling=0)):
        middle = await rendered(inspector, content, "thumbnail")
        assert middle.size == (300, 450)
        if size != (6, 4):
            assert near(corners(middle), (GREEN,) * 4)
        assert near([middle.convert("RGB").getpixel((150, 225))], (GREEN,))  # type: ignore[list-item] # RGB


@settings(deadline=None, max_examples=150)
@given(st.integers(1, 2_000), st.integers(1, 2_000), st.integers(1, 8))
@example(150, 59, 1)
def test_every_size_has_its_variants(width: int, height: int, orientation: int) -> None:
    content = samples.png_showing(width, height)
    for variant in VARIANTS.values():
        with PngImageFile(io.BytesIO(content)) as image:
            made = render(image, Rendition(variant, "webp"), orientation)
        with Image.open(io.BytesIO(made)) as image:
            assert image.width <= variant.width
            assert image.height <= variant.height
            assert not variant.fill or image.size == (variant.width, variant.height)


DURATIONS = [100, 250, 400]


def animated(format_: str, options: dict[str, object], size: tuple[int, int] = (60, 40)) -> bytes:
    pictures = [Image.new("RGB", size, colour) for colour in (RED, GREEN, BLUE)]
    for index, picture in enumerate(pictures):  # so that no two are merged
        ImageDraw.Draw(picture).point((index, 0), WHITE)
    settings = {"save_all": True, "append_images": pictures[1:], "duration": DURATIONS} | options
    return saved(pictures[0], format_, **settings)


@pytest.mark.parametrize("rendered_as", RENDERED)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [(60, 40), (1300, 900)])
@pytest.mark.parametrize("format_", ["gif", "webp", "png", "avif"])
async def test_animations_go_on(
    inspector: PillowInspector, format_: str, size: tuple[int, int], variant: str, rendered_as: str
) -> None:
    image = await rendered(inspector, animated(format_, {"loop": 0}, size), variant, rendered_as)
    assert getattr(image, "n_frames", 1) == 3
    assert image.size == ((300, 450) if variant == "thumbnail" else (60, 40) if size[0] < 600 else (600, 415))
    durations = []
    for index, colour in enumerate((RED, GREEN, BLUE)):
        image.seek(index)
        image.load()
        durations.append(image.info["duration"])
        assert near(corners(image)[2:], (colour,) * 2)
    assert durations == DURATIONS
    if rendered_as == "webp":  # an AVIF goes on for ever
        assert image.info["loop"] == 0


@pytest.mark.parametrize(
    ("format_", "options", "plays"),
    [
        ("gif", {}, 1),
        ("gif", {"loop": 2}, 3),
        ("webp", {"loop": 2}, 2),
        ("png", {"loop": 2}, 2),
    ],
)
async def test_animations_end_when_they_should(
    inspector: PillowInspector, format_: str, options: dict[str, object], plays: int
) -> None:
    assert (await rendered(inspector, animated(format_, options))).info["loop"] == plays


@pytest.mark.parametrize("rendered_as", RENDERED)
async def test_fractions_of_milliseconds_do_not_add_up(inspector: PillowInspector, rendered_as: str) -> None:
    """Pictures of a thirtieth of a second."""
    content = bytearray(animated("png", {"duration": 33}))
    for at in [found.start() + 24 for found in re.finditer(b"fcTL", content)]:
        content[at : at + 4] = struct.pack(">HH", 1, 30)
        content[at + 6 : at + 10] = zlib.crc32(content[at - 24 : at + 6]).to_bytes(4)
    image = await rendered(inspector, bytes(content), format_=rendered_as)
    assert shown_for(image) == [33, 34, 33]


async def test_a_picture_for_old_readers_is_not_part_of_the_animation(inspector: PillowInspector) -> None:
    content = animated("png", {"default_image": True, "duration": DURATIONS[1:]})
    image = await rendered(inspector, content)
    assert getattr(image, "n_frames", 1) == 2
    assert near(corners(image)[2:], (GREEN, GREEN))
    assert near(corners(await rendered(inspector, content, format_="avif"))[2:], (GREEN, GREEN))


def shown_for(image: Image.Image) -> list[int]:
    """How many milliseconds each picture is shown."""
    durations = []
    for index in range(getattr(image, "n_frames", 1)):
        image.seek(index)
        image.load()
        durations.append(image.info["duration"])
    return durations


@pytest.mark.parametrize(("rendered_as", "most"), [("webp", 33_333_333), ("avif", 25_000_000)])
async def test_a_very_long_animation_loses_pictures_and_no_time(
    inspector: PillowInspector, rendered_as: str, most: int
) -> None:
    pictures = [Image.new("L", (600, 900), index) for index in range(200)]
    content = saved(pictures[0], "gif", save_all=True, append_images=pictures[1:], duration=30)
    durations = shown_for(await rendered(inspector, content, format_=rendered_as))
    assert 1 < len(durations) * 600 * 900 <= most
    assert sum(durations) == 200 * 30
