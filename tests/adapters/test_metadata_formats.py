"""The formats' own ways of keeping what nobody needs to see, and of breaking."""

from __future__ import annotations

import io
import re
import struct
import zlib

import pytest
from PIL import Image
from tests.hostile import (
    PROFILE,
    SCRIPT,
    extended,
    gif_with,
    jpeg_segment,
    png_chunk,
    png_with,
    quarters,
    riff,
    riff_chunk,
    saved,
)

from watchly_adapters.headers import measure
from watchly_adapters.metadata import clean
from watchly_adapters.testing import samples
from watchly_core.errors import ImageTooLarge, ImageUnreadable

PNG, GIF, JPEG = (samples.UPRIGHT[name] for name in ("png", "gif", "jpeg"))
WEBP, AVIF = samples.UPRIGHT["webp lossless"], samples.UPRIGHT["avif"]


def cleaned(content: bytes) -> bytes:
    source = io.BytesIO(content)
    size = clean(source)
    once = source.getvalue()
    assert len(once) == size
    assert clean(source) == size
    assert source.getvalue() == once
    return once


def refused(content: bytes, because: str) -> None:
    with pytest.raises(ImageUnreadable, match=because):
        clean(io.BytesIO(content))


def pixels(content: bytes) -> bytes:
    with Image.open(io.BytesIO(content)) as image:
        return image.convert("RGBA").tobytes()


def orientation(content: bytes) -> int:
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        value = image.getexif().get(0x0112, 1)
        assert isinstance(value, int)
        return value


# JPEG


@pytest.mark.parametrize(
    "secret",
    [
        jpeg_segment(0xE0, b"JFXX\0\x10" + JPEG),
        jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>"),
        jpeg_segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + b"0" * 40 + b"<x/>"),
        jpeg_segment(0xE2, b"MPF\0MM\0*" + bytes(40)),
        jpeg_segment(0xEB, b"JP\0\1" + b"made by"),
        jpeg_segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04Berlin"),
        jpeg_segment(0xEF, b"anything"),
        jpeg_segment(0xFE, b"a comment"),
        jpeg_segment(0xF7, b"of a later standard"),
    ],
    ids=[
        "preview",
        "xmp",
        "extended xmp",
        "more pictures",
        "provenance",
        "iptc",
        "other",
        "comment",
        "unknown",
    ],
)
def test_segments_that_do_not_matter_are_emptied(secret: bytes) -> None:
    for at in (2, JPEG.index(b"\xff\xda")):
        left = cleaned(JPEG[:at] + secret + JPEG[at:])
        assert left == JPEG[:at] + secret[:4] + bytes(len(secret) - 4) + JPEG[at:]


def test_a_jpeg_loses_the_preview_in_its_first_segment() -> None:
    head = b"JFIF\0\1\1\1\0\x48\0\x48"
    left = cleaned(JPEG[:2] + jpeg_segment(0xE0, head + b"\2\1" + b"sixbyt") + JPEG[20:])
    assert left == JPEG[:2] + jpeg_segment(0xE0, head + bytes(8)) + JPEG[20:]


