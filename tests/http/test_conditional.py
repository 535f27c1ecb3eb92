"""ETag, If-Match and If-None-Match, over REST."""

from __future__ import annotations

import io
from collections.abc import Mapping

import pytest
from httpx import Response
from PIL import Image
from tests.http.conftest import Client, movie_in, problem_in

from watchly_core import Movie

pytestmark = pytest.mark.anyio

_file = io.BytesIO()
Image.new("RGB", (2, 2)).save(_file, "PNG")
PNG = _file.getvalue()

#: Every write on one movie: the method, what follows its path, body and type.
WRITES: Mapping[str, tuple[str, str, bytes, str]] = {
    "put": ("PUT", "", b'{"title": "Thief"}', "application/json"),
    "put the same": ("PUT", "", b'{"title": "Heat"}', "application/json"),
    "patch": ("PATCH", "", b'{"genre": "Crime"}', "application/merge-patch+json"),
    "patch the same": ("PATCH", "", b"{}", "application/merge-patch+json"),
    "delete": ("DELETE", "", b"", ""),
    "put image": ("PUT", "/image", PNG, "image/png"),
    "delete image": ("DELETE", "/image", b"", ""),
}


@pytest.fixture(params=WRITES)
def write(request: pytest.FixtureRequest) -> tuple[str, str, bytes, str]:
    return WRITES[str(request.param)]


async def send(client: Client, write: tuple[str, str, bytes, str], movie: Movie, **headers: str) -> Response:
    method, rest, body, media_type = write
    return await client.request(
        method,
        f"/api/movies/{movie.id}{rest}",
        content=body,
        headers={
            **({"Content-Type": media_type} if media_type else {}),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        },
    )


async def shown(client: Client) -> Movie:
    """A movie at version 2, with an image."""
    movie = await client.added(title="Heat")
    return movie_in(await send(client, WRITES["put image"], movie))


# ---- If-None-Match ----


async def test_an_unchanged_movie_is_not_sent_again(client: Client) -> None:
    movie = await shown(client)
    full = await client.get(f"/api/movies/{movie.id}")

    for header in ('"v2"', 'W/"v2"', "*", " * ", '"x", "v2"', '"x","v2"', 'W/"a" , W/"v2"', '"a,b", "v2"'):
        response = await client.get(f"/api/movies/{movie.id}", headers={"If-None-Match": header})
        assert (response.status_code, response.content) == (304, b""), header
        assert response.headers["etag"] == '"v2"'
        assert "content-type" not in response.headers
        # RFC 9110, section 8.6: that of the 200, or none.
        assert response.headers.get("content-length") in {None, full.headers["content-length"]}


async def test_a_changed_movie_is_sent(client: Client) -> None:
    movie = await shown(client)

    for header in ('"v1"', '"v3"', '"V2"', "v2", '"v2', "", "W/v2", '"v02"', '"v2" "v3"', '"v2", v3'):
        response = await client.get(f"/api/movies/{movie.id}", headers={"If-None-Match": header})
        assert movie_in(response) == movie, header
        assert response.headers["etag"] == '"v2"'


async def test_a_movie_that_is_not_there_is_not_unchanged(client: Client) -> None:
    problem_in(await client.get("/api/movies/1", headers={"If-None-Match": "*"}), "not_found")


async def test_a_write_unless_it_exists_is_refused(
    fake_client: Client, write: tuple[str, str, bytes, str]
) -> None:
    """RFC 9110, section 13.1.2: the condition is false, and for other methods than GET that is a 412."""
    movie = await shown(fake_client)

    response = await send(fake_client, write, movie, If_None_Match="*")

    assert response.status_code == 412, response.text
    assert await fake_client.current(movie.id) == movie


# ---- If-Match ----


async def test_a_stale_write_changes_nothing(client: Client, write: tuple[str, str, bytes, str]) -> None:
    movie = await shown(client)

    for header in ('"v1"', '"v3"', 'W/"v2"', '"V2"', '"v02"', '"x"', '"v1", "v3"', f'"v{9**30}"', '""'):
        problem_in(await send(client, write, movie, If_Match=header), "version_conflict")

    assert await client.current(movie.id) == movie


async def test_a_write_on_the_current_version_succeeds(
    client: Client, write: tuple[str, str, bytes, str]
) -> None:
    movie = await shown(client)

    response = await send(client, write, movie, If_Match='"v2"')

    assert response.status_code in {200, 204}, response.text
    if response.status_code == 200:
        after = movie_in(response)
        assert response.headers["etag"] == f'"v{after.version}"'
        assert await client.current(movie.id) == after


@pytest.mark.parametrize("header", ["*", '"v1", "v2"', '"x","v2",W/"v9"'])
async def test_conditions_that_hold(
    fake_client: Client, write: tuple[str, str, bytes, str], header: str
) -> None:
    movie = await shown(fake_client)

    response = await send(fake_client, write, movie, If_Match=header)

    assert response.status_code in {200, 204}, response.text


@pytest.mark.parametrize("header", [', "v2"', '"v2",', '"v2" , ', '"v1",, "v2"'])
async def test_empty_elements_of_a_list_are_nothing(fake_client: Client, header: str) -> None:
    """RFC 9110, section 5.6.1.2: a recipient must ignore them."""
    movie = await shown(fake_client)
    path = f"/api/movies/{movie.id}"

    got = await fake_client.get(path, headers={"If-None-Match": header})
    revised = await fake_client.patch(path, json={"genre": "Crime"}, headers={"If-Match": header})

    assert (got.status_code, revised.status_code) == (304, 200)


async def test_what_is_no_condition_is_refused(
    fake_client: Client, write: tuple[str, str, bytes, str]
) -> None:
    movie = await shown(fake_client)

    for header in ("v2", '"v2', "2", "", '"v2" "v3"', "W/v2", '"a\tb"', '*, "v2"'):
        problem_in(await send(fake_client, write, movie, If_Match=header), "malformed_request")

    assert await fake_client.current(movie.id) == movie


async def test_each_version_can_be_written_once(client: Client) -> None:
    movie = await client.added()
    path = f"/api/movies/{movie.id}"
    condition = {"If-Match": '"v1"'}

    first = await client.patch(path, json={"genre": "Crime"}, headers=condition)
    second = await client.patch(path, json={"genre": "Drama"}, headers=condition)

    assert first.headers["etag"] == '"v2"'
    problem_in(second, "version_conflict")
    assert (await client.current(movie.id)).genre == "Crime"


async def test_a_movie_that_is_gone_is_not_found_whatever_the_version(
    client: Client, write: tuple[str, str, bytes, str]
) -> None:
    movie = await shown(client)
    await client.delete(f"/api/movies/{movie.id}")

    for header in ("*", '"v2"', '"v1", "v2"'):
        problem_in(await send(client, write, movie, If_Match=header), "not_found")
