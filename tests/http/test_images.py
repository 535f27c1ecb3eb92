"""Images of movies, over REST."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from httpx import Response
from PIL import Image
from tests.http.conftest import Client, Configure, movie_in, problem_in
from tests.pictures import blank_png, cleaned

from watchly_core import Image as MovieImage
from watchly_core import Movie
from watchly_core.images import ImageState, is_key

pytestmark = pytest.mark.anyio


def drawn(kind: str, width: int = 6, height: int = 4) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(file, kind)
    return file.getvalue()


FILES: Mapping[str, bytes] = {kind: drawn(kind) for kind in ("jpeg", "png", "webp", "gif", "avif")}
PNG = FILES["png"]


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


async def put(
    client: Client, movie: Movie, content: bytes = PNG, media_type: str = "image/png", **headers: str
) -> Response:
    return await client.put(
        f"/api/movies/{movie.id}/image",
        content=content,
        headers={
            "Content-Type": media_type,
            **{name.replace("_", "-"): value for name, value in headers.items()},
        },
    )


async def with_image(client: Client, content: bytes = PNG) -> tuple[Movie, MovieImage]:
    response = await put(client, await client.added(), content)
    assert response.status_code == 200, response.text
    movie = movie_in(response)
    assert movie.image is not None
    return movie, movie.image


def sweep(client: Client) -> int:
    async def run() -> int:
        return (await client.container.gallery().sweep()).deleted

    return client.call(run)


@pytest.mark.parametrize("kind", FILES)
async def test_an_image_is_set_and_loaded(client: Client, kind: str) -> None:
    movie = await client.added(genre="Crime")

    response = await put(client, movie, FILES[kind], f"image/{kind}")

    assert response.status_code == 200, response.text
    shown = movie_in(response)
    assert shown.image is not None
    key = shown.image.key
    assert is_key(key)
    variants = {name: f"/images/{key}?variant={name}" for name in ("thumbnail", "card")}
    assert shown.image == MovieImage(key, 6, 4, kind, len(FILES[kind]), variants)
    assert shown.image_url == f"/images/{key}"
    assert (shown.version, response.headers["etag"]) == (2, '"v2"')
    assert (shown.title, shown.genre, shown.created_at) == (movie.title, "Crime", movie.created_at)
    assert await client.current(movie.id) == shown
    assert (await client.get("/api/movies")).json()["data"] == [response.json()]

    loaded = await client.get(shown.image_url)
    assert (loaded.status_code, loaded.content) == (200, cleaned(FILES[kind]))
    assert loaded.headers["content-type"] == f"image/{kind}"
    assert loaded.headers["content-length"] == str(len(FILES[kind]))
    assert loaded.headers["etag"] == f'"{key}"'
    assert "immutable" in loaded.headers["cache-control"]
    assert loaded.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in loaded.headers["content-security-policy"]


async def test_a_large_image_is_loaded_whole(client: Client) -> None:
    file = io.BytesIO()
    Image.effect_noise((900, 900), 90).save(file, "PNG")
    assert len(file.getvalue()) > 600_000

    movie, _ = await with_image(client, file.getvalue())

    loaded = await client.get(movie.image_url or "")
    assert loaded.content == file.getvalue()
    assert loaded.headers["content-length"] == str(len(loaded.content))


@pytest.mark.parametrize("media_type", ["image/jpg", "IMAGE/JPEG", "image/jpeg; q=1"])
async def test_jpeg_goes_by_other_names(client: Client, media_type: str) -> None:
    response = await put(client, await client.added(), FILES["jpeg"], media_type)

    assert response.status_code == 200


async def test_an_unchanged_image_is_not_sent_again(client: Client) -> None:
    movie, image = await with_image(client)
    url = movie.image_url or ""

    for header in (f'"{image.key}"', f'W/"{image.key}"', "*", f'"x", "{image.key}"'):
        response = await client.get(url, headers={"If-None-Match": header})
        assert (response.status_code, response.content) == (304, b"")
        assert response.headers["etag"] == f'"{image.key}"'
        assert "immutable" in response.headers["cache-control"]
        assert response.headers.get("content-length") in {None, str(len(PNG))}
    assert (await client.get(url, headers={"If-None-Match": '"v2"'})).content == PNG


async def test_head_of_an_image(client: Client) -> None:
    movie, _ = await with_image(client)
    same = {"X-Request-ID": "same"}

    got = await client.get(movie.image_url or "", headers=same)
    head = await client.head(movie.image_url or "", headers=same)

    assert (head.status_code, head.headers, head.content) == (200, got.headers, b"")


async def test_urls_start_with_the_public_one(configure: Configure) -> None:
    async with Client(configure(PUBLIC_URL="https://movies.example/")) as client:
        movie, image = await with_image(client)

        assert movie.image_url == f"https://movies.example/images/{image.key}"
        assert (await client.get(f"/images/{image.key}")).content == PNG


async def test_another_image_discards_the_first(client: Client) -> None:
    movie, first = await with_image(client)

    second = movie_in(await put(client, movie, FILES["gif"], "image/gif", If_Match='"v2"'))

    assert second.image is not None
    assert (second.version, second.image.format) == (3, "gif")
    assert second.image.key != first.key
    ledger = client.ledger(movie.id)
    assert {key: record.state for key, record in ledger.items()} == {
        first.key: ImageState.DISCARDED,
        second.image.key: ImageState.ATTACHED,
    }
    due_at = ledger[first.key].due_at
    assert due_at is not None
    assert due_at > datetime.now(UTC) + timedelta(days=29)
    assert ledger[second.image.key].due_at is None
    assert sweep(client) == 0
    assert (await client.get(f"/images/{first.key}")).content == PNG


async def test_a_movie_can_be_put_with_the_image_it_has(client: Client) -> None:
    movie, image = await with_image(client)
    shown = (await client.get(f"/api/movies/{movie.id}")).json()

    response = await client.put(f"/api/movies/{movie.id}", json={**shown, "genre": "Crime"})
    bare = await client.put(f"/api/movies/{movie.id}", json={"title": "Thief"})
    other = await client.put(f"/api/movies/{movie.id}", json={**bare.json(), "image": None})

    assert response.status_code == 200, response.text
    assert movie_in(bare).image == image
    problem_in(other, "validation")


async def test_delete_takes_the_image_from_the_movie(client: Client) -> None:
    movie, image = await with_image(client)

    response = await client.delete(f"/api/movies/{movie.id}/image")

    assert (response.status_code, response.content) == (204, b"")
    bare = await client.current(movie.id)
    assert (bare.image, bare.image_url, bare.version) == (None, None, 3)
    assert client.ledger(movie.id)[image.key].state is ImageState.DISCARDED
    assert sweep(client) == 0
    assert (await client.get(f"/images/{image.key}")).content == PNG
    problem_in(await client.delete(f"/api/movies/{movie.id}/image"), "not_found")


@pytest.mark.parametrize("what", ["", "/image"])
async def test_purge_leaves_nothing(client: Client, what: str) -> None:
    movie, first = await with_image(client)
    second = movie_in(await put(client, movie)).image
    assert second is not None

    response = await client.delete(f"/api/movies/{movie.id}{what}?purge=true")

    assert response.status_code == 204
    assert sweep(client) == 2
    assert client.ledger(movie.id) == {}
    for key in (first.key, second.key):
        problem_in(await client.get(f"/images/{key}"), "not_found")


async def test_the_image_of_a_deleted_movie(client: Client) -> None:
    movie, image = await with_image(client)
    await client.delete(f"/api/movies/{movie.id}")

    problem_in(await put(client, movie), "not_found")
    problem_in(await client.delete(f"/api/movies/{movie.id}/image"), "not_found")
    assert client.ledger(movie.id)[image.key].state is ImageState.DISCARDED
    assert sweep(client) == 0
    assert (await client.get(f"/images/{image.key}")).content == PNG


async def test_a_movie_without_an_image_has_none_to_delete(client: Client) -> None:
    movie = await client.added()

    problem_in(await client.delete(f"/api/movies/{movie.id}/image"), "not_found")

    assert await client.current(movie.id) == movie


async def test_the_image_url_of_an_older_system(client: Client) -> None:
    first = client.adopt("Heat", image_url="http://old.example/a.jpg")
    second = client.adopt("Thief", image_url="http://old.example/b.jpg")

    assert (await client.delete(f"/api/movies/{first}/image")).status_code == 204
    replaced = movie_in(await put(client, await client.current(second)))

    assert (await client.current(first)).image_url is None
    assert replaced.image is not None
    assert replaced.image_url == f"/images/{replaced.image.key}"


# ---- what is refused ----


@pytest.mark.parametrize(
    "media_type",
    [
        "",
        "text/html",
        "image/svg+xml",
        "image/bmp",
        "image/*",
        "image/tiff",
        "image/apng",
        "application/octet-stream",
        "application/json",
        "multipart/mixed; boundary=x",
    ],
)
async def test_other_types_are_refused(fake_client: Client, media_type: str) -> None:
    movie = await fake_client.added()

    problem_in(await put(fake_client, movie, PNG, media_type), "unsupported_media_type")

    assert await fake_client.current(movie.id) == movie
    assert fake_client.ledger(movie.id) == {}


@pytest.mark.parametrize(
    "content",
    [
        drawn("bmp"),
        drawn("tiff"),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"<!doctype html>",
        b"%PDF-1.7",
        b"\0" * 99,
    ],
)
async def test_other_content_is_refused_whatever_it_is_called(client: Client, content: bytes) -> None:
    movie = await client.added()

    for kind in FILES:
        problem_in(await put(client, movie, content, f"image/{kind}"), "unsupported_media_type")

    assert client.ledger(movie.id) == {}


@pytest.mark.parametrize("claimed", FILES)
@pytest.mark.parametrize("kind", FILES)
async def test_content_that_is_not_what_it_claims_is_unreadable(
    fake_client: Client, claimed: str, kind: str
) -> None:
    response = await put(fake_client, await fake_client.added(), FILES[kind], f"image/{claimed}")

    if kind == claimed:
        assert response.status_code == 200
    else:
        problem_in(response, "image_unreadable")


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("length", [16, 20, 24])
async def test_a_cut_header_is_unreadable(fake_client: Client, kind: str, length: int) -> None:
    movie = await fake_client.added()

    response = await put(fake_client, movie, FILES[kind][:length], f"image/{kind}")

    problem_in(response, "image_unreadable")
    assert fake_client.ledger(movie.id) == {}


async def test_an_empty_body_is_no_image(client: Client) -> None:
    response = await put(client, await client.added(), b"")

    assert response.status_code in {415, 422}
    problem_in(response, response.json()["code"])


async def test_too_many_bytes_are_refused(configure: Configure) -> None:
    async with Client(configure(MAX_IMAGE_BYTES=str(len(PNG)))) as client:
        movie = await client.added()

        problem_in(await put(client, movie, PNG + b"\0"), "too_large")
        assert await client.current(movie.id) == movie
        assert client.ledger(movie.id) == {}
        assert (await put(client, movie, PNG)).status_code == 200


async def test_too_many_pixels_are_refused(client: Client) -> None:
    movie = await client.added()

    problem_in(await put(client, movie, png_header(10_001, 10_000)), "too_large")
    problem_in(await put(client, movie, png_header(2**31 - 1, 2**31 - 1)), "too_large")
    assert (await put(client, movie, blank_png(10_000, 10_000))).status_code == 200


async def test_a_content_encoding_is_refused(client: Client) -> None:
    movie = await client.added()

    problem_in(await put(client, movie, Content_Encoding="gzip"), "unsupported_media_type")
    assert (await put(client, movie, Content_Encoding="identity")).status_code == 200


async def test_a_stale_write_leaves_no_image(client: Client) -> None:
    movie, image = await with_image(client)

    problem_in(await put(client, movie, FILES["gif"], "image/gif", If_Match='"v1"'), "version_conflict")

    assert await client.current(movie.id) == movie
    lost = [key for key in client.ledger(movie.id) if key != image.key]
    assert sweep(client) == len(lost)
    for key in lost:
        problem_in(await client.get(f"/images/{key}"), "not_found")
    assert (await client.get(f"/images/{image.key}")).content == PNG


async def test_the_order_of_checks(client: Client) -> None:
    movie = await client.added()

    async def send(number: str, media_type: str, if_match: str, content: bytes, code: str) -> None:
        response = await client.put(
            f"/api/movies/{number}/image",
            content=content,
            headers={"Content-Type": media_type, "If-Match": if_match},
        )
        problem_in(response, code)

    for number in ("999", "01"):
        await send(number, "text/plain", "v9", b"", "unsupported_media_type")
        await send(number, "image/png", "v9", b"", "malformed_request")
        await send(number, "image/png", '"v9"', b"", "not_found")
    await send(str(movie.id), "image/png", '"v9"', FILES["gif"], "image_unreadable")
    await send(str(movie.id), "image/png", '"v9"', PNG, "version_conflict")
    assert await client.current(movie.id) == movie


async def test_a_key_that_names_nothing_is_not_found(client: Client) -> None:
    await with_image(client)

    for key in (
        *("0123456789abcdef" * 2, "0123456789ABCDEF" * 2, "0123456789abcdef" * 2 + "0"),
        *(
            "%2e%2e",
            "..%2F..%2Fetc%2Fpasswd",
            "../../etc/passwd",
            "%2e%2e/%2e%2e/etc/passwd",
            "..%5C..%5Cetc",
        ),
        *("%00", "0123456789abcdef0123456789abcde%00", "0123456789abcdef0123456789abcdef%0A", "%FF"),
        *(".incoming", "*", "x" * 5000, "", "%D9%A3" * 32),
    ):
        problem_in(await client.get(f"/images/{key}"), "not_found")


async def test_the_addresses_of_images_take_no_other_methods(client: Client) -> None:
    movie, image = await with_image(client)

    for method in ("POST", "PATCH", "DELETE"):
        response = await client.request(method, f"/images/{image.key}")
        problem_in(response, "method_not_allowed")
        assert response.headers["allow"] == "GET, HEAD, PUT, OPTIONS"
    response = await client.post(f"/api/movies/{movie.id}/image", content=PNG)
    problem_in(response, "method_not_allowed")
    assert set(response.headers["allow"].split(", ")) == {"PUT", "DELETE", "OPTIONS"}


async def test_no_member_of_an_image_is_missing(client: Client) -> None:
    movie, _ = await with_image(client)

    shown = (await client.get(f"/api/movies/{movie.id}")).json()

    assert list(shown["image"]) == list(MovieImage.__struct_fields__)
    assert msgspec.convert(shown["image"], MovieImage) == movie.image