def profile_in_jpeg(parts: int, size: int = len(PROFILE)) -> list[bytes]:
    """The segments of a profile of so many parts and bytes."""
    profile, step = PROFILE[:size].ljust(size, b"\0"), -(-size // parts)
    return [
        jpeg_segment(0xE2, b"ICC_PROFILE\0" + bytes([number, parts]) + profile[step * (number - 1) :][:step])
        for number in range(1, parts + 1)
    ]


@pytest.mark.parametrize(
    "kept",
    [
        profile_in_jpeg(1),
        profile_in_jpeg(3),
        profile_in_jpeg(3)[::-1],
        [jpeg_segment(0xEE, b"Adobe\0d\0\0\0\0\1")],
    ],
)
def test_a_jpeg_keeps_what_its_colours_depend_on(kept: list[bytes]) -> None:
    content = JPEG[:20] + b"".join(kept) + JPEG[20:]
    assert cleaned(content) == content


@pytest.mark.parametrize(
    "broken",
    [
        profile_in_jpeg(3)[1:],
        profile_in_jpeg(3)[:2],
        profile_in_jpeg(1) * 2,
        profile_in_jpeg(2, len(PROFILE) - 1),
        profile_in_jpeg(1, len(PROFILE) + 4),
        profile_in_jpeg(1, 100),
    ],
)
def test_what_is_no_whole_profile_is_emptied(broken: list[bytes]) -> None:
    emptied = [part[:4] + bytes(len(part) - 4) for part in broken]
    left = cleaned(JPEG[:20] + b"".join(broken) + JPEG[20:])
    assert left == JPEG[:20] + b"".join(emptied) + JPEG[20:]
    assert pixels(left) == pixels(JPEG)


def test_a_profile_after_the_pixels_of_a_jpeg_is_emptied() -> None:
    left = cleaned(JPEG[:-2] + profile_in_jpeg(1)[0] + JPEG[-2:])
    assert b"ICC_PROFILE" not in left


def test_a_height_after_the_pixels_becomes_a_comment() -> None:
    left = cleaned(JPEG[:-2] + jpeg_segment(0xDC, b"\0\4") + JPEG[-2:])
    assert left == JPEG[:-2] + jpeg_segment(0xFE, b"\0\0") + JPEG[-2:]


@pytest.mark.parametrize("after", [b"\0", SCRIPT, b"PK\3\4", JPEG, b"\0\0\0\x18ftypmp42" + bytes(9000)])
def test_what_follows_a_jpeg_is_cut(after: bytes) -> None:
    assert cleaned(JPEG + after) == JPEG


@pytest.mark.parametrize("stray", [b"\0", b"<?php x ?>", b"\xff", b"\xff\0\xff", b"\xff\0" * 400 + SCRIPT])
def test_stray_bytes_between_segments_become_filling(stray: bytes) -> None:
    at = JPEG.index(b"\xff\xdb")
    left = cleaned(JPEG[:at] + stray + JPEG[at:])
    assert left == JPEG[:at] + b"\xff" * len(stray) + JPEG[at:]
    assert pixels(left) == pixels(JPEG)


def test_the_first_orientation_of_a_jpeg_counts() -> None:
    exif = [jpeg_segment(0xE1, b"Exif\0\0" + samples.exif(turn)) for turn in (6, 3)]
    left = cleaned(JPEG[:2] + b"".join(exif) + JPEG[2:])
    assert left == JPEG[:2] + exif[0] + exif[1][:4] + bytes(len(exif[1]) - 4) + JPEG[2:]


def test_an_orientation_after_the_pixels_of_a_jpeg_does_not_count() -> None:
    exif = jpeg_segment(0xE1, b"Exif\0\0" + samples.exif(6))
    left = cleaned(JPEG[:-2] + exif + JPEG[-2:])
    assert left == JPEG[:-2] + exif[:4] + bytes(len(exif) - 4) + JPEG[-2:]


def test_restarts_and_many_scans_are_walked() -> None:
    picture = quarters().resize((200, 200))
    content = saved(picture, "jpeg", progressive=True, restart_marker_blocks=3, quality=95)
    assert content.count(b"\xff\xda") > 3
    assert content.count(b"\xff\xd3") > 3
    assert cleaned(content) == content


@pytest.mark.parametrize(
    ("content", "because"),
    [
        (JPEG[:2] + b"\xff\xd8" + JPEG[2:], "starts again"),
        (JPEG[:20] + b"\xff\xfe\0\1" + JPEG[20:], "impossible size"),
        (JPEG[:20] + b"\xff\xfe\xff\xff" + JPEG[20:], "ends too early"),
        (JPEG[:-2], "ends too early"),
        (JPEG[:20] + b"\xff\xd9", "no pixels"),
        (JPEG[: JPEG.index(b"\xff\xda")] + b"\xff\xd9", "no pixels"),
        (JPEG[:20] + JPEG[JPEG.index(b"\xff\xda") :], "no pixels"),
    ],
)
def test_a_broken_jpeg_is_refused(content: bytes, because: str) -> None:
    refused(content, because)


# EXIF


def ifd(*entries: tuple[int, int, int, int], order: str = "<") -> bytes:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    table = b"".join(struct.pack(f"{order}HHLHH", *entry, 0) for entry in entries)
    return mark + struct.pack(f"{order}LH", 8, len(entries)) + table + bytes(4)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("format_", ["jpeg", "png"])
def test_of_exif_data_the_orientation_is_left(format_: str, order: str) -> None:
    exif = ifd((0x0100, 3, 1, 77), (0x0112, 3, 1, 8), (0x0131, 3, 1, 99), order=order) + b"SECRETPLACE"
    content = saved(quarters(), format_, exif=b"Exif\0\0" + exif)
    assert b"SECRETPLACE" in content
    left = cleaned(content)
    at = left.index(samples.exif(8))
    assert left[at + 26 : at + len(exif)] == bytes(len(exif) - 26)
    with Image.open(io.BytesIO(left)) as image:
        assert dict(image.getexif()) == {0x0112: 8}
    assert measure(io.BytesIO(left)) == measure(io.BytesIO(content))


@pytest.mark.parametrize("exif", [b"", b"II*\0", b"garbage", ifd((0x0112, 3, 1, 9)), ifd((0x0112, 3, 1, 1))])
def test_exif_data_without_an_orientation_go(exif: bytes) -> None:
    left = cleaned(png_with(png_chunk(b"eXIf", exif)))
    assert left == png_with(png_chunk(b"waTc", bytes(len(exif))))


def test_exif_data_that_leave_no_room_for_the_orientation_are_refused() -> None:
    refused(png_with(png_chunk(b"eXIf", b"MM\0*\0\0\0\6\1\x12\0\3\0\0\0\1\0\6\0\0")), "contradict")


# PNG


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt", b"tIME", b"iDOT", b"caBX", b"waTc", b"npTc"])
def test_chunks_that_do_not_matter_become_filling(kind: bytes) -> None:
    chunk, filling = png_chunk(kind, b"Comment\0" + SCRIPT), png_chunk(b"waTc", bytes(8 + len(SCRIPT)))
    assert cleaned(png_with(chunk)) == png_with(filling)
    assert cleaned(PNG[:-12] + chunk + PNG[-12:]) == PNG[:-12] + filling + PNG[-12:]


KEPT = {
    b"gAMA": 4,
    b"cHRM": 32,
    b"sRGB": 1,
    b"pHYs": 9,
    b"bKGD": 6,
    b"tRNS": 6,
    b"sBIT": 3,
    b"cICP": 4,
    b"mDCV": 24,
    b"cLLI": 8,
}


@pytest.mark.parametrize("kind", KEPT)
def test_chunks_that_say_how_a_png_is_shown_stay_unless_they_are_too_long(kind: bytes) -> None:
    content = png_with(png_chunk(kind, b"x" * KEPT[kind]))
    assert cleaned(content) == content
    assert cleaned(png_with(png_chunk(kind, SCRIPT * 20))) == png_with(
        png_chunk(b"waTc", bytes(20 * len(SCRIPT)))
    )


def test_a_sound_profile_stays_and_a_broken_one_goes() -> None:
    profile = b"name\0\0" + zlib.compress(PROFILE)
    kept = png_with(png_chunk(b"iCCP", b"iiii" + profile[4:]))
    assert cleaned(png_with(png_chunk(b"iCCP", profile))) == kept
    for broken in (
        profile[:-1],
        profile + b"x",
        b"name\0\0" + zlib.compress(PROFILE + b"more"),
        b"name\0\0" + zlib.compress(PROFILE[:-1]),
        b"n" * 80 + profile[4:],
        profile[4:],
        b"name",
        b"name\0\0" + SCRIPT,
        b"",
    ):
        assert cleaned(png_with(png_chunk(b"iCCP", broken))) == png_with(
            png_chunk(b"waTc", bytes(len(broken)))
        )


@pytest.mark.parametrize("size", [1_000_000, 1_048_577, 5_000_000])
def test_compressed_texts_have_a_largest_size(size: int) -> None:
    texts = zlib.compress(bytes(size))
    for chunk in (png_chunk(b"zTXt", b"a\0\0" + texts), png_chunk(b"iTXt", b"a\0\1\0de\0b\0" + texts)):
        if size > 1_048_576:
            refused(png_with(chunk), "grows beyond all measure")
        else:
            assert cleaned(png_with(chunk))


def test_an_orientation_after_the_pixels_of_a_png_does_not_count() -> None:
    late = PNG[:-12] + png_chunk(b"eXIf", samples.exif(6)) + PNG[-12:]
    assert measure(io.BytesIO(late)) == measure(io.BytesIO(PNG))
    assert cleaned(late) == PNG[:-12] + png_chunk(b"waTc", bytes(26)) + PNG[-12:]


def test_the_first_orientation_of_a_png_counts() -> None:
    first, second = (png_chunk(b"eXIf", samples.exif(turn)) for turn in (6, 3))
    assert cleaned(png_with(first, second)) == png_with(first, png_chunk(b"waTc", bytes(26)))


@pytest.mark.parametrize(
    ("content", "because"),
    [
        (PNG[:8] + PNG[33:], "one sound IHDR"),
        (PNG[:33] + PNG[8:], "one sound IHDR"),
        (PNG[:8] + png_chunk(b"IHDR", PNG[16:28]) + PNG[33:], "one sound IHDR"),
        (PNG[:8] + png_chunk(b"IHDR", PNG[16:29] + b"\0") + PNG[33:], "one sound IHDR"),
        (png_with(png_chunk(b"PLTE", b"")), "palette"),
        (png_with(png_chunk(b"PLTE", bytes(4))), "palette"),
        (png_with(png_chunk(b"PLTE", bytes(771))), "PLTE chunk that it cannot have"),
        (png_with(png_chunk(b"PLTE", bytes(3)) * 2), "palette"),
        (PNG[:-12] + png_chunk(b"PLTE", bytes(3)) + PNG[-12:], "palette"),
        (png_with(png_chunk(b"ABCD")), "ABCD chunk that it cannot have"),
        (png_with(png_chunk(b"a-Bc")), "between its chunks"),
        (png_with(b"\x80\0\0\0abCd"), "between its chunks"),
        (png_with(b"\x7f\xff\xff\xffabCd"), "ends too early"),
        (PNG[:33] + PNG[-12:], "no pixels"),
        (PNG[:-12] + png_chunk(b"IEND", b"x"), "IEND chunk that it cannot have"),
        (png_with(png_chunk(b"tEXt", b"a")[:-1] + b"?"), "tEXt chunk with a wrong checksum"),
    ],
)
def test_a_broken_png_is_refused(content: bytes, because: str) -> None:
    refused(content, because)


def test_an_animation_that_claims_too_many_pictures_is_too_large() -> None:
    assert cleaned(png_with(png_chunk(b"acTL", struct.pack(">LL", 1_000, 0))))
    with pytest.raises(ImageTooLarge):
        clean(io.BytesIO(png_with(png_chunk(b"acTL", struct.pack(">LL", 1_001, 0)))))


def frames_of(content: bytes) -> int:
    with Image.open(io.BytesIO(content)) as image:
        for index in range(frames := getattr(image, "n_frames", 1)):
            image.seek(index)
            image.load()
        return frames


def test_pictures_that_an_animation_does_not_announce_go() -> None:
    content = saved(quarters(), "png", save_all=True, append_images=[quarters(mirrored=True), quarters()])
    assert cleaned(content) == content
    at = content.index(b"acTL") - 4
    fewer = content[:at] + png_chunk(b"acTL", struct.pack(">LL", 2, 0)) + content[at + 20 :]
    left = cleaned(fewer)
    assert frames_of(left) == frames_of(fewer) == 2
    assert (content.count(b"fcTL"), left.count(b"fcTL"), left.count(b"fdAT")) == (3, 2, 1)


def test_a_second_announcement_of_an_animation_goes() -> None:
    content = saved(quarters(), "png", save_all=True, append_images=[quarters(mirrored=True)])
    announced = png_chunk(b"acTL", struct.pack(">LL", 9, 0))
    at = content.index(b"acTL") + 16
    filling = png_chunk(b"waTc", bytes(8))
    assert cleaned(content[:at] + announced + content[at:]) == content[:at] + filling + content[at:]


# GIF


def chain(*data: bytes) -> bytes:
    return b"".join(bytes([len(part)]) + part for part in data) + b"\0"


@pytest.mark.parametrize("length", [*range(1, 300, 7), *range(480, 560), 5_000, 600_000])
def test_text_that_lies_across_sub_blocks_goes(length: int) -> None:
    """XMP data are no chain: what follows them counts down, and ends it wherever a reader lands."""
    text = (b"SECRETPLACE" * length)[:length] + b"\x01" + bytes(range(255, -1, -1)) + b"\0"
    content = gif_with(b"!\xff\x0bXMP DataXMP" + text)
    left = cleaned(content)
    assert len(left) == len(content)
    assert not re.search(rb"[A-Z]{4}", left[6:])
    assert pixels(left) == pixels(GIF)


@pytest.mark.parametrize("first", [(), (b"x" * 255,)], ids=["short", "long"])
def test_comments_of_every_length_become_zeros(first: tuple[bytes, ...]) -> None:
    for length in range(1, 256):
        for data in ((*first, b"x" * length), (*first, *(b"x",) * length)):
            left = cleaned(gif_with(b"!\xfe" + chain(*data), b"!\xfe" + chain(b"x" * 9)))
            assert left.count(b"x") <= 1  # the length of a sub-block may look like that
            assert pixels(left) == pixels(GIF)


LOOP = b"!\xff\x0bNETSCAPE2.0" + chain(b"\1\3\0")
CONTROL = b"!\xf9" + chain(b"\0\x0a\0\0")


@pytest.mark.parametrize(
    "kept",
    [
        LOOP,
        b"!\xff\x0bANIMEXTS1.0" + chain(b"\1\0\0"),
        b"!\xff\x0bNETSCAPE2.0" + chain(b"\1\3\0", b"\2\0\0\1\0"),
        b"!\xff\x0bICCRGBG1012" + chain(*(PROFILE[at : at + 200] for at in range(0, len(PROFILE), 200))),
        CONTROL,
    ],
)
def test_extensions_that_say_how_a_gif_is_shown_stay(kept: bytes) -> None:
    assert cleaned(gif_with(kept)) == gif_with(kept)


@pytest.mark.parametrize(
    "extension",
    [
        b"!\xff\x0bNETSCAPE2.0" + chain(b"\1\3\0", SCRIPT),
        b"!\xff\x0bNETSCAPE2.0" + chain(SCRIPT),
        b"!\xff\x0bICCRGBG1012" + chain(SCRIPT),
        b"!\xff\x0bICCRGBG1012" + chain(PROFILE[:200]),
        b"!\xff\x0bMGK8BIM0000" + chain(SCRIPT),
        b"!\xff" + chain(SCRIPT),
        b"!\x01" + chain(bytes(12), SCRIPT),
        b"!\x77" + chain(SCRIPT),
        b"!\xf9" + chain(SCRIPT),
    ],
)
def test_other_extensions_of_a_gif_become_comments_of_zeros(extension: bytes) -> None:
    left = cleaned(gif_with(extension, LOOP))
    covered = len(extension) - 4
    assert left == gif_with(b"!\xfe" + chain(bytes(covered)), LOOP)
    assert pixels(left) == pixels(GIF)


@pytest.mark.parametrize(
    ("content", "because"),
    [
        (GIF[: GIF.index(b",", 25)] + b";", "no pixels"),
        (gif_with(b"x"), "between its blocks"),
        (gif_with(b"!")[:26], "ends too early"),
        (GIF[:-1], "ends too early"),
        (GIF[:-1] + b"!\xfe\xff;", "ends too early"),
        (GIF[:-2] + b";", "ends too early"),
        (GIF + bytes(65), "followed"),
        (GIF + b"<?= 1", "followed"),
        (GIF + b"\0//xy", "followed"),
        (GIF + b"PK\3\4\x14" + bytes(25) + b"a.sh", "followed"),
    ],
)
def test_a_broken_gif_is_refused(content: bytes, because: str) -> None:
    refused(content, because)


@pytest.mark.parametrize(
    "after", [b"\0", b";", bytes(64), b"\x1a\x14\0;;\xba\nD\x14\0\0;;", b"PK\5\6" + bytes(18), b"\r\n"]
)
def test_a_few_bytes_that_follow_a_gif_are_cut(after: bytes) -> None:
    assert cleaned(GIF + after) == GIF


# WebP


PICTURE = WEBP[12:]


def test_chunks_that_do_not_matter_go_and_are_no_longer_announced() -> None:
    exif = riff_chunk(b"EXIF", ifd((0x0131, 3, 1, 7)))
    content = riff(
        extended(0x2C),
        riff_chunk(b"ICCP", PROFILE),
        PICTURE,
        exif,
        riff_chunk(b"XMP ", b"<x/>x"),
        riff_chunk(b"what", SCRIPT),
    )
    left = cleaned(content)
    junk = [riff_chunk(b"JUNK", bytes(size)) for size in (26, 5, len(SCRIPT))]
    assert left == riff(extended(0x20), riff_chunk(b"ICCP", PROFILE), PICTURE, *junk)


@pytest.mark.parametrize("profile", [b"", SCRIPT, PROFILE[:-1], PROFILE + b"more"])
def test_what_is_no_profile_is_no_longer_announced(profile: bytes) -> None:
    left = cleaned(riff(extended(0x20), riff_chunk(b"ICCP", profile), PICTURE))
    assert left == riff(extended(0), riff_chunk(b"JUNK", bytes(len(profile))), PICTURE)


def test_a_webp_has_one_profile() -> None:
    profile = riff_chunk(b"ICCP", PROFILE)
    left = cleaned(riff(extended(0x20), profile, profile, PICTURE))
    assert left == riff(extended(0x20), profile, riff_chunk(b"JUNK", bytes(len(PROFILE))), PICTURE)


def test_transparency_stays_where_it_is_announced_and_belongs_to_pixels() -> None:
    image = quarters()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    for options in ({}, {"save_all": True, "append_images": [quarters(mirrored=True)]}):
        content = saved(image, "webp", **options)
        assert b"ALPH" in content
        assert cleaned(content) == content
    other = riff_chunk(b"ALPH", SCRIPT)
    content = saved(image, "webp")
    at = content.index(b"VP8X") + 8
    opaque = content[:at] + bytes([content[at] & ~0x10]) + content[at + 1 :]
    assert b"ALPH" not in cleaned(opaque)
    assert pixels(cleaned(opaque)) == pixels(opaque)
    assert pixels(cleaned(riff(content[12:30], other, content[30:]))) == pixels(content)


def test_what_follows_the_settings_of_an_animation_goes() -> None:
    content = saved(quarters(), "webp", save_all=True, append_images=[quarters(mirrored=True)])
    at = content.index(b"ANIM")
    settings = content[at + 8 : at + 14]
    longer = riff(content[12:at], riff_chunk(b"ANIM", settings + SCRIPT), content[at + 14 :])
    assert cleaned(longer) == longer.replace(SCRIPT, bytes(len(SCRIPT)))


def test_an_orientation_of_a_webp_counts_if_it_is_announced() -> None:
    exif = riff_chunk(b"EXIF", samples.exif(6))
    announced = riff(extended(0x08), PICTURE, exif, exif)
    assert cleaned(announced) == riff(extended(0x08), PICTURE, exif, riff_chunk(b"JUNK", bytes(26)))
    assert orientation(cleaned(announced)) == 6
    assert cleaned(riff(extended(0), PICTURE, exif)) == riff(
        extended(0), PICTURE, riff_chunk(b"JUNK", bytes(26))
    )


def test_chunks_in_the_frames_of_a_webp_go() -> None:
    others = [quarters(mirrored=True)]
    content = saved(quarters(), "webp", save_all=True, append_images=others, lossless=True)
    at = content.index(b"ANMF")
    size = int.from_bytes(content[at + 4 : at + 8], "little")
    end = at + 8 + size + size % 2
    extra = riff_chunk(b"what", b"SECRETPLACE")
    frame = riff_chunk(b"ANMF", content[at + 8 : end] + extra)
    dressed = riff(content[12:at], frame, content[end:])
    left = cleaned(dressed)
    assert left == dressed.replace(extra, riff_chunk(b"JUNK", bytes(11)))
    with Image.open(io.BytesIO(left)) as image:
        image.seek(1)
        image.load()


@pytest.mark.parametrize(
    "content",
    [
        riff(riff_chunk(b"VP8L", b"odds!")),
        riff(b"VP8L\5\0\0\0odds!"),
        riff(b"VP8L\5\0\0\0odds!") + b"\0",
    ],
    ids=["padded", "not padded", "padded after the end"],
)
def test_an_odd_last_chunk_of_a_webp_may_be_padded_or_not(content: bytes) -> None:
    assert cleaned(content) == content


@pytest.mark.parametrize(
    ("content", "because"),
    [
        (WEBP + b"\0\0", "followed"),
        (WEBP[:-2], "ends too early"),
        (riff(riff_chunk(b"VP8L", b"odds!"))[:-1], "ends too early"),
        (riff(PICTURE, b"abc"), "between its chunks"),
        (riff(b"VP8L\xff\0\0\0", PICTURE), "ends too late"),
        (riff(riff_chunk(b"VP8X", bytes(10))), "no pixels"),
        (riff(extended(2), riff_chunk(b"ANMF", bytes(16) + b"VP8L\xff\0\0\0")), "ends too late"),
        (b"RIFF\xff\xff\xff\xff" + WEBP[8:], "ends too early"),
    ],
)
def test_a_broken_webp_is_refused(content: bytes, because: str) -> None:
    refused(content, because)


# AVIF


def box(kind: bytes, *content: bytes) -> bytes:
    data = b"".join(content)
    return struct.pack(">L", 8 + len(data)) + kind + data


def found(content: bytes, *path: bytes) -> tuple[int, int]:
    """Where a box is, by the types of those that it is in."""
    at, end = 0, len(content)
    for kind in path:
        while content[at + 4 : at + 8] != kind:
            at += int.from_bytes(content[at : at + 4])
            assert at < end
        end = at + int.from_bytes(content[at : at + 4])
        at += {b"meta": 12, b"iinf": 14}.get(kind, 8)
    return at - {b"meta": 12, b"iinf": 14}.get(path[-1], 8), end


def part(content: bytes, *path: bytes) -> bytes:
    start, end = found(content, *path)
    return content[start:end]


def test_boxes_that_do_not_matter_are_freed() -> None:
    known = cleaned(AVIF)
    for kind in (b"free", b"skip", b"uuid", b"udta", b"what"):
        freed = box(b"free", bytes(len(SCRIPT)))
        assert cleaned(AVIF + box(kind, SCRIPT)) == known + freed
    last = b"\0\0\0\0uuid" + SCRIPT
    assert cleaned(AVIF + last) == known + b"\0\0\0\0free" + bytes(len(SCRIPT))
    large = struct.pack(">L4sQ", 1, b"skip", 16 + len(SCRIPT)) + SCRIPT
    assert cleaned(AVIF + large) == known + large[:4] + b"free" + large[8:16] + bytes(len(SCRIPT))


def test_media_data_that_no_picture_uses_are_overwritten() -> None:
    assert cleaned(AVIF + box(b"mdat", SCRIPT)) == cleaned(AVIF) + box(b"mdat", bytes(len(SCRIPT)))
    start, end = found(AVIF, b"mdat")
    grown = AVIF[:start] + box(b"mdat", AVIF[start + 8 : end], SCRIPT)
    assert cleaned(grown) == cleaned(AVIF)[:start] + box(b"mdat", AVIF[start + 8 : end], bytes(len(SCRIPT)))


def test_names_of_items_and_handlers_are_erased() -> None:
    left = cleaned(AVIF)
    assert b"Color" in AVIF
    assert left == AVIF.replace(b"Color", bytes(5))
    named = AVIF.replace(b"pict" + bytes(13), b"pict" + bytes(12) + b"x")
    assert named != AVIF
    assert cleaned(named) == left


def test_descriptions_among_the_properties_are_freed() -> None:
    # The property that says how many bits there are, which decoders can do without.
    content = AVIF.replace(b"\0\0\0\x10pixi", b"\0\0\0\x10udes")
    left = cleaned(content)
    start, end = found(left, b"meta", b"iprp", b"ipco")
    assert left[start:end].count(box(b"free", bytes(8))) == 1


def with_inner_data(*, version: int = 1, offset: int = 0) -> bytes:
    """The sample with its pixels in the meta box, after something else."""
    start, end = found(AVIF, b"mdat")
    data = AVIF[start + 8 : end]
    wide = "L" if version == 2 else "H"
    places = box(
        b"iloc",
        struct.pack(f">BxxxBB{wide}", version, 0x44, 0, 1),
        struct.pack(f">{wide}HHHLL", 1, 1, 0, 1, len(SCRIPT) + offset, len(data)),
    )
    kept = [part(AVIF, b"meta", kind) for kind in (b"hdlr", b"pitm", b"iinf", b"iprp")]
    return part(AVIF, b"ftyp") + box(b"meta", bytes(4), *kept, places, box(b"idat", SCRIPT, data))


@pytest.mark.parametrize("version", [1, 2])
def test_pixels_in_the_meta_box_stay(version: int) -> None:
    content = with_inner_data(version=version)
    assert pixels(content) == pixels(AVIF)
    left = cleaned(content)
    assert left == content.replace(SCRIPT, bytes(len(SCRIPT))).replace(b"Color", bytes(5))
    assert pixels(left) == pixels(AVIF)
    refused(with_inner_data(version=version, offset=1), "outside")


def with_alpha(**options: object) -> bytes:
    image = quarters()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return saved(image, "avif", speed=10, **options)


def test_a_preview_of_an_avif_goes() -> None:
    content = with_alpha()
    preview = content.replace(b"auxl", b"thmb")
    assert pixels(cleaned(content)) == pixels(content)
    left = cleaned(preview)
    assert left.count(b"av01") == content.count(b"av01") - 1
    start, end = found(left, b"mdat")
    assert left[start:end].count(0) > content[start:end].count(0) + 20
    assert pixels(left)[:3] == pixels(preview)[:3]


def animated(**options: object) -> bytes:
    others = [quarters(mirrored=True), quarters(), quarters(mirrored=True)]
    return saved(quarters(), "avif", speed=10, save_all=True, append_images=others, **options)


def test_times_and_descriptions_of_sequences_go() -> None:
    content = animated(xmp=b"SECRETPLACE")
    left = cleaned(content)
    assert b"SECRETPLACE" not in left
    start, _ = found(left, b"moov", b"mvhd")
    assert left[start + 12 : start + 28] == bytes(16)
    assert content[start + 12 : start + 28] != bytes(16)
    assert found(left, b"moov", b"trak", b"free") == found(content, b"moov", b"trak", b"meta")


def test_tracks_that_are_no_pictures_are_freed_with_their_data() -> None:
    content = animated()
    media = found(content, b"moov", b"trak", b"mdia", b"hdlr")[0] + 16
    assert content[media : media + 4] == b"pict"
    left = cleaned(content[:media] + b"soun" + content[media + 4 :])
    assert found(left, b"moov", b"free") == found(content, b"moov", b"trak")
    start, end = found(left, b"mdat")
    assert left[start + 8 : end].count(0) > content[start + 8 : end].count(0) + 40


@pytest.mark.parametrize("count", [1_000, 1_001, 2**32 - 1])
def test_a_sequence_of_too_many_pictures_is_too_large(count: int) -> None:
    content = animated()
    at = content.index(b"stsz") + 8
    content = content[:at] + struct.pack(">LL", 1, count) + content[at + 8 :]
    if count == 1_000:
        assert cleaned(content)
    else:
        with pytest.raises(ImageTooLarge, match="more than 1,000 pictures"):
            clean(io.BytesIO(content))


def test_a_sequence_in_several_chunks_stays() -> None:
    """Two chunks of two pictures, of which the second one is elsewhere."""
    content = animated()
    first = found(content, b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsz")[0]
    sizes = struct.unpack(">4L", content[first + 20 : first + 36])
    chunks = content.index(b"stco")
    old = int.from_bytes(content[chunks + 12 : chunks + 16])
    moov, _ = found(content, b"moov")
    assert content[chunks + 8 : chunks + 12] == b"\0\0\0\1"
    later = content[old + sum(sizes[:2]) : old + sum(sizes)]
    shift = 4
    table = box(b"stco", bytes(4), struct.pack(">LLL", 2, old + shift, len(content) + shift + 8))
    grown = content[: chunks - 4] + table + content[chunks + 16 :]
    for path in ([b"moov", b"trak", b"mdia", b"minf", b"stbl"][:depth] for depth in range(1, 6)):
        at = found(content, *path)[0]
        grown = grown[:at] + struct.pack(">L", int.from_bytes(grown[at : at + 4]) + shift) + grown[at + 4 :]
    runs = grown.index(b"stsc") + 12
    grown = grown[: runs + 4] + struct.pack(">L", 2) + grown[runs + 8 :]
    items = grown.index(b"iloc")
    # The first picture is an item as well: its place moves with what lies before it.
    grown = (
        grown[:items]
        + grown[items : items + 40].replace(struct.pack(">L", old), struct.pack(">L", old + shift))
        + grown[items + 40 :]
    )
    grown += box(b"mdat", later)
    assert moov < chunks

    def pictures(content: bytes) -> list[bytes]:
        with Image.open(io.BytesIO(content)) as image:
            shown = []
            for index in range(4):
                image.seek(index)
                shown.append(image.tobytes())
            return shown

    assert pictures(grown) == pictures(content)
    left = cleaned(grown)
    assert pictures(left) == pictures(content)
    unused = old + shift + sum(sizes[:2])
    assert left[unused : unused + sum(sizes[2:])] == bytes(sum(sizes[2:]))


ILOC = AVIF.index(b"iloc")


@pytest.mark.parametrize(
    ("content", "because"),
    [
        (AVIF[:-1], "impossible size"),
        (AVIF + b"\0\0\0", "between its boxes"),
        (AVIF + b"\0\0\0\7abcd", "impossible size"),
        (AVIF + b"\0\0\0\1abcd\0\0\0\0\0\0\0\x0f", "impossible size"),
        (AVIF[:32] + AVIF[32:].replace(b"meta", b"what", 1), "no meta box"),
        (AVIF + part(AVIF, b"meta"), "or two of them"),
        (AVIF + box(b"moov", bytes(1_048_577)), "too large"),
        (AVIF.replace(b"\0\0\1\x13\0\0\0\x23", b"\0\0\1\x13\0\0\0\x24"), "outside"),
        (AVIF.replace(b"\0\0\1\x13\0\0\0\x23", b"\xff\xff\xff\xff\0\0\0\x23"), "outside"),
        (AVIF[: ILOC + 4] + b"\3" + AVIF[ILOC + 5 :], "unknown kind"),
        (AVIF[: ILOC + 10] + b"\xff\xff" + AVIF[ILOC + 12 :], "too early"),
        (AVIF.replace(b"infe\2", b"infe\0"), "unknown version"),
        (animated().replace(b"stco", b"what"), "without pictures"),
        (animated().replace(b"stsz\0\0\0\0\0\0\0\0\0\0\0\4", b"stsz\0\0\0\0\0\0\0\0\0\0\0\5"), "too early"),
    ],
)
def test_a_broken_avif_is_refused(content: bytes, because: str) -> None:
    refused(content, because)


def with_brands(*brands: bytes) -> bytes:
    """The sample, which says among these brands that it is one."""
    head = box(b"ftyp", b"mif1\0\0\0\0", *brands)
    shift = len(head) - 32
    at = AVIF.index(b"\0\0\1\x13\0\0\0\x23")
    return head + AVIF[32:at] + struct.pack(">L", 0x113 + shift) + AVIF[at + 4 :]


@pytest.mark.parametrize("place", range(12))
def test_an_avif_may_say_late_that_it_is_one(place: int) -> None:
    brands = [b"mif1", b"miaf", b"MA1B", b"msf1", *(b"x00%x" % index for index in range(8))]
    brands[place] = b"avif"
    content = with_brands(*brands)
    assert measure(io.BytesIO(content)) == measure(io.BytesIO(AVIF))
    assert pixels(cleaned(content)) == pixels(AVIF)


def test_pixels_of_no_stated_length_go_on_to_the_end() -> None:
    content = AVIF.replace(b"\0\0\1\x13\0\0\0\x23", b"\0\0\1\x13" + bytes(4))
    assert cleaned(content) == content.replace(b"Color", bytes(5))


def test_a_profile_of_an_avif_has_to_be_one() -> None:
    content = saved(quarters(), "avif", speed=10, icc_profile=PROFILE)
    assert PROFILE in cleaned(content)
    broken = content.replace(PROFILE, PROFILE[:36] + b"pcsa" + PROFILE[40:])
    assert cleaned(broken) == cleaned(content).replace(
        b"colrprof" + PROFILE, b"free" + bytes(4 + len(PROFILE))
    )
    assert pixels(cleaned(broken)) == pixels(content)
