"""Files that people send as images: those that are none, or mean harm, and odd ones that have to be shown."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias

from PIL import Image, ImageCms

from watchly_adapters.testing import samples

#: A script that would run where a browser takes the file for a page.
SCRIPT: Final = b"<script>alert(document.domain)</script>"

_PAGE: Final = b"<!DOCTYPE html><html><body>" + SCRIPT + b"</body></html>"


class Hostile(NamedTuple):
    """A file that is refused: as what it is sent, by which look at it, and with which status.

    The looks are at its type, at its header, at its structure and, last, at its pixels.
    """

    content: bytes
    media_type: str
    seen_in: str
    statuses: frozenset[int]


def saved(image: Image.Image, format_: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def png_chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def png_with(*chunks: bytes) -> bytes:
    """The sample with other chunks after its header."""
    plain = samples.UPRIGHT["png"]
    return plain[:33] + b"".join(chunks) + plain[33:]


def gif_with(*extensions: bytes, frames: int = 1, after: bytes = b"") -> bytes:
    """The sample with extensions before its picture, which comes as often as asked for."""
    plain = samples.UPRIGHT["gif"]
    frame = plain.index(b",", 13 + 12)
    head = b"GIF89a" + plain[6:frame]
    return head + b"".join(extensions) + plain[frame:-1] * frames + b";" + after


def _gif_that_is_a_script() -> bytes:
    """Its width begins a comment of JavaScript, which what follows the picture ends."""
    plain = gif_with(after=b"*/=1;alert(document.domain);//")
    return plain[:6] + b"/*" + plain[8:]


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("evil.html", _PAGE)
    return file.getvalue()


_PNG, _GIF, _JPEG = (samples.UPRIGHT[name] for name in ("png", "gif", "jpeg"))
_WEBP, _AVIF = samples.UPRIGHT["webp lossy"], samples.UPRIGHT["avif"]
_FORMATS: Final = {"png": _PNG, "gif": _GIF, "jpeg": _JPEG, "webp": _WEBP, "avif": _AVIF}

#: What is sent as a type, and refused with a status.
_Refused: TypeAlias = tuple[str, bytes, int]


def _of_other_types() -> Iterator[tuple[str, _Refused]]:
    svg = b"<svg xmlns='http://www.w3.org/2000/svg' width='6' height='4'>" + SCRIPT + b"</svg>"
    tiff = b"II*\0\x08\0\0\0" + bytes(200)
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + _AVIF[32:]
    for name, content in {
        "SVG": svg,
        "HTML": _PAGE,
        "PHP": b"<?php system($_GET['cmd']); ?>",
        "PDF": b"%PDF-1.7\n1 0 obj << /Type /Catalog >> endobj\n",
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\n(/etc/passwd) (r) file\n",
        "TIFF": tiff,
        "PSD": b"8BPS\0\x01" + bytes(200),
        "BMP": b"BM\x1e\0\0\0\0\0\0\0\x1a\0\0\0\x0c\0\0\0\x06\0\x04\0\x01\0\x18\0",
        "ICO": saved(Image.new("RGB", (16, 16)), "ICO"),
        "HEIC": heic,
        "ZIP": _zip(),
        "a script before a PNG": SCRIPT + _PNG,
        "nothing": b"",
        "one byte": b"\xff",
    }.items():
        yield f"{name} as image/jpeg", ("image/jpeg", content, 415)
    yield "SVG as what it is", ("image/svg+xml", svg, 415)
    yield "TIFF as what it is", ("image/tiff", tiff, 415)
    yield "HEIC as what it is", ("image/heic", heic, 415)
    yield "HEIC as image/avif", ("image/avif", heic, 415)
    yield "PNG as text/html", ("text/html", _PNG, 415)


def _with_bad_headers() -> Iterator[tuple[str, _Refused]]:
    for claimed, found in pairwise([*_FORMATS, "png", "jpeg", "gif", "png"]):
        yield f"{found} as image/{claimed}", (f"image/{claimed}", _FORMATS[found], 422)
    yield "PNG of 0x1", ("image/png", samples.png_claiming(0, 1), 422)
    yield "GIF of 0x0", ("image/gif", _GIF.replace(b"\x06\0\x04\0", bytes(4)), 422)
    yield "PNG of 65,535x65,535", ("image/png", samples.png_claiming(65_535, 65_535), 413)
    yield "GIF of 65,535x65,535", ("image/gif", _GIF[:6] + b"\xff" * 4 + _GIF[10:], 413)
    frame = _JPEG.index(b"\xff\xc0") + 5
    yield "JPEG of 65,535x65,535", ("image/jpeg", _JPEG[:frame] + b"\xff" * 4 + _JPEG[frame + 4 :], 413)
    yield "PNG of a pixel row too many", ("image/png", samples.png_claiming(10_000, 10_001), 413)


def _of_bad_structure() -> Iterator[tuple[str, _Refused]]:
    others = {"ZIP": _zip(), "HTML": _PAGE, "PHP": b"<?php phpinfo();", "a zero": b"\0"}
    for format_, content in _FORMATS.items():
        yield f"{format_} without its end", (f"image/{format_}", content[:-3], 422)
        if format_ != "jpeg":  # which is cut
            for name, other in others.items():
                if (format_, name) != ("gif", "a zero"):  # which is cut as well
                    yield f"{format_} and {name}", (f"image/{format_}", content + other, 422)
    yield "GIF that is a script", ("image/gif", _gif_that_is_a_script(), 422)
    yield "GIF of 10,000 pictures", ("image/gif", gif_with(frames=10_000), 413)
    yield "JPEG that starts again", ("image/jpeg", _JPEG[:-2] + _JPEG, 422)
    yield "PNG with a wrong checksum", ("image/png", _PNG[:-20] + bytes([_PNG[-20] ^ 1]) + _PNG[-19:], 422)
    yield "PNG without IEND", ("image/png", _PNG[:-12], 422)
    in_two_places = _PNG[:-12] + png_chunk(b"tEXt", b"a\0") + _PNG[33:]
    yield "PNG with pixels in two places", ("image/png", in_two_places, 422)
    for name, kind, head, size in (
        ("text", b"zTXt", b"Comment\0\0", 8_000_000),
        ("text in English", b"iTXt", b"Comment\0\1\0en\0Comment\0", 8_000_000),
        ("profile", b"iCCP", b"icc\0\0", 16_000_000),
    ):
        grown = png_with(png_chunk(kind, head + zlib.compress(bytes(size), 9)))
        yield f"PNG with a {name} that grows", ("image/png", grown, 422)


def _of_bad_pixels() -> Iterator[tuple[str, _Refused]]:
    picture = saved(Image.new("P", (1_000, 1_000)), "gif")
    at = 13 + 3 * 2 ** ((picture[10] & 7) + 1)
    many = picture[:at] + picture[at:-1] * 301 + picture[-1:]
    yield "GIF of 301 megapixels in all", ("image/gif", many, 413)
    noise = samples.UPRIGHT["png"][:33] + png_chunk(b"IDAT", bytes(range(100))) + png_chunk(b"IEND")
    yield "PNG of noise", ("image/png", noise, 422)
    for name, after in (
        ("webp lossy", b"\x9d\x01\x2a\6\0\4\0"),
        ("webp lossless", b"/\5\xc0\0\0"),
        ("avif", b"mdat"),
    ):
        content = samples.UPRIGHT[name]
        start = content.index(after) + len(after)
        content = content[:start] + bytes(37 * at & 0xFF for at in range(start, len(content)))
        format_ = name.partition(" ")[0]
        yield f"{name} of noise", (f"image/{format_}", content, 422)


#: Files that are refused, by what they are.
CORPUS: Final[Mapping[str, Hostile]] = {
    name: Hostile(content, media_type, seen_in, frozenset({status}))
    for seen_in, files in (
        ("type", _of_other_types()),
        ("header", _with_bad_headers()),
        ("structure", _of_bad_structure()),
        ("pixels", _of_bad_pixels()),
    )
    for name, (media_type, content, status) in files
}

PROFILE: Final = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def riff(*chunks: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<L", len(body)) + body


def riff_chunk(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<L", len(data)) + data + b"\0" * (len(data) % 2)


def extended(flags: int) -> bytes:
    """What a WebP begins with that announces more than pixels, for the sample's size."""
    return riff_chunk(b"VP8X", bytes([flags, 0, 0, 0, 5, 0, 0, 3, 0, 0]))


