"""Lists of movies, over REST."""

from __future__ import annotations

import re

import msgspec
import pytest
from tests.http.conftest import Client, Configure, faults_in, problem_in

from watchly_core import Movie, Page

pytestmark = pytest.mark.anyio


async def add(client: Client, count: int) -> list[Movie]:
    return [await client.added(title=f"Movie {number}") for number in range(count)]


async def page(client: Client, **parameters: str | int | None) -> Page:
    given = {name: str(value) for name, value in parameters.items() if value is not None}
    response = await client.get("/api/movies", params=given)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    return msgspec.json.decode(response.content, type=Page)


async def pages(client: Client, limit: int) -> list[list[Movie]]:
    found, cursor = [], None
    while True:
        part = await page(client, limit=limit, cursor=cursor)
        found.append(list(part.data))
        cursor = part.next_cursor
        if cursor is None:
            return found


async def test_an_empty_catalogue_is_an_empty_page(client: Client) -> None:
    response = await client.get("/api/movies")

    assert response.json() == {"data": [], "next_cursor": None}


async def test_movies_come_by_id_and_whole(client: Client) -> None:
    movies = await add(client, 3)
    changed = await client.put(f"/api/movies/{movies[0].id}", json={"title": "Zardoz", "genre": "Odd"})

    found = await page(client)

    assert [movie.id for movie in found.data] == sorted(movie.id for movie in movies)
    assert (await client.get("/api/movies")).json()["data"][0] == changed.json()
    assert found.next_cursor is None


@pytest.mark.parametrize(
    ("limit", "sizes"), [(1, [1] * 6), (2, [2, 2, 2]), (4, [4, 2]), (5, [5, 1]), (6, [6]), (200, [6])]
)
async def test_paging_to_the_end_shows_each_movie_once(client: Client, limit: int, sizes: list[int]) -> None:
    movies = await add(client, 6)

    found = await pages(client, limit)

    assert [len(part) for part in found] == sizes
    assert [movie for part in found for movie in part] == movies


async def test_without_a_limit_there_are_fifty(client: Client) -> None:
    await add(client, 51)

    found = await page(client)

    assert len(found.data) == 50
    assert len((await page(client, cursor=found.next_cursor)).data) == 1


async def test_another_limit_may_follow_on_a_cursor(client: Client) -> None:
    movies = await add(client, 6)
    first = await page(client, limit=2)

    rest = await page(client, limit=100, cursor=first.next_cursor)

    assert list(rest.data) == movies[2:]
    assert rest.next_cursor is None


async def test_paging_goes_on_when_movies_come_and_go(client: Client) -> None:
    movies = await add(client, 6)
    first = await page(client, limit=2)
    for movie in (movies[0], movies[1], movies[2]):
        await client.delete(f"/api/movies/{movie.id}")
    late = await client.added(title="Late")

    rest = await page(client, cursor=first.next_cursor)

    assert list(rest.data) == [*movies[3:], late]


async def test_a_cursor_is_safe_in_a_url(client: Client) -> None:
    await add(client, 3)

    cursor = (await page(client, limit=1)).next_cursor

    assert cursor is not None
    assert re.fullmatch(r"[A-Za-z0-9_-]+", cursor)


async def test_a_cursor_behind_the_last_movie_gives_an_empty_page(client: Client) -> None:
    movies = await add(client, 3)
    cursor = (await page(client, limit=2)).next_cursor
    await client.delete(f"/api/movies/{movies[2].id}")

    assert await page(client, cursor=cursor) == Page((), None)


async def test_a_bad_limit_is_refused(client: Client) -> None:
    for limit in (
        *("0", "-1", "201", "1000000000", "9" * 5000, "abc", "", "1.0", "1e1", "+5", " 5", "0x1"),
        *("\u0663", "\x00", "null"),
    ):
        response = await client.get("/api/movies", params={"limit": limit})
        (fault,) = problem_in(response, "invalid_parameter").errors
        assert (fault.parameter, fault.code) == ("limit", "invalid_value"), limit
        assert "200" in fault.detail


async def test_a_text_that_is_no_cursor_is_refused(client: Client) -> None:
    for cursor in (
        *("", "1", "abc", "=", "====", "AAAA", "\u00e9", "\x00", "x" * 7000, "-", "null", "../..", "'--"),
    ):
        response = await client.get("/api/movies", params={"cursor": cursor})
        assert faults_in(response, "invalid_parameter") == {("cursor", "invalid_cursor")}, cursor


async def test_a_damaged_cursor_is_refused(client: Client) -> None:
    await add(client, 2)
    cursor = (await page(client, limit=1)).next_cursor
    assert cursor is not None
    damaged = {cursor[:-1], cursor[1:], cursor + "A", cursor + "=", cursor + "\n", cursor.swapcase()}

    for text in damaged:
        response = await client.get("/api/movies", params={"cursor": text})
        assert faults_in(response, "invalid_parameter") == {("cursor", "invalid_cursor")}


@pytest.mark.parametrize(
    ("query", "faults"),
    [
        ("limt=5", {("limt", "unknown_parameter")}),
        ("Limit=5", {("Limit", "unknown_parameter")}),
        ("limit=5&limit=5", {("limit", "repeated_parameter")}),
        ("limit=5&limi%74=6", {("limit", "repeated_parameter")}),
        ("=5", {("", "unknown_parameter")}),
        (
            "a=1&b=2&limit=1&limit=2",
            {("a", "unknown_parameter"), ("b", "unknown_parameter"), ("limit", "repeated_parameter")},
        ),
        ("limit[]=5", {("limit[]", "unknown_parameter")}),
        ("limit=5;cursor=x", {("limit", "invalid_value")}),
        ("limit", {("limit", "invalid_value")}),
        ("%FF=1", {("?", "unknown_parameter")}),
    ],
)
async def test_parameters_are_strict(fake_client: Client, query: str, faults: set[tuple[str, str]]) -> None:
    assert faults_in(await fake_client.get(f"/api/movies?{query}"), "invalid_parameter") == faults


async def test_hundreds_of_parameters_are_refused(fake_client: Client) -> None:
    problem_in(await fake_client.get("/api/movies?" + "&".join(["x=1"] * 500)), "malformed_request")


@pytest.mark.parametrize("query", ["", "&", "&&&", "limit=1&", "&limit=1"])
async def test_empty_parameters_are_nothing(fake_client: Client, query: str) -> None:
    assert (await fake_client.get(f"/api/movies?{query}")).status_code == 200


async def test_the_largest_limit_can_be_set(configure: Configure) -> None:
    async with Client(configure(MAX_PAGE_LIMIT="3")) as client:
        movies = await add(client, 5)

        assert len((await page(client)).data) == 3
        assert len((await page(client, limit=3)).data) == 3
        refused = await client.get("/api/movies", params={"limit": "4"})
        assert faults_in(refused, "invalid_parameter") == {("limit", "invalid_value")}
        assert [movie for part in await pages(client, 3) for movie in part] == movies


async def test_the_largest_limit_may_be_above_the_usual_one(configure_fakes: Configure) -> None:
    async with Client(configure_fakes(MAX_PAGE_LIMIT="1000")) as client:
        await add(client, 60)

        assert len((await page(client)).data) == 50
        assert len((await page(client, limit=1000)).data) == 60
