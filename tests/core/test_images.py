"""What an acceptable image is, and the ways between an image's states."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from watchly_core.errors import IllegalTransition, ImageRejected, ImageTypeUnsupported, ImageUnreadable
from watchly_core.images import (
    MAX_PIXELS,
    MEDIA_TYPES,
    SNIFF_BYTES,
    Image,
    ImageRecord,
    ImageState,
    claimed_format,
    is_key,
    new_key,
    require_same,
    sniff,
)

KEY = "0123456789abcdef0123456789abcdef"
AT = datetime(2026, 11, 22, 10, tzinfo=UTC)
LATER = datetime(2026, 12, 22, 10, tzinfo=UTC)

HEADS = [
    ("jpeg", b"\xff\xd8\xff\xe0\x00\x10JFIF\x00"),
    ("jpeg", b"\xff\xd8\xff\xe1\x00\x10Exif\x00"),
    ("jpeg", b"\xff\xd8\xff\xdb"),
    ("png", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"),
    ("gif", b"GIF87a\x01\x00"),
    ("gif", b"GIF89a\x01\x00"),
    ("webp", b"RIFF\x24\x00\x00\x00WEBPVP8 "),
    ("webp", b"RIFF\x24\x00\x00\x00WEBPVP8L"),
    ("webp", b"RIFF\x24\x00\x00\x00WEBPVP8X"),
    ("avif", b"\x00\x00\x00\x20ftypavif\x00\x00\x00\x00avifmif1miafMA1B"),
    ("avif", b"\x00\x00\x00\x20ftypavis\x00\x00\x00\x00avismsf1miafMA1B"),
    ("avif", b"\x00\x00\x00\x20ftypmif1\x00\x00\x00\x00mif1avifmiafMA1B"),
    ("avif", b"\x00\x00\x00\x20ftypmif1\x00\x00\x00\x00mif1miafMA1Bavif"),
]


@pytest.mark.parametrize(("name", "head"), HEADS)
def test_the_first_bytes_tell_the_format(name: str, head: bytes) -> None:
    assert sniff(head) == name
    assert sniff(head + b"\x00" * 1_000) == name
    assert sniff((head + b"\x00" * 1_000)[:SNIFF_BYTES]) == name
    assert name in MEDIA_TYPES.values()


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\x00",
        b"\xff\xd8",
        b"\xff\xd8\x00",
        b"\x89PNG\n\x1a\n\x00",
        b"\x89PNG\r\n\x1a",
        b"GIF88a",
        b"GIF8",
        b"gif89a",
        b"RIFF\x24\x00\x00\x00WAVEfmt ",
        b"RIFF\x24\x00\x00\x00WEB",
        b"RIFX\x24\x00\x00\x00WEBPVP8 ",
        b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic",
        b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00isommp42",
        b"\x00\x00\x00\x18mdatavif\x00\x00\x00\x00avif",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"<html>",
        b"BM\x46\x00\x00\x00",
        b"II*\x00",
        b"\x00\x00\x01\x00",
        b"%PDF-1.7",
        b" \xff\xd8\xff\xe0",
        b"\xef\xbb\xbfGIF89a",
    ],
)
def test_other_content_is_refused(head: bytes) -> None:
    with pytest.raises(ImageTypeUnsupported, match="JPEG, PNG, WebP, GIF or AVIF"):
        sniff(head)


def test_webp_is_told_as_the_mime_sniffing_standard_says() -> None:
    # Its pattern ends in "WEBPVP": all three kinds of chunk that may follow start so.
    with pytest.raises(ImageTypeUnsupported):
        sniff(b"RIFF\x24\x00\x00\x00WEBPDATAxxxxxxxxxxxxxxxx")


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"\x00\x00\x00\x18ftypxavif\x00\x00\x00isommp42", id="across two brands"),
        pytest.param(b"\x00\x00\x00\x18ftypmp42avifisommp42", id="the minor version"),
        pytest.param(b"\x00\x00\x00\x14ftypmp42\x00\x00\x00\x00isomavif", id="after the box"),
    ],
)
def test_avif_is_told_by_a_brand_and_not_by_four_letters_anywhere(head: bytes) -> None:
    with pytest.raises(ImageTypeUnsupported):
        sniff(head)


@pytest.mark.parametrize(
    ("media_type", "name"),
    [
        ("image/jpeg", "jpeg"),
        ("image/jpg", "jpeg"),
        ("image/png", "png"),
        ("image/webp", "webp"),
        ("image/gif", "gif"),
        ("image/avif", "avif"),
        ("IMAGE/JPEG", "jpeg"),
        (" image/png ", "png"),
        ("image/png; charset=binary", "png"),
        ("image/png ;q=1", "png"),
        ("image/png;", "png"),
    ],
)
def test_a_media_type_claims_a_format(media_type: str, name: str) -> None:
    assert claimed_format(media_type) == name


@pytest.mark.parametrize(
    "media_type",
    ["", ";", "image", "image/", "image/*", "*/*", "image/svg+xml", "image/heic", "image/tiff", "text/html",
     "application/octet-stream", "image/png, image/jpeg", "x; image/png", "image/ png", "jpeg"],
)  # fmt: skip
def test_another_media_type_is_refused_by_name(media_type: str) -> None:
    with pytest.raises(ImageTypeUnsupported) as caught:
        claimed_format(media_type)
    essence = media_type.partition(";")[0].strip()
    assert str(caught.value).startswith(essence or "no type")
    assert str(caught.value).endswith("image/avif, image/gif, image/jpeg, image/png, image/webp")


def test_content_has_to_be_what_its_sender_says() -> None:
    require_same("png", "png")
    with pytest.raises(ImageUnreadable, match="the content is gif, not png") as caught:
        require_same("png", "gif")
    assert isinstance(caught.value, ImageRejected)


def test_new_keys_are_keys_and_never_the_same() -> None:
    keys = {new_key() for _ in range(1_000)}
    assert len(keys) == 1_000
    assert all(map(is_key, keys))


@pytest.mark.parametrize(
    "text",
    ["", KEY[:-1], KEY + "0", KEY.upper(), KEY + "\n", "\n" + KEY, " " + KEY[1:], KEY[:-1] + "g",
     KEY[:-1] + "/", "../" + KEY[3:], KEY[:-1] + "\x00", KEY[:-1] + "\u0663", KEY[:-1] + "\ud800",
     KEY[:16] + "\n" + KEY[17:]],
)  # fmt: skip
def test_anything_else_is_no_key(text: str) -> None:
    assert is_key(KEY)
    assert not is_key(text)


PENDING, ATTACHED, DISCARDED, DELETING = ImageState

#: From the row's state to the column's.
#: fmt: off
WAYS = {
    #            PENDING, ATTACHED, DISCARDED, DELETING
    PENDING: (False, True, True, True),
    ATTACHED: (False, False, True, False),
    DISCARDED: (False, True, True, True),
    DELETING: (False, False, False, True),
}
#: fmt: on


def record(state: ImageState) -> ImageRecord:
    return ImageRecord(Image(KEY, 2, 3, "png", 70), state, 7, AT, 4)


@pytest.mark.parametrize(
    ("before", "after", "legal"),
    [
        pytest.param(before, after, legal, id=f"{before.value}-{after.value}")
        for before, row in WAYS.items()
        for after, legal in zip(ImageState, row, strict=True)
    ],
)
def test_the_ways_between_states(before: ImageState, after: ImageState, *, legal: bool) -> None:
    start = record(before)
    if legal:
        moved = start.moved(after, due_at=LATER)
        assert moved == msgspec.structs.replace(start, state=after, due_at=LATER, attempts=0)
        assert start.moved(after, due_at=None, attempts=5).attempts == 5
        assert start.moved(after, due_at=None).due_at is None
    else:
        with pytest.raises(IllegalTransition) as caught:
            start.moved(after, due_at=LATER)
        assert KEY in str(caught.value)
        assert before.value in str(caught.value)
        assert after.value in str(caught.value)
    assert start == record(before)


def test_what_is_being_deleted_never_comes_back() -> None:
    reached, seen = {DELETING}, set[ImageState]()
    while reached - seen:
        state = (reached - seen).pop()
        seen.add(state)
        reached |= {after for after, legal in zip(ImageState, WAYS[state], strict=True) if legal}
    assert seen == {DELETING}


def test_the_limits_and_names_of_api_md() -> None:
    assert MAX_PIXELS == 100_000_000
    assert set(MEDIA_TYPES.values()) == {"jpeg", "png", "webp", "gif", "avif"}
    assert msgspec.json.decode(msgspec.json.encode(Image(KEY, 2, 3, "png", 70))) == {
        "key": KEY,
        "width": 2,
        "height": 3,
        "format": "png",
        "bytes": 70,
        "variants": {},
    }