def jpeg_segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def _hiding(hidden: bytes) -> Iterator[tuple[str, bytes]]:
    """Samples with something in a place that belongs to images, and that viewers do not look at."""
    control = png_chunk(b"fcTL", struct.pack(">5L2H2B", 0, 6, 4, 0, 0, 1, 1, 0, 0))
    drawn = png_chunk(b"fdAT", b"\0\0\0\1" + hidden)
    announced = png_chunk(b"acTL", struct.pack(">LL", 1, 0))
    yield "png in a histogram", png_with(png_chunk(b"hIST", hidden))
    yield "png in a suggested palette", png_with(png_chunk(b"sPLT", b"x\0\x08" + hidden))
    yield "png as a profile", png_with(png_chunk(b"iCCP", b"x\0\0" + zlib.compress(hidden, 0)))
    after = b"x\0\0" + zlib.compress(PROFILE) + hidden
    yield "png after a profile", png_with(png_chunk(b"iCCP", after))
    far_after = b"x\0\0" + zlib.compress(PROFILE) + bytes(300_000) + hidden
    yield "png far after a profile", png_with(png_chunk(b"iCCP", far_after))
    yield "png in a picture of no animation", _PNG[:-12] + control + drawn + _PNG[-12:]
    yield "png in a picture before the pixels", png_with(announced, control, drawn)
    yield "png in a picture too many", png_with(announced, control)[:-12] + control + drawn + _PNG[-12:]
    scan = _JPEG.index(b"\xff\xda")
    yield "jpeg as its height", _JPEG[:scan] + jpeg_segment(0xDC, hidden) + _JPEG[scan:]
    for name, data in {
        "a profile": b"\1\1" + hidden,
        "part of a profile": b"\1\2" + PROFILE[:200] + hidden,
        "a profile without a number": hidden,
    }.items():
        yield f"jpeg as {name}", _JPEG[:2] + jpeg_segment(0xE2, b"ICC_PROFILE\0" + data) + _JPEG[2:]
    pixels = _WEBP[12:]
    picture = riff_chunk(b"ANMF", bytes(16) + riff_chunk(b"VP8 ", hidden))
    yield "webp as a profile", riff(extended(0x20), riff_chunk(b"ICCP", hidden), pixels)
    yield "webp as a profile not announced", riff(extended(0), riff_chunk(b"ICCP", hidden), pixels)
    yield "webp as transparency not announced", riff(extended(0), riff_chunk(b"ALPH", hidden), pixels)
    yield "webp as transparency of nothing", riff(extended(0x10), pixels, riff_chunk(b"ALPH", hidden))
    yield "webp in a picture of no animation", riff(extended(0), pixels, picture)
    profile = bytes([len(hidden)]) + hidden + b"\0"
    yield "gif as a profile", gif_with(b"!\xff\x0bICCRGBG1012" + profile)
    yield (
        "avif as a profile",
        saved(Image.new("RGB", (6, 4)), "avif", icc_profile=PROFILE).replace(
            PROFILE, hidden.ljust(len(PROFILE), b"\0")
        ),
    )


