"""The suite of the inspectors, on Pillow and on the standard library, and that both say the same."""

import io
from collections.abc import Iterator
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from tests.hostile import extended, png_chunk, png_with, riff, riff_chunk

from watchly_adapters.headers import HeaderInspector, measure
from watchly_adapters.metadata import clean
from watchly_adapters.pillow import PillowInspector
from watchly_adapters.testing import samples
from watchly_adapters.testing.inspectors import ImageDecoderContract, ImageInspectorContract
from watchly_core.errors import ImageRejected, ImageTooLarge, ImageUnreadable, Misconfigured
from watchly_core.images import VARIANTS, Measured, Rendition


@pytest.fixture(scope="module")
def pillow() -> Iterator[PillowInspector]:
    """One for all tests, as its decoder takes a moment to start."""
    inspector = PillowInspector()
    yield inspector
    inspector.close()


class TestPillowInspector(ImageDecoderContract):
    @pytest.fixture
    def inspector(self, pillow: PillowInspector) -> PillowInspector:
        return pillow


class TestHeaderInspector(ImageInspectorContract):
    @pytest.fixture
    def inspector(self) -> HeaderInspector:
        return HeaderInspector()

    async def test_it_cannot_render(self, inspector: HeaderInspector) -> None:
        with pytest.raises(Misconfigured, match="needs Pillow"):
            await inspector.render(io.BytesIO(), Rendition(VARIANTS["card"], "webp"))


#: Ways to save each format, so that every kind of header is made.
SAVED: dict[str, list[dict[str, object]]] = {
    "jpeg": [{}, {"progressive": True}, {"optimize": True, "quality": 1}, {"comment": b"a comment"}],
    "png": [{}, {"bits": 8}, {"save_all": True}],
    "gif": [{}, {"save_all": True}, {"comment": b"x" * 1000, "transparency": 0}],
    "webp": [{}, {"lossless": True}, {"save_all": True}, {"lossless": True, "exact": True}],
    "avif": [{"speed": 10}, {"speed": 10, "save_all": True}],
}
MODES = {
    "jpeg": ["L", "RGB", "CMYK"],
    "png": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "gif": ["P", "L", "RGB"],
    "webp": ["RGB", "RGBA"],
    "avif": ["RGB", "RGBA", "L"],
}
SIZES = [(1, 1), (1, 300), (301, 2), (64, 64)]


def _saved(format_: str, mode: str, size: tuple[int, int], options: dict[str, object], turn: int) -> bytes:
    image = Image.new(mode, size)
    exif = Image.Exif()
    exif[0x0112] = turn
    if options.get("save_all"):
        options = options | {"append_images": [Image.new(mode, size, 1 if mode != "RGBA" else (1, 2, 3, 4))]}
    # GIF has no EXIF data, and Pillow 13 dies of SIGSEGV saving an animated AVIF with an orientation.
    if format_ != "gif" and not (format_ == "avif" and options.get("save_all")):
        options = options | {"exif": exif}
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


@pytest.mark.anyio
@pytest.mark.parametrize("format_", SAVED)
async def test_both_say_what_pillow_shows(format_: str) -> None:
    pillow, header = PillowInspector(), HeaderInspector()
    for mode, size, options, turn in product(MODES[format_], SIZES, SAVED[format_], [1, 3, 6, 7]):
        content = _saved(format_, mode, size, options, turn)
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            expected = Measured(format_, *ImageOps.exif_transpose(image).size)
        assert await header.measure(io.BytesIO(content)) == expected, (mode, size, options, turn)
        assert await pillow.measure(io.BytesIO(content)) == expected, (mode, size, options, turn)


