"""What the emulator of Cloudinary makes of images: when they are delivered, on their way in, and eagerly."""

import io
import json
import sys
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from cloudinary import uploader, utils
from PIL import Image
from tests.emulated import PNG, Answer, account, ask, refused, upload

from watchly_adapters.testing import samples
from watchly_adapters.testing.cloudinary import CloudinaryEmulator

#: What a browser asks for, of late and before.
AVIF = "image/avif,image/webp,image/*,*/*;q=0.8"
WEBP = "image/webp,image/*,*/*;q=0.8"

SECRET = b"48.8584 N, 2.2945 E"


@pytest.fixture
def emulator() -> Iterator[CloudinaryEmulator]:
    with CloudinaryEmulator() as emulator:
        yield emulator


def picture(size: tuple[int, int] = (800, 400), form: str = "png", **options: object) -> bytes:
    """Red on its left half, blue on its right."""
    image = Image.new("RGB", size, "red")
    image.paste("blue", (size[0] // 2, 0, *size))
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def film(form: str) -> bytes:
    frames = [Image.new("RGB", (60, 30), colour) for colour in ("red", "lime", "blue")]
    file = io.BytesIO()
    frames[0].save(file, form, save_all=True, append_images=frames[1:], duration=[100, 200, 300], loop=0)
    return file.getvalue()


def delivered(emulator: CloudinaryEmulator, path: str, accept: str = "*/*", method: str = "GET") -> Answer:
    answer = ask(emulator, method, f"/emulated/image/upload/{path}", headers={"Accept": accept})
    assert answer.status == 200, answer.headers
    assert answer.headers["access-control-allow-origin"] == "*"
    return answer


def opened(answer: Answer) -> Image.Image:
    image = Image.open(io.BytesIO(answer.content))
    assert answer.headers["content-type"] == f"image/{(image.format or '').lower()}"
    return image


# Originals


@pytest.mark.parametrize("path", ["a/b", "v1/a/b", "v1712345678/a/b", "a/b.png", "a%2Fb", "q_auto/v1/a/b"])
def test_an_original_is_delivered_as_it_is(emulator: CloudinaryEmulator, path: str) -> None:
    upload(emulator, public_id="a/b")
    answer = delivered(emulator, path)
    assert (answer.content, answer.headers["content-type"]) == (PNG, "image/png")


def test_a_head_is_an_answer_without_its_body(emulator: CloudinaryEmulator) -> None:
    upload(emulator, picture())
    for path in ("a", "c_fill,h_45,w_30/f_auto/a"):
        whole = delivered(emulator, path)
        head = delivered(emulator, path, method="HEAD")
        assert head.content == b""
        assert head.headers["content-length"] == str(len(whole.content))
        assert head.headers["etag"] == whole.headers["etag"]


def test_an_etag_saves_the_body(emulator: CloudinaryEmulator) -> None:
    upload(emulator, picture())
    tags = set()
    for path, accept in (("a", ""), ("f_auto/a", WEBP), ("f_auto/a", AVIF), ("w_10/a", "")):
        tag = delivered(emulator, path, accept).headers["etag"]
        headers = {"If-None-Match": f'"other", {tag}', "Accept": accept}
        answer = ask(emulator, "GET", f"/emulated/image/upload/{path}", headers=headers)
        assert (answer.status, answer.content, answer.headers["etag"]) == (304, b"", tag)
        tags.add(tag)
    assert len(tags) == 4
    upload(emulator, picture((10, 10)))
    assert delivered(emulator, "a").headers["etag"] not in tags


@pytest.mark.parametrize(
    "path", ["b", "v1/b", "a.jpg2", "a/b", "e_blur/a", "", "v1", "c_fill,w_3", "f_auto/"]
)
def test_what_is_not_there_is_a_pixel_with_a_reason(emulator: CloudinaryEmulator, path: str) -> None:
    upload(emulator)
    answer = ask(emulator, "GET", f"/emulated/image/upload/{path}")
    assert answer.status == 404
    assert answer.headers["x-cld-error"].startswith("Resource not found -")
    assert opened(answer).size == (1, 1)


def test_what_was_deleted_is_not_delivered(emulator: CloudinaryEmulator) -> None:
    upload(emulator)
    uploader.destroy("a", **account(emulator))
    assert ask(emulator, "GET", "/emulated/image/upload/a").status == 404


# Transformations


@pytest.mark.parametrize(
    ("component", "size"),
    [
        ("c_fill,h_450,w_300", (300, 450)),
        ("c_fill,w_1600,h_900,g_auto", (1600, 900)),
        ("c_fill,w_200", (200, 100)),
        ("c_limit,h_900,w_600", (600, 300)),
        ("c_limit,w_2000,h_2000", (800, 400)),
        ("c_limit,h_100", (200, 100)),
        ("c_fit,w_1600,h_1600", (1600, 800)),
        ("c_fit,w_100,h_10", (20, 10)),
        ("c_scale,w_50,h_60", (50, 60)),
        ("w_80", (80, 40)),
        ("h_1", (2, 1)),
        ("c_fill,w_100,h_100/w_10", (10, 10)),
    ],
)
def test_an_image_is_cut_and_scaled(
    emulator: CloudinaryEmulator, component: str, size: tuple[int, int]
) -> None:
    upload(emulator, picture())
    image = opened(delivered(emulator, f"{component}/v1/a"))
    assert (image.size, image.format) == (size, "PNG")


def test_what_is_cut_off_is_the_same_on_both_sides(emulator: CloudinaryEmulator) -> None:
    upload(emulator, picture())
    image = opened(delivered(emulator, "c_fill,w_100,h_100/a"))
    assert (image.getpixel((20, 50)), image.getpixel((80, 50))) == ((255, 0, 0), (0, 0, 255))


def test_the_sdk_names_what_is_understood(emulator: CloudinaryEmulator) -> None:
    upload(emulator, picture(), public_id="films/a")
    steps = [{"crop": "fill", "width": 300, "height": 450}, {"fetch_format": "auto"}, {"quality": "auto"}]
    url, _ = utils.cloudinary_url("films/a", cloud_name="emulated", secure=True, transformation=steps)
    address = emulator.delivery_url(url).removeprefix(emulator.upload_prefix)
    answer = ask(emulator, "GET", address, headers={"Accept": WEBP})
    assert opened(answer).size == (300, 450)
    assert answer.headers["content-type"] == "image/webp"


@pytest.mark.parametrize(
    ("accept", "form"), [(AVIF, "AVIF"), (WEBP, "WEBP"), ("image/*", "JPEG"), ("", "JPEG"), ("*/*", "JPEG")]
)
def test_a_browser_gets_a_format_that_it_knows(emulator: CloudinaryEmulator, accept: str, form: str) -> None:
    upload(emulator, picture(form="jpeg"))
    answer = delivered(emulator, "c_limit,w_60/f_auto/q_auto/a", accept)
    assert opened(answer).format == form
    assert answer.headers["vary"] == "Accept"
    assert "vary" not in delivered(emulator, "a", accept).headers


@pytest.mark.parametrize(
    ("path", "form"), [("f_webp/a", "WEBP"), ("a.webp", "WEBP"), ("a.jpg", "JPEG"), ("f_png/a.jpg", "PNG")]
)
def test_a_format_can_be_named(emulator: CloudinaryEmulator, path: str, form: str) -> None:
    upload(emulator, picture())
    assert opened(delivered(emulator, path, AVIF)).format == form


def test_quality_counts(emulator: CloudinaryEmulator) -> None:
    noise = Image.effect_noise((200, 200), 90)
    file = io.BytesIO()
    noise.save(file, "png")
    upload(emulator, file.getvalue())
    sizes = [len(delivered(emulator, f"q_{level}/f_jpg/a").content) for level in (10, 50, 95)]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("name", samples.TURNED)
def test_what_is_made_is_upright(emulator: CloudinaryEmulator, name: str) -> None:
    upload(emulator, samples.TURNED[name])
    image = opened(delivered(emulator, "c_limit,w_100,h_100/f_png/a"))
    assert image.size == (samples.HEIGHT, samples.WIDTH)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_every_sort_of_colour_is_drawn(emulator: CloudinaryEmulator, mode: str) -> None:
    file = io.BytesIO()
    with Image.new("L", (40, 20), 128) as grey:
        image = Image.new(mode, (40, 20), 32_768) if mode == "I;16" else grey.convert(mode)
    image.save(file, "jpeg" if mode == "CMYK" else "png")
    upload(emulator, file.getvalue())
    for form in ("jpg", "webp", "png"):
        made = opened(delivered(emulator, f"w_10/f_{form}/a")).convert("L")
        assert made.size == (10, 5)
        if mode != "1":
            assert abs(made.tobytes()[25] - 128) < 12


def test_transparency_stays_where_it_can(emulator: CloudinaryEmulator) -> None:
    file = io.BytesIO()
    Image.new("RGBA", (40, 20), (0, 0, 0, 0)).save(file, "png")
    upload(emulator, file.getvalue())
    assert opened(delivered(emulator, "w_10/f_webp/a")).convert("RGBA").getpixel((5, 2)) == (0, 0, 0, 0)


@pytest.mark.parametrize("form", ["gif", "webp", "png"])
@pytest.mark.parametrize("accept", [AVIF, WEBP, ""])
def test_what_moves_goes_on_moving(emulator: CloudinaryEmulator, form: str, accept: str) -> None:
    upload(emulator, film(form))
    with opened(delivered(emulator, "c_fill,w_20,h_20/f_auto/a", accept)) as image:
        assert (image.size, getattr(image, "n_frames", 1)) == ((20, 20), 3)
        assert image.format == ("WEBP" if accept else form.upper())


def test_the_previews_in_a_jpeg_are_no_film(emulator: CloudinaryEmulator) -> None:
    file = io.BytesIO()
    Image.new("RGB", (60, 30), "red").save(file, "mpo", save_all=True, append_images=[Image.new("L", (6, 3))])
    upload(emulator, file.getvalue())
    with opened(delivered(emulator, "w_20/f_auto/a", WEBP)) as image:
        assert (image.size, getattr(image, "n_frames", 1)) == ((20, 10), 1)


@pytest.mark.parametrize(
    "component", ["c_zoom,w_3", "c_fill", "w_0", "w_x", "h_-1", "w_99999", "f_exe", "q_0", "q_best", "w_1.5"]
)
def test_a_transformation_that_means_nothing_is_a_bad_request(
    emulator: CloudinaryEmulator, component: str
) -> None:
    upload(emulator)
    answer = ask(emulator, "GET", f"/emulated/image/upload/{component}/a")
    assert (answer.status, answer.headers["content-type"]) == (400, "image/gif")
    assert answer.headers["x-cld-error"].startswith("Invalid ")


def test_what_is_an_image_by_its_header_only_cannot_be_transformed(emulator: CloudinaryEmulator) -> None:
    upload(emulator, samples.png_claiming(500, 500))
    answer = ask(emulator, "GET", "/emulated/image/upload/w_10/a")
    assert (answer.status, answer.headers["x-cld-error"]) == (400, "Invalid image file")


def test_without_pillow_the_original_stands_for_what_would_be_made(
    emulator: CloudinaryEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = picture(form="jpeg")
    upload(emulator, content)
    monkeypatch.setitem(sys.modules, "PIL", None)
    answer = delivered(emulator, "c_fill,w_30,h_45/f_auto/a", WEBP)
    assert (answer.content, answer.headers["content-type"]) == (content, "image/jpeg")


# On the way in


def test_metadata_is_taken_out_where_it_is_asked_for(emulator: CloudinaryEmulator) -> None:
    exif = Image.Exif()
    exif[0x010E] = SECRET.decode()
    exif[0x0112] = 6
    content = picture(form="jpeg", exif=exif.tobytes(), comment=SECRET)
    upload(emulator, content)
    assert SECRET in delivered(emulator, "a").content
    answer = upload(emulator, content, transformation="fl_force_strip").json
    stripped = delivered(emulator, "a")
    assert SECRET not in stripped.content
    assert (answer["bytes"], answer["width"], answer["height"]) == (len(stripped.content), 400, 800)
    assert opened(stripped).convert("RGB").tobytes() == Image.open(io.BytesIO(content)).tobytes()


def test_what_cannot_be_stripped_is_refused(emulator: CloudinaryEmulator) -> None:
    cut = picture()[:-20]
    upload(emulator, cut)
    assert refused(emulator, cut, transformation="fl_force_strip") == "Invalid image file"


def test_an_image_may_be_made_smaller_on_the_way_in(emulator: CloudinaryEmulator) -> None:
    answer = upload(emulator, picture(), transformation="c_limit,w_100,h_100/f_webp").json
    assert (answer["width"], answer["height"], answer["format"]) == (100, 50, "webp")
    assert opened(delivered(emulator, "a")).size == (100, 50)


def test_a_transformation_on_the_way_in_means_something(emulator: CloudinaryEmulator) -> None:
    for field in ("transformation", "eager"):
        words = refused(emulator, **{field: "e_sepia"})
        assert words == "Invalid transformation component - e_sepia"


def test_eager_transformations_are_told_of(emulator: CloudinaryEmulator) -> None:
    answer = uploader.upload(
        io.BytesIO(picture()),
        **account(emulator),
        public_id="films/a",
        eager=[
            {"crop": "fill", "width": 30, "height": 45},
            {"crop": "limit", "width": 60, "fetch_format": "webp"},
        ],
    )
    first, second = answer["eager"]
    assert (first["transformation"], first["width"], first["height"]) == ("c_fill,h_45,w_30", 30, 45)
    assert (second["format"], second["width"], second["height"]) == ("webp", 60, 30)
    for derived in (first, second):
        path = urlsplit(derived["secure_url"]).path
        made = ask(emulator, "GET", path)
        assert (made.status, len(made.content)) == (200, derived["bytes"])
        assert opened(made).size == (derived["width"], derived["height"])
    assert "eager" not in json.loads(upload(emulator).content)
