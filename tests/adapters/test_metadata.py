"""What is taken out of images and what stays, whatever their format; see also test_metadata_formats.py."""

from __future__ import annotations

import io
import os
import struct
import tempfile
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageSequence, PngImagePlugin
from tests import hostile
from tests.hostile import PROFILE, gif_with, png_chunk, saved

from watchly_adapters.metadata import clean
from watchly_adapters.testing import samples
from watchly_core.errors import ImageRejected, ImageTooLarge, ImageTypeUnsupported, ImageUnreadable

#: Nothing that the cleaned image holds may say so.
SECRET = b"SECRETPLACE"

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><dc:title>' + SECRET * 20 + b"</dc:title></x:xmpmeta>"
COMMENT = SECRET * 30


def cleaned(content: bytes) -> bytes:
    """What `clean` leaves, and leaves alone when it comes again."""
    source = io.BytesIO(content)
    size = clean(source)
    assert source.tell() == 0
    once = source.getvalue()
    assert len(once) == size
    assert clean(source) == size
    assert source.getvalue() == once
    return once


def camera_exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = exif[0x9286] = exif[0x013B] = SECRET.decode()
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.5), 3: "E", 4: (13.0, 24.0, 17.25), 28: SECRET})
    return exif


def dressed(format_: str, **options: object) -> bytes:
    """An image of two colours with a profile and all the metadata that Pillow writes."""
    if format_ == "avif":
        options["speed"] = 10
    if format_ == "png":
        info = PngImagePlugin.PngInfo()
        info.add_text("Comment", SECRET.decode())
        info.add_text("Location", SECRET.decode() * 50, zip=True)
        info.add_itxt("Ort", SECRET.decode(), "de", SECRET.decode(), zip=True)
        info.add_itxt("XML:com.adobe.xmp", XMP.decode())
        info.add(b"tIME", struct.pack(">HBBBBB", 2024, 5, 6, 7, 8, 9))
        info.add(b"prVt", SECRET)
        info.add(b"teXt", SECRET, after_idat=True)
        options["pnginfo"] = info
    if format_ in {"gif", "jpeg"}:
        options["comment"] = COMMENT
    if format_ != "gif":
        options |= {"icc_profile": PROFILE, "xmp": XMP}
    # Pillow 13 dies of SIGSEGV saving an animated AVIF with an orientation.
    if format_ != "gif" and not (format_ == "avif" and options.get("save_all")):
        options["exif"] = camera_exif(6)
    return saved(hostile.quarters(), format_, **options)


def animation(format_: str) -> bytes:
    others = [hostile.quarters(mirrored=True), hostile.quarters()]
    return dressed(format_, save_all=True, append_images=others, duration=[70, 90, 110], loop=3)


DRESSED = {
    "jpeg": dressed("jpeg"),
    "jpeg progressive": dressed("jpeg", progressive=True, quality=95),
    "png": dressed("png"),
    "gif": dressed("gif"),
    "webp": dressed("webp"),
    "webp lossless": dressed("webp", lossless=True),
    "avif": dressed("avif"),
    **{f"{format_} animated": animation(format_) for format_ in ("png", "gif", "webp", "avif")},
}
EVERYTHING = {
    **hostile.SHOWN,
    **samples.UPRIGHT,
    **{f"{name} turned": c for name, c in samples.TURNED.items()},
}


def frames(content: bytes) -> list[tuple[str, tuple[int, int], bytes, object, object]]:
    """The pictures of an image, and how long and how often they are shown."""
    with Image.open(io.BytesIO(content)) as image:
        return [
            (frame.mode, frame.size, frame.tobytes(), frame.info.get("duration"), frame.info.get("loop"))
            for frame in ImageSequence.Iterator(image)
        ]


def shown(content: bytes) -> tuple[object, ...]:
    """What matters of an image beside its pictures: orientation, and whatever colours depend on."""
    with Image.open(io.BytesIO(content)) as image:
        info = image.info
        kept = (
            "icc_profile",
            "gamma",
            "chromaticity",
            "srgb",
            "transparency",
            "background",
            "adobe_transform",
        )
        return (image.getexif().get(0x0112, 1), image.getpalette(), *(info.get(name) for name in kept))


@pytest.mark.parametrize("name", DRESSED)
def test_nothing_is_left_that_says_where_an_image_was_taken(name: str) -> None:
    content = DRESSED[name]
    assert SECRET in content

    left = cleaned(content)

    assert SECRET not in left
    with Image.open(io.BytesIO(left)) as image:
        image.load()
        exif = image.getexif()
        assert set(exif) <= {0x0112}
        assert not exif.get_ifd(0x8825)
        assert not getattr(image, "text", None)
        assert not any(image.info.get("xmp", b""))
        assert not any(image.info.get("comment", b""))