@pytest.mark.anyio
@pytest.mark.parametrize("name", [*samples.UPRIGHT, *(f"turned {name}" for name in samples.TURNED)])
async def test_a_file_cut_anywhere_is_measured_right_or_refused(name: str) -> None:
    content = samples.TURNED[name.removeprefix("turned ")] if "turned" in name else samples.UPRIGHT[name]
    whole = measure(io.BytesIO(content))
    upright = Measured(whole.format, samples.WIDTH, samples.HEIGHT)
    for inspector in (PillowInspector(), HeaderInspector()):
        for length in range(len(content)):
            try:
                measured = await inspector.measure(io.BytesIO(content[:length]))
            except ImageRejected:
                continue
            # A WebP says how it is turned after its pixels.
            assert measured in (whole, upright)


MUTATED = [*samples.UPRIGHT.values(), *samples.TURNED.values()]


@given(st.sampled_from(MUTATED), st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=8))))
def test_broken_bytes_are_measured_or_refused_and_nothing_else(
    content: bytes, changes: list[tuple[int, bytes]]
) -> None:
    broken = bytearray(content)
    for position, data in changes:
        at = position % len(broken)
        broken[at : at + len(data)] = data
    source = io.BytesIO(bytes(broken))
    try:
        measured = measure(source)
    except ImageRejected:
        return
    finally:
        assert source.tell() == 0
    assert measured.width > 0
    assert measured.height > 0


@given(st.sampled_from([b"", *(content[:32] for content in MUTATED)]), st.binary(max_size=300))
def test_bytes_after_a_signature_are_measured_or_refused_and_nothing_else(head: bytes, tail: bytes) -> None:
    try:
        measure(io.BytesIO(head[:32] + tail))
    except ImageRejected:
        return


@pytest.mark.anyio
async def test_pillow_refuses_a_gif_that_grows_to_a_bomb_as_too_large() -> None:
    """Its plug-in alone judges the number of pixels, when the first frame does not fit on the screen."""
    plain = samples.UPRIGHT["gif"]
    frame = plain.index(b",", 13 + 12)
    bomb = plain[: frame + 5] + b"\xff\xff\xff\xff" + plain[frame + 9 :]
    with pytest.raises(ImageTooLarge):
        await PillowInspector().measure(io.BytesIO(bomb))
    assert await HeaderInspector().measure(io.BytesIO(bomb)) == Measured("gif", 65_535, 65_535)


@pytest.mark.parametrize(
    "exif",
    [
        (samples.exif(6), samples.exif(1)),
        (samples.exif(1), samples.exif(6)),
        (samples.exif(6), samples.exif(3)),
        (b"", samples.exif(6)),
    ],
)
@pytest.mark.parametrize("format_", ["png", "webp", "webp not announced"])
def test_what_is_measured_is_what_cleaning_leaves(format_: str, exif: tuple[bytes, bytes]) -> None:
    if format_ == "png":
        content = png_with(*(png_chunk(b"eXIf", one) for one in exif))
    else:
        flags = 0 if "not" in format_ else 0x08
        chunks = [riff_chunk(b"EXIF", one) for one in exif]
        content = riff(extended(flags), *chunks, samples.UPRIGHT["webp lossy"][12:])
    source = io.BytesIO(content)
    before = measure(source)
    clean(source)
    assert measure(source) == before


