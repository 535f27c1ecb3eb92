"""Images as parts of forms."""

from __future__ import annotations

import pytest
from tests.http.conftest import Client, Configure, faults_in, movie_in, problem_in
from tests.http.test_images import FILES, PNG

pytestmark = pytest.mark.anyio

IMAGE = ("poster.png", PNG, "image/png")


async def test_a_movie_comes_with_its_image(client: Client) -> None:
    response = await client.post(
        "/api/movies",
        data={"title": " Heat ", "release_year": "1995", "genre": "", "description": "Два"},
        files={"image": IMAGE},
    )

    assert response.status_code == 201, response.text
    movie = movie_in(response)
    assert (movie.title, movie.release_year, movie.genre, movie.description) == ("Heat", 1995, None, "Два")
    assert movie.image is not None
    assert (movie.image.format, movie.image.bytes) == ("png", len(PNG))
    assert response.headers["location"] == f"/api/movies/{movie.id}"
    assert response.headers["etag"] == f'"v{movie.version}"'
    assert await client.current(movie.id) == movie
    assert (await client.get(movie.image_url or "")).content == PNG


async def test_a_form_need_not_have_an_image(client: Client) -> None:
    without = await client.post("/api/movies", files={"title": (None, "Heat")})
    unchosen = await client.post(
        "/api/movies", data={"title": "Ran"}, files={"image": ("", b"", "application/octet-stream")}
    )

    for response, title in ((without, "Heat"), (unchosen, "Ran")):
        assert response.status_code == 201, response.text
        movie = movie_in(response)
        assert (movie.title, movie.image, movie.version) == (title, None, 1)


async def test_a_movie_that_breaks_rules_is_not_added_and_nor_is_its_image(client: Client) -> None:
    response = await client.post(
        "/api/movies",
        data={"title": "", "release_year": "95.0", "director": "Mann", "version": "3"},
        files={"image": IMAGE},
    )
    bad_year = await client.post(
        "/api/movies", data={"title": "", "release_year": "1995.0"}, files={"image": IMAGE}
    )

    assert {"#/director", "#/version"} <= {place for place, _ in faults_in(response)}
    assert {place for place, _ in faults_in(bad_year)} == {"#/title", "#/release_year"}
    assert (await client.get("/api/movies")).json()["data"] == []
    assert client.ledger(0) == {}


async def test_an_image_that_is_refused_adds_no_movie(client: Client) -> None:
    for kind, media_type, code in (
        ("gif", "image/png", "image_unreadable"),
        ("png", "image/svg+xml", "unsupported_media_type"),
        ("png", "text/plain", "unsupported_media_type"),
    ):
        response = await client.post(
            "/api/movies", data={"title": "Heat"}, files={"image": ("a", FILES[kind], media_type)}
        )
        problem_in(response, code)
    assert (await client.get("/api/movies")).json()["data"] == []
    assert client.ledger(0) == {}


async def test_an_image_is_set_by_a_form(client: Client) -> None:
    movie = await client.added()

    response = await client.put(
        f"/api/movies/{movie.id}/image", files={"image": IMAGE}, headers={"If-Match": '"v1"'}
    )

    assert response.status_code == 200, response.text
    shown = movie_in(response)
    assert (shown.version, shown.title) == (2, "Heat")
    assert (await client.get(shown.image_url or "")).content == PNG


@pytest.mark.parametrize("media_type", ["", "application/octet-stream"])
async def test_a_type_that_says_nothing_is_no_claim(fake_client: Client, media_type: str) -> None:
    """Browsers and curl send it of files whose type they do not know."""
    for kind, content in FILES.items():
        response = await fake_client.post(
            "/api/movies", data={"title": "Heat"}, files={"image": ("a", content, media_type)}
        )
        assert response.status_code == 201, response.text
        image = movie_in(response).image
        assert image is not None
        assert image.format == kind


async def test_a_form_that_sets_an_image_holds_that_alone(client: Client) -> None:
    movie = await client.added()
    address = f"/api/movies/{movie.id}/image"

    unknown = await client.put(address, data={"title": "Ran"}, files={"image": IMAGE})
    twice = await client.put(address, files=[("image", IMAGE), ("image", IMAGE)])
    none = await client.put(address, files={"image": ("", b"", "image/png")})
    text = await client.put(address, files={"image": (None, "words")})

    assert faults_in(unknown) == {("#/title", "unknown_member")}
    assert faults_in(twice) == {("#/image", "repeated_member")}
    assert faults_in(none) == {("#/image", "required")}
    assert faults_in(text) == {("#/image", "wrong_type")}
    assert await client.current(movie.id) == movie
    assert client.ledger(movie.id) == {}


async def test_the_order_of_checks_of_a_form(client: Client) -> None:
    movie = await client.added()
    gif = {"image": ("a.gif", FILES["gif"], "image/png")}

    async def send(number: object, if_match: str, files: object, code: str) -> None:
        address = f"/api/movies/{number}/image"
        problem_in(await client.put(address, files=files, headers={"If-Match": if_match}), code)  # type: ignore[arg-type]  # httpx takes mappings

    await send(999, "v9", gif, "malformed_request")
    await send(999, '"v9"', gif, "not_found")
    await send(movie.id, '"v9"', gif, "image_unreadable")
    await send(movie.id, '"v9"', {"image": IMAGE}, "version_conflict")
    assert await client.current(movie.id) == movie


async def test_a_form_has_limits(configure: Configure) -> None:
    async with Client(configure(MAX_IMAGE_BYTES=str(len(PNG)), MAX_JSON_BYTES="100")) as client:
        fits = await client.post("/api/movies", data={"title": "Heat"}, files={"image": IMAGE})
        assert fits.status_code == 201, fits.text
        for data, image in (({"title": "Heat"}, PNG + b"x"), ({"title": "x" * 101}, PNG)):
            response = await client.post("/api/movies", data=data, files={"image": ("a", image, "image/png")})
            problem_in(response, "too_large")
        assert len((await client.get("/api/movies")).json()["data"]) == 1


@pytest.mark.parametrize(
    "content_type",
    ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=x"],
)
async def test_a_broken_form_is_malformed(fake_client: Client, content_type: str) -> None:
    for method, address in (
        ("POST", "/api/movies"),
        ("PUT", f"/api/movies/{(await fake_client.added()).id}/image"),
    ):
        response = await fake_client.request(
            method, address, content=b"--x\r\nwhatever", headers={"Content-Type": content_type}
        )
        problem_in(response, "malformed_request")
