"""Movies one by one, over REST."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec
import pytest
from tests.http.conftest import Client, Configure, faults_in, movie_in, problem_in

from watchly_adapters.testing.stores import events_of
from watchly_core import Movie
from watchly_core.events import kind

pytestmark = pytest.mark.anyio

HEAT: Mapping[str, str | int | None] = {
    "title": "Heat",
    "description": "A thief and a policeman.\n\tLos Angeles.",
    "release_year": 1995,
    "genre": "Crime",
}

#: Texts that are no id, as they stand in a path.
NO_IDS = [
    "0",
    "00",
    "01",
    "+1",
    "%2B1",
    "-1",
    "%2D1",
    "1.0",
    "1e1",
    "0x1",
    "1_0",
    "%D9%A3",
    "%EF%BC%91",
    "%C2%B2",
    "2147483648",
    "9223372036854775808",
    "9" * 400,
    "%201",
    "1%20",
    "1%0A",
    "1%00",
    "%00",
    "1,2",
    "1;2",
    "null",
    "heat",
    "%FF",
]


def fields(movie: Movie) -> dict[str, object]:
    return {name: getattr(movie, name) for name in HEAT}


async def history(client: Client, movie_id: int) -> list[tuple[str, int]]:
    async def read() -> list[tuple[str, int]]:
        events = await events_of(client.container.catalogue(), movie_id)
        return [(kind(event), event.version) for event in events]

    return client.call(read)


# ---- POST ----


async def test_post_adds_a_movie(client: Client) -> None:
    response = await client.post("/api/movies", json=HEAT)

    assert response.status_code == 201
    movie = movie_in(response)
    assert fields(movie) == HEAT
    assert (movie.version, movie.image, movie.image_url) == (1, None, None)
    assert movie.created_at == movie.updated_at
    assert response.headers["location"] == f"/api/movies/{movie.id}"
    assert response.headers["etag"] == '"v1"'
    assert response.headers["content-type"] == "application/json"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", response.json()["created_at"])
    got = await client.get(response.headers["location"])
    assert (got.content, got.headers["etag"]) == (response.content, '"v1"')
    assert await history(client, movie.id) == [("movie_added", 1)]


async def test_members_left_out_are_null_and_all_are_there(client: Client) -> None:
    response = await client.post("/api/movies", json={"title": "Heat"})

    assert list(response.json()) == list(Movie.__struct_fields__)
    assert fields(movie_in(response)) == {**dict.fromkeys(HEAT), "title": "Heat"}


async def test_texts_are_trimmed_and_get_unix_line_ends(client: Client) -> None:
    movie = await client.added(title=" \u2003Heat\t", description="\r\na\r\nb\r\n", genre=" Crime ")

    assert (movie.title, movie.description, movie.genre) == ("Heat", "a\nb", "Crime")


@pytest.mark.parametrize(
    "members",
    [
        {"title": "\N{CLAPPER BOARD}" * 255},
        {"title": "e\N{COMBINING ACUTE ACCENT}" * 127},
        {"title": "H", "description": "\N{CLAPPER BOARD}" * 10_000},
        {"title": "H", "description": ""},
        {"title": "H", "genre": "\N{CLAPPER BOARD}" * 100},
        {"title": "H", "release_year": 1870},
        {"title": "H", "release_year": 2200},
        {"title": "\u202eHeat\u2066"},
        {"title": "H", "description": None, "release_year": None, "genre": None},
        {"title": "H", "image": None, "image_url": None},
    ],
)
async def test_what_is_just_allowed_is_kept(client: Client, members: dict[str, object]) -> None:
    movie = await client.added(**members)

    assert {name: getattr(movie, name) for name in members} == members
    assert await client.current(movie.id) == movie


@pytest.mark.parametrize(
    ("members", "faults"),
    [
        ({}, {("#/title", "required")}),
        ({"title": None}, {("#/title", "required")}),
        ({"title": 5}, {("#/title", "wrong_type")}),
        ({"title": ["Heat"]}, {("#/title", "wrong_type")}),
        ({"title": ""}, {("#/title", "too_short")}),
        ({"title": " \t\n"}, {("#/title", "too_short")}),
        ({"title": "x" * 256}, {("#/title", "too_long")}),
        ({"title": "a\nb"}, {("#/title", "forbidden_character")}),
        ({"title": "a\x00b"}, {("#/title", "forbidden_character")}),
        ({"title": "a\x85b"}, {("#/title", "forbidden_character")}),
        ({"title": "H", "description": "x" * 10_001}, {("#/description", "too_long")}),
        ({"title": "H", "description": "a\x7fb"}, {("#/description", "forbidden_character")}),
        ({"title": "H", "description": "a\rb"}, {("#/description", "forbidden_character")}),
        ({"title": "H", "description": False}, {("#/description", "wrong_type")}),
        ({"title": "H", "genre": ""}, {("#/genre", "too_short")}),
        ({"title": "H", "genre": "x" * 101}, {("#/genre", "too_long")}),
        ({"title": "H", "release_year": 1869}, {("#/release_year", "too_small")}),
        ({"title": "H", "release_year": 2201}, {("#/release_year", "too_large")}),
        ({"title": "H", "release_year": 10**30}, {("#/release_year", "too_large")}),
        ({"title": "H", "release_year": "1999"}, {("#/release_year", "wrong_type")}),
        ({"title": "H", "release_year": 1999.0}, {("#/release_year", "wrong_type")}),
        ({"title": "H", "release_year": True}, {("#/release_year", "wrong_type")}),
        (
            {"title": "H", "rating": 5, "a/b~c": 1},
            {("#/rating", "unknown_member"), ("#/a~1b~0c", "unknown_member")},
        ),
        ({"title": "H", "Title": "h"}, {("#/Title", "unknown_member")}),
        (
            {
                "title": "H",
                "id": 1,
                "version": 1,
                "created_at": None,
                "updated_at": "x",
                "image": {},
                "image_url": "",
            },
            {
                (f"#/{name}", "read_only")
                for name in ("id", "version", "created_at", "updated_at", "image", "image_url")
            },
        ),
        (
            {"release_year": 1, "genre": 1, "description": 1, "id": 9, "x": 1},
            {
                ("#/title", "required"),
                ("#/release_year", "too_small"),
                ("#/genre", "wrong_type"),
                ("#/description", "wrong_type"),
                ("#/id", "read_only"),
                ("#/x", "unknown_member"),
            },
        ),
    ],
)
async def test_every_broken_rule_is_told(
    client: Client, members: dict[str, object], faults: set[tuple[str, str]]
) -> None:
    movie = await client.added()

    assert faults_in(await client.post("/api/movies", json=members)) == faults
    put = {**members, **({"id": 99} if members.get("id") == movie.id else {})}
    if "image" not in put:  # what a movie that is there has already is another matter
        assert faults_in(await client.put(f"/api/movies/{movie.id}", json=put)) == faults
    assert await client.current(movie.id) == movie
    assert len((await client.get("/api/movies")).json()["data"]) == 1


@pytest.mark.parametrize("value", [[], None, "Heat", 5, True, [{"title": "Heat"}]])
async def test_a_body_that_is_no_object_is_one_fault(client: Client, value: object) -> None:
    movie = await client.added()
    body = msgspec.json.encode(value)
    as_json = {"Content-Type": "application/json"}

    for response in (
        await client.post("/api/movies", content=body, headers=as_json),
        await client.put(f"/api/movies/{movie.id}", content=body, headers=as_json),
        await client.patch(f"/api/movies/{movie.id}", content=body, headers=as_json),
    ):
        assert faults_in(response) == {("#", "wrong_type")}


# ---- PUT ----


async def test_put_replaces_all_client_fields(client: Client) -> None:
    movie = await client.added(**HEAT)

    response = await client.put(f"/api/movies/{movie.id}", json={"title": "Thief", "release_year": 1981})

    assert response.status_code == 200
    replaced = movie_in(response)
    assert fields(replaced) == {"title": "Thief", "description": None, "release_year": 1981, "genre": None}
    assert (replaced.id, replaced.version) == (movie.id, 2)
    assert response.headers["etag"] == '"v2"'
    assert replaced.created_at == movie.created_at
    assert replaced.updated_at is not None
    assert movie.updated_at is not None
    assert replaced.updated_at > movie.updated_at
    assert (await client.get(f"/api/movies/{movie.id}")).content == response.content
    assert await history(client, movie.id) == [("movie_revised", 2), ("movie_added", 1)]


async def test_a_movie_can_be_put_as_it_was_got(client: Client) -> None:
    movie = await client.added(**HEAT)
    shown = (await client.get(f"/api/movies/{movie.id}")).json()

    same = await client.put(f"/api/movies/{movie.id}", json=shown)
    changed = await client.put(f"/api/movies/{movie.id}", json={**shown, "genre": "Drama"})

    assert same.status_code == 200
    assert movie_in(same) == movie
    assert changed.status_code == 200
    assert (movie_in(changed).genre, movie_in(changed).version) == ("Drama", 2)


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_members_of_the_server_cannot_be_changed(client: Client, method: str) -> None:
    movie = await client.added(**HEAT)
    others: dict[str, list[object]] = {
        "id": [movie.id + 1, None, str(movie.id), True, float(movie.id)],
        "version": [2, 0, None, "1", True, 1.0],
        "image_url": ["https://elsewhere.example/a.png", "", 5],
        "image": [{"key": "x"}, {}, [], ""],
        "created_at": ["2020-01-01T00:00:00Z", None, 5],
        "updated_at": ["now", None, 0],
    }

    for name, value in [(name, value) for name, values in others.items() for value in values]:
        response = await client.request(method, f"/api/movies/{movie.id}", json={**HEAT, name: value})
        assert faults_in(response) == {(f"#/{name}", "read_only")}, (name, value)
    assert await client.current(movie.id) == movie


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_a_write_that_changes_nothing_keeps_the_version(client: Client, method: str) -> None:
    movie = await client.added(**HEAT)

    response = await client.request(method, f"/api/movies/{movie.id}", json={**HEAT, "title": " Heat "})

    assert response.status_code == 200
    assert movie_in(response) == movie
    assert response.headers["etag"] == '"v1"'
    assert await history(client, movie.id) == [("movie_added", 1)]


# ---- PATCH ----


@pytest.mark.parametrize("media_type", ["application/merge-patch+json", "application/json; charset=utf-8"])
async def test_patch_keeps_what_is_absent_and_clears_what_is_null(client: Client, media_type: str) -> None:
    movie = await client.added(**HEAT)

    response = await client.patch(
        f"/api/movies/{movie.id}",
        content=b'{"description": null, "title": "Thief"}',
        headers={"Content-Type": media_type},
    )

    assert response.status_code == 200
    assert fields(movie_in(response)) == {**HEAT, "description": None, "title": "Thief"}
    assert movie_in(response).version == 2
    assert response.headers["etag"] == '"v2"'
    assert await client.current(movie.id) == movie_in(response)


async def test_an_empty_patch_changes_nothing(client: Client) -> None:
    movie = await client.added(**HEAT)

    response = await client.patch(f"/api/movies/{movie.id}", json={})

    assert (response.status_code, movie_in(response)) == (200, movie)


@pytest.mark.parametrize(
    ("patch", "faults"),
    [
        ({"title": None}, {("#/title", "required")}),
        ({"title": " ", "genre": ""}, {("#/title", "too_short"), ("#/genre", "too_short")}),
        ({"rating": 1}, {("#/rating", "unknown_member")}),
        ({"release_year": "1999"}, {("#/release_year", "wrong_type")}),
    ],
)
async def test_a_patch_keeps_the_rules(
    client: Client, patch: dict[str, object], faults: set[tuple[str, str]]
) -> None:
    movie = await client.added(**HEAT)

    assert faults_in(await client.patch(f"/api/movies/{movie.id}", json=patch)) == faults
    assert await client.current(movie.id) == movie


# ---- DELETE ----


async def test_delete(client: Client) -> None:
    movie = await client.added(**HEAT)
    path = f"/api/movies/{movie.id}"

    response = await client.delete(path)

    assert (response.status_code, response.content) == (204, b"")
    for method, body in (("GET", None), ("PUT", HEAT), ("PATCH", {"genre": None}), ("DELETE", None)):
        problem_in(await client.request(method, path, json=body), "not_found")
    assert (await client.get("/api/movies")).json()["data"] == []
    assert await history(client, movie.id) == [("movie_removed", 2), ("movie_added", 1)]
    assert (await client.added()).id > movie.id


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("purge=yes", ("purge", "invalid_value")),
        ("purge=", ("purge", "invalid_value")),
        ("purge=TRUE", ("purge", "invalid_value")),
        ("purge=true&purge=true", ("purge", "repeated_parameter")),
        ("porge=true", ("porge", "unknown_parameter")),
    ],
)
async def test_parameters_of_delete_are_strict(client: Client, query: str, fault: tuple[str, str]) -> None:
    movie = await client.added()

    assert faults_in(await client.delete(f"/api/movies/{movie.id}?{query}"), "invalid_parameter") == {fault}
    assert await client.current(movie.id) == movie


@pytest.mark.parametrize("purge", ["true", "false"])
async def test_delete_takes_purge(client: Client, purge: str) -> None:
    movie = await client.added()

    assert (await client.delete(f"/api/movies/{movie.id}?purge={purge}")).status_code == 204


# ---- ids and addresses ----


async def test_what_is_no_id_is_not_found(client: Client) -> None:
    await client.added()

    for text in NO_IDS:
        path = f"/api/movies/{text}"
        for method, body in (("GET", None), ("PUT", HEAT), ("PATCH", {}), ("DELETE", None)):
            problem_in(await client.request(method, path, json=body), "not_found")
        png = {"Content-Type": "image/png"}
        problem_in(await client.put(f"{path}/image", content=b"x", headers=png), "not_found")
        problem_in(await client.delete(f"{path}/image"), "not_found")


async def test_the_largest_id_is_an_id(client: Client) -> None:
    assert "2147483647" in problem_in(await client.get("/api/movies/2147483647"), "not_found").detail


async def test_an_id_may_be_percent_encoded(client: Client) -> None:
    movie = await client.added()
    encoded = "".join(f"%{ord(digit):02X}" for digit in str(movie.id))

    response = await client.get(f"/api/movies/{encoded}")

    assert movie_in(response) == movie


async def test_a_slash_at_the_end_is_the_same_address(client: Client) -> None:
    movie = await client.added()

    assert movie_in(await client.get(f"/api/movies/{movie.id}/")) == movie
    assert (await client.get("/api/movies/")).status_code == 200


# ---- the order of checks ----


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_the_order_of_checks(client: Client, method: str) -> None:
    movie = await client.added(**HEAT)
    here, nowhere = f"/api/movies/{movie.id}", "/api/movies/999"

    async def send(path: str, media_type: str, if_match: str, body: bytes, code: str) -> None:
        headers = {"Content-Type": media_type, "If-Match": if_match}
        problem_in(await client.request(method, path, content=body, headers=headers), code)

    for path in (nowhere, "/api/movies/01"):
        await send(path, "text/plain", "v9", b"{", "unsupported_media_type")
        await send(path, "application/json", "v9", b"{", "malformed_json")
        await send(path, "application/json", "v9", b"{}", "malformed_request")
        for body in (b'{"title": 5}', b"[]"):
            await send(path, "application/json", '"v9"', body, "not_found")
    for body in (b'{"title": 5}', b"[]"):
        await send(here, "application/json", '"v9"', body, "validation")
    await send(here, "application/json", '"v9"', b'{"title": "Heat"}', "version_conflict")
    assert await client.current(movie.id) == movie


async def test_the_order_of_checks_on_delete(client: Client) -> None:
    movie = await client.added()

    async def send(path: str, if_match: str, code: str) -> None:
        problem_in(await client.delete(path, headers={"If-Match": if_match}), code)

    for text in ("999", "01"):
        await send(f"/api/movies/{text}?purge=x", '"v9"', "invalid_parameter")
        await send(f"/api/movies/{text}", "v9", "malformed_request")
        await send(f"/api/movies/{text}", '"v9"', "not_found")
    await send(f"/api/movies/{movie.id}", '"v9"', "version_conflict")
    assert await client.current(movie.id) == movie


@pytest.mark.parametrize(
    "media_type",
    [
        "",
        "text/plain",
        "text/json",
        "application/jsonx",
        "application/problem+json",
        "application/x-www-form-urlencoded",
        "multipart/mixed; boundary=x",
        "*/*",
        "application/json, application/json",
    ],
)
async def test_other_content_types_are_refused(client: Client, media_type: str) -> None:
    movie = await client.added()
    headers = {"Content-Type": media_type}
    body = b'{"title": "Heat"}'

    for method, path in (
        ("POST", "/api/movies"),
        ("PUT", f"/api/movies/{movie.id}"),
        ("PATCH", f"/api/movies/{movie.id}"),
    ):
        problem_in(
            await client.request(method, path, content=body, headers=headers), "unsupported_media_type"
        )


async def test_a_merge_patch_is_no_movie(client: Client) -> None:
    movie = await client.added()
    headers = {"Content-Type": "application/merge-patch+json"}

    for method, path in (("POST", "/api/movies"), ("PUT", f"/api/movies/{movie.id}")):
        response = await client.request(method, path, content=b'{"title": "Heat"}', headers=headers)
        problem_in(response, "unsupported_media_type")


@pytest.mark.parametrize("media_type", ["application/json", "Application/JSON ; charset=UTF-8"])
async def test_json_by_any_spelling_is_taken(client: Client, media_type: str) -> None:
    headers = {"Content-Type": media_type}

    assert (
        await client.post("/api/movies", content=b'{"title": "\xc3\xa9"}', headers=headers)
    ).status_code == 201


@pytest.mark.parametrize("name", ["id", "title", "rating"])
async def test_deep_nesting_is_the_sender_s_fault(fake_client: Client, name: str) -> None:
    movie = await fake_client.added()
    as_json = {"Content-Type": "application/json"}

    for depth in range(500, 1_100, 6):
        body = b'{"title": "x", "%s": %s%s}' % (name.encode(), b"[" * depth, b"]" * depth)
        for method in ("PUT", "PATCH"):
            path = f"/api/movies/{movie.id}"
            response = await fake_client.request(method, path, content=body, headers=as_json)
            assert response.status_code in {400, 422}, (depth, response.text)


async def test_a_body_at_the_limit_is_taken_and_above_it_is_not(
    configure_fakes: Configure,
) -> None:
    async with Client(configure_fakes(MAX_JSON_BYTES="1 KiB")) as client:
        as_json = {"Content-Type": "application/json"}
        fitting = b'{"title": "Heat"}'.ljust(1024)

        for method, path in (("POST", "/api/movies"), ("PUT", "/api/movies/1"), ("PATCH", "/api/movies/1")):
            taken = await client.request(method, path, content=fitting, headers=as_json)
            assert taken.status_code in {200, 201}
            refused = await client.request(method, path, content=fitting + b" ", headers=as_json)
            problem_in(refused, "too_large")


# ---- reading ----


async def test_rows_of_older_systems_are_served_as_they_are(client: Client) -> None:
    movie_id = client.adopt(" ", image_url="http://old.example/a.jpg")

    movie = await client.current(movie_id)

    assert (movie.title, movie.image_url, movie.image) == (" ", "http://old.example/a.jpg", None)
    assert (movie.created_at, movie.updated_at) == (None, None)
    untouched = await client.patch(f"/api/movies/{movie_id}", json={"genre": None})
    assert movie_in(untouched) == movie
    shown = (await client.get(f"/api/movies/{movie_id}")).json()
    mended = await client.put(f"/api/movies/{movie_id}", json={**shown, "title": "Heat"})
    assert mended.status_code == 200, mended.text
    assert movie_in(mended).image_url == "http://old.example/a.jpg"


@pytest.mark.parametrize("if_none_match", [None, '"v1"'])
async def test_head_answers_as_get(client: Client, if_none_match: str | None) -> None:
    movie = await client.added(**HEAT)
    headers = {"X-Request-ID": "same"} | ({"If-None-Match": if_none_match} if if_none_match else {})

    for path in (
        *(
            "/api/movies",
            "/api/movies?limit=0",
            f"/api/movies/{movie.id}",
            "/api/movies/999",
            "/api/movies/01",
        ),
        *("/api/movies/1/image", "/images/0123456789abcdef0123456789abcdef", "/nowhere"),
        *("/health", "/health/live", "/health/ready", "/problems", "/problems/validation", "/problems/none"),
        *("/openapi.json", "/docs", "/docs/assets/swagger-ui.css"),
    ):
        got = await client.get(path, headers=headers)
        head = await client.head(path, headers=headers)
        assert (head.status_code, head.headers) == (got.status_code, got.headers), path
        if got.status_code != 304:
            assert head.headers["content-length"] == str(len(got.content))
        assert head.content == b""