class Crafted(io.BytesIO):
    """A file of 400 MB that repeats a pattern after its start, and counts what is read of it."""

    def __init__(self, start: bytes, pattern: bytes) -> None:
        super().__init__()
        self._start, self._pattern = start, pattern
        self._position = self.bytes_read = self.reads = 0

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        assert whence in {io.SEEK_SET, io.SEEK_CUR}
        self._position = offset + (self._position if whence == io.SEEK_CUR else 0)
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert size >= 0, "all of it is read"
        size = max(0, min(size, 400_000_000 - self._position))
        data = self._start[self._position : self._position + size]
        if missing := size - len(data):
            offset = (self._position + len(data) - len(self._start)) % len(self._pattern)
            repeated = self._pattern * (2 + missing // len(self._pattern))
            data += repeated[offset : offset + missing]
        self._position += size
        self.bytes_read += size
        self.reads += 1
        return data


def _chunk(kind: bytes, payload: bytes) -> bytes:
    return len(payload).to_bytes(4) + kind + payload + bytes(4)


def _riff(kind: bytes, payload: bytes) -> bytes:
    return kind + len(payload).to_bytes(4, "little") + payload


def _box(kind: bytes, payload: bytes) -> bytes:
    return (8 + len(payload)).to_bytes(4) + kind + payload


_PNG = samples.UPRIGHT["png"][:33]
_WEBP = b"RIFF\0\0\0\0WEBP" + _riff(b"VP8X", b"\x08\0\0\0\x05\0\0\x03\0\0")
_AVIF = _box(b"ftyp", b"avif\0\0\0\0avifmif1")
_ASSOCIATIONS = _box(b"ipma", bytes(4) + b"\0\x04\0\0" + b"\0\x09\x01\x81" * 200_000)
_META = _box(
    b"meta", bytes(4) + _box(b"pitm", bytes(4) + b"\0\1") + _box(b"iprp", _box(b"ipco", b"") + _ASSOCIATIONS)
)
_TIFF = b"MM\0*\0\0\0\x08\xff\xff" + bytes(12 * 65_535)
CRAFTED = {
    "jpeg: nothing but junk": (b"\xff\xd8\xff\xe0\0\2", b"\0"),
    "jpeg: junk without an end of fill bytes": (b"\xff\xd8", b"\xff"),
    "jpeg: junk between segments": (b"\xff\xd8", b"\xff\xe0\0\2" + bytes(19_000)),
    "jpeg: a byte of junk between segments": (b"\xff\xd8", b"\xff\xe0\0\2\0"),
    "jpeg: junk and bare markers": (b"\xff\xd8", b"\xff\x01" + b"\xff\0" * 9_000),
    "jpeg: segments": (b"\xff\xd8", b"\xff\xe1\xff\xff" + bytes(65_533)),
    "jpeg: frames": (b"\xff\xd8", b"\xff\xc0\xff\xff" + bytes(65_533)),
    "jpeg: bare markers": (b"\xff\xd8", b"\xff\x01"),
    "png: chunks": (_PNG, _chunk(b"tEXt", b"")),
    "png: orientations": (_PNG, _chunk(b"eXIf", _TIFF)),
    "gif: extensions": (b"GIF89a\1\0\1\0\0\0\0", b"!\xfe\0"),
    "gif: blocks": (b"GIF89a\1\0\1\0\0\0\0!\xfe", b"\x01\x01"),
    "webp: chunks": (_WEBP, _riff(b"ABCD", b"")),
    "webp: orientations": (_WEBP, _riff(b"EXIF", _TIFF)),
    "avif: boxes": (_AVIF, _box(b"free", b"")),
    "avif: boxes in the meta box": (_AVIF + _box(b"meta", bytes(4) + _box(b"free", b"") * 100_000), b"\0"),
    "avif: entries": (_AVIF + _META, b"\0"),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_little_is_read_of_a_crafted_file(name: str) -> None:
    source = Crafted(*CRAFTED[name])
    with pytest.raises(ImageUnreadable):
        measure(source)
    assert source.bytes_read < 5_000_000
    assert source.reads < 100_000


@pytest.mark.parametrize(
    "junk", [b"", b"\0", b"\xff", b"\xff\xff\0", b"\xff\0" * 300, bytes(511), bytes(30_000)]
)
def test_a_little_junk_between_segments_is_passed_over(junk: bytes) -> None:
    content = samples.UPRIGHT["jpeg"]
    frame = content.index(b"\xff\xc0")
    broken = content[:frame] + junk + content[frame:]
    assert measure(io.BytesIO(broken)) == Measured("jpeg", samples.WIDTH, samples.HEIGHT)


@pytest.mark.parametrize("places", [1, 2, 10])
def test_much_junk_is_no_jpeg(places: int) -> None:
    content = samples.UPRIGHT["jpeg"]
    frame = content.index(b"\xff\xc0")
    junk = (bytes(80_000 // places) + b"\xff\xe0\0\2") * places
    with pytest.raises(ImageUnreadable, match="no marker"):
        measure(io.BytesIO(content[:frame] + junk + content[frame:]))