#: Files that are accepted, or refused, and are harmless images afterwards; the first word is the format.
HIDING: Final[Mapping[str, bytes]] = {
    f"{place}, {name}": content
    for name, hidden in (("ZIP", _zip()), ("HTML", _PAGE))
    for place, content in _hiding(hidden)
} | {
    "png as the name of a profile, HTML": png_with(
        png_chunk(b"iCCP", SCRIPT + b"\0\0" + zlib.compress(PROFILE))
    )
}


def harmful(content: bytes) -> bool:
    """Whether a file is an archive, or runs in a browser that takes it for a page."""
    return zipfile.is_zipfile(io.BytesIO(content)) or SCRIPT in content


#: The size of every image in `SHOWN`, as it is shown.
SHOWN_SIZE: Final = (48, 32)

#: The colours of its quarters: left and right above, left and right below.
QUARTERS: Final = ((220, 20, 20), (20, 200, 20), (20, 20, 220), (230, 230, 230))

_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def quarters(*, mirrored: bool = False) -> Image.Image:
    """A picture that shows which way up it is."""
    image = Image.new("RGB", (2, 2))
    image.putdata(QUARTERS[::-1] if mirrored else QUARTERS)
    return image.resize(SHOWN_SIZE, Image.Resampling.NEAREST)


def turned(orientation: int, format_: str = "jpeg") -> bytes:
    """The picture lying as its EXIF orientation says."""
    image = quarters()
    if orientation in _TURNS:
        image = image.transpose(_TURNS[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(image, format_, exif=exif, quality=95)


def _shown() -> Iterator[tuple[str, bytes]]:
    picture, other = quarters(), quarters(mirrored=True)
    yield "jpeg", saved(picture, "jpeg", quality=95)
    yield "jpeg progressive", saved(picture, "jpeg", progressive=True)
    yield "jpeg CMYK", saved(picture.convert("CMYK"), "jpeg", quality=95)
    yield "jpeg grey", saved(picture.convert("L"), "jpeg", quality=95)
    for orientation in range(1, 9):
        yield f"jpeg turned {orientation}", turned(orientation)
    for orientation in (6, 8):
        yield f"png turned {orientation}", turned(orientation, "png")
        yield f"webp turned {orientation}", turned(orientation, "webp")
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        yield f"png {mode}", saved(picture.convert(mode), "png")
    yield "png 16 bit", saved(Image.new("I;16", SHOWN_SIZE, 40_000), "png")
    yield "png interlaced", _interlaced(picture)
    yield "gif", saved(picture, "gif")
    yield "webp", saved(picture, "webp")
    yield "webp lossless", saved(picture.convert("RGBA"), "webp", lossless=True)
    yield "avif", saved(picture, "avif", speed=10)
    for format_ in ("gif", "webp", "png", "avif"):
        frames: dict[str, object] = {"save_all": True, "append_images": [other, picture], "duration": 90}
        yield (
            f"{format_} animated",
            saved(picture, format_, **frames, **({"speed": 10} if format_ == "avif" else {})),
        )


def _interlaced(image: Image.Image) -> bytes:
    """A PNG in the seven passes of Adam7, which Pillow reads and does not write."""
    data = bytearray()
    for x, y, right, down in (
        (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)
    ):  # fmt: skip
        for row in range(y, image.height, down):
            data.append(0)
            line = image.crop((0, row, image.width, row + 1)).tobytes()
            data += b"".join(line[3 * column : 3 * column + 3] for column in range(x, image.width, right))
    header = struct.pack(">LLBBBBB", *image.size, 8, 2, 0, 0, 1)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(bytes(data)))
        + png_chunk(b"IEND")
    )


#: Images that are accepted and shown, by what they are; the first word is the format.
SHOWN: Final[Mapping[str, bytes]] = dict(_shown())