@pytest.mark.parametrize("name", [*DRESSED, *EVERYTHING])
def test_what_is_shown_stays(name: str) -> None:
    content = DRESSED.get(name) or EVERYTHING[name]
    left = cleaned(content)
    assert frames(left) == frames(content)
    if name != "avif":  # its pixels are turned by a property, which Pillow tells by adding EXIF data
        assert shown(left) == shown(content)


@pytest.mark.parametrize("name", [name for name in DRESSED if not name.startswith("gif")])
def test_the_profile_stays(name: str) -> None:
    with Image.open(io.BytesIO(cleaned(DRESSED[name]))) as image:
        assert image.info["icc_profile"] == PROFILE


@pytest.mark.parametrize("format_", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_stays(format_: str, orientation: int) -> None:
    content = saved(hostile.quarters(), format_, exif=camera_exif(orientation))
    with Image.open(io.BytesIO(cleaned(content))) as image:
        assert dict(image.getexif()) == ({0x0112: orientation} if orientation > 1 else {})


@pytest.mark.parametrize("name", EVERYTHING)
def test_nothing_changes_its_size(name: str) -> None:
    assert len(cleaned(EVERYTHING[name])) == len(EVERYTHING[name])


@pytest.mark.parametrize(
    "name", [name for name, file in hostile.CORPUS.items() if file.seen_in == "structure"]
)
def test_bad_structure_is_refused(name: str) -> None:
    file = hostile.CORPUS[name]
    expected = ImageTooLarge if file.statuses == {413} else ImageUnreadable
    with pytest.raises(expected, match=r"^the (png|gif|jpeg|webp|avif) "):
        clean(io.BytesIO(file.content))


@pytest.mark.parametrize("name", [name for name, file in hostile.CORPUS.items() if file.seen_in == "pixels"])
def test_bad_pixels_are_left_to_the_decoder(name: str) -> None:
    assert cleaned(hostile.CORPUS[name].content)


@pytest.mark.parametrize("name", hostile.HIDING)
def test_what_hides_in_an_image_is_gone_and_the_image_is_not(name: str) -> None:
    content = hostile.HIDING[name]
    assert hostile.harmful(content)
    left = cleaned(content)
    assert not hostile.harmful(left)
    assert len(left) == len(content)
    with Image.open(io.BytesIO(left)) as image:
        image.load()
        assert "icc_profile" not in image.info or image.info["icc_profile"] == PROFILE


@pytest.mark.parametrize("content", [b"", b"\xff", b"<svg/>", b"%PDF-1.7", b"GIF88a" + bytes(30)])
def test_what_is_no_image_is_of_no_supported_type(content: bytes) -> None:
    with pytest.raises(ImageTypeUnsupported):
        clean(io.BytesIO(content))


@pytest.mark.parametrize("name", [*samples.UPRIGHT, *DRESSED])
def test_a_file_cut_anywhere_is_refused(name: str) -> None:
    content = DRESSED.get(name) or samples.UPRIGHT[name]
    for length in range(0, len(content), max(1, len(content) // 700)):
        source = io.BytesIO(content[:length])
        with pytest.raises(ImageRejected):
            clean(source)
        assert source.tell() == 0


def with_sound_checksums(content: bytearray) -> bytearray:
    """A PNG whose chunks were changed, made to look as if they had been written like this."""
    sound, at = bytearray(content), 8
    while at + 12 <= len(sound):
        end = at + 8 + int.from_bytes(sound[at : at + 4])
        if end + 4 > len(sound):
            break
        sound[end : end + 4] = zlib.crc32(sound[at + 4 : end]).to_bytes(4)
        at = end + 4
    return sound


MUTATED = st.sampled_from([*samples.UPRIGHT.values(), *samples.TURNED.values(), *DRESSED.values()])
CHANGES = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.sampled_from([0, 1, 4]),
        st.sampled_from([b"\0", b"\xff", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\1", b";", b"!"])
        | st.binary(min_size=1, max_size=8),
    ),
    max_size=6,
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=400)
@given(MUTATED, CHANGES, st.floats(0.5, 1.5))
def test_broken_bytes_are_cleaned_or_refused_and_nothing_else(
    content: bytes, changes: list[tuple[float, int, bytes]], cut: float
) -> None:
    broken = bytearray(content)
    for place, removed, data in changes:
        at = int(place * len(broken))
        broken[at : at + (removed or len(data))] = data
    broken = broken[: int(cut * len(broken))]
    if broken[:4] == b"\x89PNG":
        broken = with_sound_checksums(broken)
    with suppress(ImageRejected):
        cleaned(bytes(broken))


@given(MUTATED.map(lambda content: content[:32]), st.binary(max_size=300))
def test_bytes_after_a_signature_are_cleaned_or_refused_and_nothing_else(head: bytes, tail: bytes) -> None:
    with suppress(ImageRejected):
        cleaned(head + tail)


def many_frames(format_: str, count: int) -> bytes:
    if format_ == "gif":
        return gif_with(frames=count)
    first = hostile.quarters().resize((4, 4))
    others = [first.rotate(180 * index) for index in range(1, count)]
    return saved(first, format_, save_all=True, append_images=others, lossless=True, duration=20)


@pytest.mark.parametrize("format_", ["gif", "png", "webp"])
def test_a_thousand_pictures_are_the_most(format_: str) -> None:
    assert len(frames(cleaned(many_frames(format_, 1_000)))) == 1_000
    with pytest.raises(ImageTooLarge, match="more than 1,000 pictures"):
        clean(io.BytesIO(many_frames(format_, 1_001)))


def large_files() -> Iterator[tuple[str, tuple[bytes, bytes, bytes]]]:
    """Files by a start, what is in them again and again, and an end."""
    noise = os.urandom(65_533)
    png, jpeg, gif, webp = (samples.UPRIGHT[name] for name in ("png", "jpeg", "gif", "webp lossless"))
    at = gif.index(b",", 13 + 12)
    yield "png pixels", (png[:33], png_chunk(b"IDAT", noise[:8_192]), png[-12:])
    yield "png text", (png[:33], png_chunk(b"tEXt", noise), png[33:])
    yield "jpeg pixels", (jpeg[:-2], noise.replace(b"\xff", b"\xff\0"), b"\xff\xd9")
    yield "jpeg segments", (jpeg[:2], b"\xff\xe4\xff\xff" + noise, jpeg[2:])
    yield "jpeg stray bytes", (jpeg[:2], b"\xff" + noise.replace(b"\xff", b""), jpeg[2:])
    yield "jpeg and more", (jpeg, noise, b"")
    yield "gif pixels", (gif[: at + 11], b"\xff" + noise[:255], gif[-2:])
    yield "gif comment", (gif[:at] + b"!\xfe", b"\xff" + noise[:255], b"\0" + gif[at:])
    chunk = b"abcd" + struct.pack("<L", 65_532) + noise[:65_532]
    count = 30_000_000 // len(chunk) + 1
    riff = b"RIFF" + struct.pack("<L", len(webp) - 8 + count * len(chunk)) + webp[8:]
    yield "webp chunks", (riff, chunk, b"")
    yield "avif box", (samples.UPRIGHT["avif"], struct.pack(">L", 65_537) + b"skip" + noise[:65_529], b"")


LARGE = dict(large_files())


@pytest.mark.parametrize("name", LARGE)
def test_a_large_file_takes_little_memory(name: str) -> None:
    start, repeated, end = LARGE[name]
    with tempfile.TemporaryFile() as source:
        source.write(start)
        for _ in range(30_000_000 // len(repeated) + 1):
            source.write(repeated)
        source.write(end)
        tracemalloc.start()
        try:
            size = clean(source)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert size == os.fstat(source.fileno()).st_size
    assert peak < 3_000_000


MANY_PARTS: dict[str, Callable[[], bytes]] = {
    "png": lambda: hostile.png_with(png_chunk(b"tEXt") * 200_001),
    "gif": lambda: gif_with(b"!\xfe\0" * 200_001),
    "gif sub-blocks": lambda: gif_with(b"!\xfe" + b"\1\1" * 10_200_000 + b"\0"),
    "jpeg": lambda: b"\xff\xd8" + b"\xff\xfe\0\2" * 200_001 + samples.UPRIGHT["jpeg"][2:],
    "avif": lambda: samples.UPRIGHT["avif"] + b"\0\0\0\x08free" * 200_001,
}


@pytest.mark.parametrize("name", MANY_PARTS)
def test_a_file_of_nothing_but_parts_is_refused(name: str) -> None:
    with pytest.raises(ImageUnreadable, match="too many parts"):
        clean(io.BytesIO(MANY_PARTS[name]()))


@pytest.mark.parametrize("most_in_memory", [100, 10_000_000])
def test_spooled_files_are_cleaned(most_in_memory: int) -> None:
    with tempfile.SpooledTemporaryFile(max_size=most_in_memory) as source:
        source.write(DRESSED["jpeg"] + SECRET)
        assert clean(source) == len(DRESSED["jpeg"])
        assert source.read() == cleaned(DRESSED["jpeg"])


def test_what_was_cleaned_can_be_read_by_another_descriptor_at_once() -> None:
    with tempfile.NamedTemporaryFile() as source:
        source.write(DRESSED["gif"])
        clean(source)
        assert Path(source.name).read_bytes() == cleaned(DRESSED["gif"])
