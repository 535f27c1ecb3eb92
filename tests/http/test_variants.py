"""Image files: variants of them, parts of them, and what caches are told."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping

import pytest
from httpx import Response
from PIL import Image
from tests.http.conftest import Client, Configure, client_of, movie_in, problem_in

pytestmark = pytest.mark.anyio

BROWSER = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"


def picture(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(file, "JPEG")
    return file.getvalue()


def animation(frames: int = 5) -> bytes:
    file = io.BytesIO()
    pictures = [Image.new("RGB", (60, 40), (40 * number, 0, 200)) for number in range(frames)]
    pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=70, loop=0)
    return file.getvalue()


async def shown(client: Client, content: bytes, media_type: str = "image/jpeg") -> Mapping[str, str]:
    """The URLs of a movie's image by the names of its variants; that of the original is `original`."""
    movie = await client.added()
    response = await client.put(
        f"/api/movies/{movie.id}/image", content=content, headers={"Content-Type": media_type}
    )
    assert response.status_code == 200, response.text
    found = movie_in(response)
    assert found.image is not None
    return {"original": found.image_url or "", **found.image.variants}


def opened(response: Response) -> Image.Image:
    assert response.status_code == 200, response.text
    return Image.open(io.BytesIO(response.content))


@pytest.mark.parametrize(
    ("size", "card"),
    [
        ((1200, 1800), (600, 900)),
        ((1800, 1200), (600, 400)),
        ((100, 50), (100, 50)),
        ((600, 901), (599, 900)),
    ],
)
async def test_a_variant_has_its_size(client: Client, size: tuple[int, int], card: tuple[int, int]) -> None:
    urls = await shown(client, picture(*size))

    with opened(await client.get(urls["thumbnail"])) as thumbnail:
        assert thumbnail.size == (300, 450)
    with opened(await client.get(urls["card"])) as fitted:
        assert max(abs(a - b) for a, b in zip(fitted.size, card, strict=True)) <= 1


@pytest.mark.parametrize(
    ("accept", "format_"),
    [
        (BROWSER, "avif"),
        ("image/webp,*/*", "webp"),
        ("*/*", "webp"),
        ("image/*", "webp"),
        ("image/avif", "avif"),
        ("image/avif;q=0.1, image/webp", "webp"),
        ("image/avif;q=0, */*", "webp"),
    ],
)
async def test_a_variant_comes_in_the_format_that_the_client_takes(
    fake_client: Client, accept: str, format_: str
) -> None:
    urls = await shown(fake_client, picture(90, 60))

    response = await fake_client.get(urls["card"], headers={"Accept": accept})

    assert response.headers["content-type"] == f"image/{format_}"
    assert response.headers["vary"] == "Accept"
    with opened(response) as card:
        assert (card.format or "").lower() == format_


async def test_a_client_that_takes_neither_format_is_told_so(fake_client: Client) -> None:
    urls = await shown(fake_client, picture(90, 60))

    problem_in(await fake_client.get(urls["card"], headers={"Accept": "image/png"}), "not_acceptable")
    response = await fake_client.get(urls["original"], headers={"Accept": "image/png"})
    assert response.headers["content-type"] == "image/jpeg"


async def test_an_animation_stays_one(client: Client) -> None:
    urls = await shown(client, animation(), "image/gif")

    for accept in ("*/*", BROWSER):
        with opened(await client.get(urls["card"], headers={"Accept": accept})) as card:
            assert getattr(card, "n_frames", 1) == 5


async def test_every_form_of_an_image_has_a_tag_of_its_own(client: Client) -> None:
    urls = await shown(client, picture(90, 60))

    replies = [
        await client.get(urls[name], headers={"Accept": accept})
        for name, accept in (("original", "*/*"), ("card", "*/*"), ("card", BROWSER), ("thumbnail", "*/*"))
    ]

    assert len({reply.headers["etag"] for reply in replies}) == 4
    for reply in replies:
        assert "immutable" in reply.headers["cache-control"]
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in reply.headers["content-security-policy"]
        assert reply.headers["content-length"] == str(len(reply.content))
    card = {"If-None-Match": replies[1].headers["etag"], "Accept": "*/*"}
    assert (await client.get(urls["card"], headers=card)).status_code == 304
    assert (await client.get(urls["thumbnail"], headers=card)).status_code == 200


async def test_a_part_of_an_image_is_sent(client: Client) -> None:
    urls = await shown(client, picture(900, 600))
    for name in ("original", "card"):
        whole = (await client.get(urls[name])).content
        size = len(whole)
        for header, first, last in (
            ("bytes=0-0", 0, 0),
            ("bytes=10-99", 10, 99),
            (f"bytes={size - 1}-", size - 1, size - 1),
            ("bytes=-10", size - 10, size - 1),
            ("bytes=5-999999999", 5, size - 1),
        ):
            response = await client.get(urls[name], headers={"Range": header})
            assert response.status_code == 206
            assert response.headers["content-range"] == f"bytes {first}-{last}/{size}"
            assert response.headers["content-length"] == str(last - first + 1)
            assert response.content == whole[first : last + 1]
            assert response.headers["content-type"].startswith("image/")
        for header in ("bytes=0-1,3-4", "lines=1-2", "bytes=", "bytes=9-3"):
            response = await client.get(urls[name], headers={"Range": header})
            assert (response.status_code, response.content) == (200, whole)
        response = await client.get(urls[name], headers={"Range": f"bytes={size}-"})
        problem_in(response, "range_not_satisfiable")
        assert response.headers["content-range"] == f"bytes */{size}"


async def test_a_part_belongs_to_one_form_of_the_image(client: Client) -> None:
    urls = await shown(client, picture(90, 60))
    etag = (await client.get(urls["original"])).headers["etag"]

    same = await client.get(urls["original"], headers={"Range": "bytes=0-9", "If-Range": etag})
    other = await client.get(urls["original"], headers={"Range": "bytes=0-9", "If-Range": '"other"'})

    assert (same.status_code, other.status_code) == (206, 200)


async def test_head_of_a_part(client: Client) -> None:
    urls = await shown(client, picture(90, 60))

    response = await client.head(urls["original"], headers={"Range": "bytes=0-9"})

    assert (response.status_code, response.content) == (206, b"")
    assert response.headers["content-length"] == "10"


async def test_what_is_no_variant_is_refused(client: Client) -> None:
    urls = await shown(client, picture(90, 60))

    for query in ("variant=poster", "variant=", "variant=card&variant=card", "size=9"):
        problem_in(await client.get(f"{urls['original']}?{query}"), "invalid_parameter")
    problem_in(await client.get(f"/images/{'0' * 32}?variant=card"), "not_found")


async def test_many_clients_at_once_get_the_same_variant(configure: Configure) -> None:
    container = configure()
    async with Client(container) as client:
        urls = await shown(client, picture(1200, 800))

        async def load() -> list[Response]:
            async with client_of(container) as others:
                return await asyncio.gather(*(others.get(urls["card"]) for _ in range(12)))

        replies = client.call(load)
    assert {reply.status_code for reply in replies} == {200}
    assert len({reply.content for reply in replies}) == 1


async def test_variants_go_with_their_image(client: Client) -> None:
    movie = await client.added()
    response = await client.put(
        f"/api/movies/{movie.id}/image", content=picture(90, 60), headers={"Content-Type": "image/jpeg"}
    )
    variants = response.json()["image"]["variants"]
    assert (await client.get(variants["card"])).status_code == 200
    await client.delete(f"/api/movies/{movie.id}?purge=true")

    client.call(client.container.gallery().sweep)

    for url in variants.values():
        problem_in(await client.get(url), "not_found")
