"""The log over REST: history, undo, and the changes of all movies, page by page."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from httpx import Response
from tests.http.conftest import Client, Configure, faults_in, movie_in, problem_in
from tests.http.test_images import put, sweep, with_image

from watchly_core import Movie
from watchly_core.events import KINDS
from watchly_core.traces import traced_by
from watchly_http.changes import Changes, History
from watchly_http.problems import ChangesGoneProblem

pytestmark = pytest.mark.anyio


async def revised(client: Client, movie: Movie, **members: object) -> Movie:
    response = await client.patch(f"/api/movies/{movie.id}", json=members)
    assert response.status_code == 200, response.text
    return movie_in(response)


async def removed(client: Client, movie: Movie) -> None:
    assert (await client.delete(f"/api/movies/{movie.id}")).status_code == 204


async def told(client: Client, query: str = "") -> Changes:
    response = await client.get(f"/api/changes{query}")
    assert response.status_code == 200, response.text
    return msgspec.json.decode(response.content, type=Changes)


async def history(client: Client, movie_id: int, query: str = "") -> History:
    response = await client.get(f"/api/movies/{movie_id}/history{query}")
    assert response.status_code == 200, response.text
    return msgspec.json.decode(response.content, type=History)


async def revert(client: Client, movie_id: int, to: object, **headers: str) -> Response:
    return await client.post(f"/api/movies/{movie_id}/revert", json={"version": to}, headers=headers)


def prune(client: Client) -> int:
    """Drop all of the log that may be dropped."""

    async def run() -> int:
        async with client.container.database().transactions() as tx:
            return await tx.events.prune(datetime.now(UTC) + timedelta(days=1), 1_000)

    return client.call(run)


# ---- history ----


async def test_a_history_is_told_newest_first_also_of_a_removed_movie(client: Client) -> None:
    heat = await client.added()
    crime = await revised(client, heat, genre="Crime")
    await removed(client, heat)
    await client.added(title="Alien")

    found = await history(client, heat.id)

    assert [(change.kind, change.version, change.seq) for change in found.data] == [
        ("movie_removed", 3, 3),
        ("movie_revised", 2, 2),
        ("movie_added", 1, 1),
    ]
    assert [change.movie for change in found.data] == [crime, crime, heat]
    assert {(change.movie_id, change.actor) for change in found.data} == {(heat.id, "anonymous")}
    assert found.next_cursor is None


async def test_a_change_has_its_members_in_the_order_of_the_contract(fake_client: Client) -> None:
    async def add() -> Movie:
        with traced_by(f"00-{1:032x}-{1:016x}-01"):  # which is not among them
            return await fake_client.container.catalogue().add({"title": "Heat"})

    movie = fake_client.call(add)

    for address in (f"/api/movies/{movie.id}/history", "/api/changes"):
        (change,) = (await fake_client.get(address)).json()["data"]
        assert list(change) == ["seq", "kind", "movie_id", "version", "at", "actor", "movie"]
        assert change["at"].endswith("Z")
        assert movie_in(await fake_client.get(f"/api/movies/{movie.id}")) == msgspec.convert(
            change["movie"], Movie
        )


async def test_pages_of_a_history_miss_nothing_while_it_grows(client: Client) -> None:
    movie = await client.added()
    for year in range(1990, 1996):
        await revised(client, movie, release_year=year)

    versions: list[int] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await history(client, movie.id, f"?limit=3&cursor={cursor}" if cursor else "?limit=3")
        versions += [change.version for change in page.data]
        cursor = page.next_cursor
        await revised(client, movie, genre=f"Genre {len(versions)}")

    assert versions == [7, 6, 5, 4, 3, 2, 1]


async def test_a_movie_without_a_history_has_an_empty_one(configure_fakes: Configure) -> None:
    async with Client(configure_fakes()) as client:
        movie_id = client.adopt("Heat")
        assert await history(client, movie_id) == History([], None)


@pytest.mark.parametrize("movie_id", ["1", "0", "01", "2147483648", "x"])
async def test_a_movie_that_never_was_has_no_history(fake_client: Client, movie_id: str) -> None:
    problem_in(await fake_client.get(f"/api/movies/{movie_id}/history"), "not_found")
    problem_in(await fake_client.post(f"/api/movies/{movie_id}/revert", json={"version": 1}), "not_found")


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("limit=0", ("limit", "invalid_value")),
        ("limit=201", ("limit", "invalid_value")),
        ("limit=x", ("limit", "invalid_value")),
        ("limit=1&limit=2", ("limit", "repeated_parameter")),
        ("after=1", ("after", "unknown_parameter")),
        ("cursor=", ("cursor", "invalid_cursor")),
        ("cursor=AAAA", ("cursor", "invalid_cursor")),
        ("cursor=%C3%A9", ("cursor", "invalid_cursor")),
        ("cursor=" + "A" * 5_000, ("cursor", "invalid_cursor")),
    ],
)
async def test_parameters_of_a_history(fake_client: Client, query: str, fault: tuple[str, str]) -> None:
    movie = await fake_client.added()
    response = await fake_client.get(f"/api/movies/{movie.id}/history?{query}")
    assert faults_in(response, "invalid_parameter") == {fault}


async def test_a_fault_of_a_request_is_said_before_the_movie_is_looked_for(fake_client: Client) -> None:
    for text in ("999", "01"):
        address = f"/api/movies/{text}/history"
        problem_in(await fake_client.get(f"{address}?limit=0"), "invalid_parameter")
        problem_in(await fake_client.get(f"{address}?cursor=x"), "invalid_parameter")
        problem_in(await fake_client.get(address, headers={"Watchly-Position": "x"}), "malformed_request")
        problem_in(await fake_client.get(address), "not_found")


async def test_a_cursor_belongs_to_its_movie_and_is_not_altered(client: Client) -> None:
    movies = [await client.added() for _ in range(2)]
    for movie in movies:
        await revised(client, movie, genre="Crime")
    cursor = (await history(client, movies[0].id, "?limit=1")).next_cursor
    assert cursor is not None
    other = ("B" if cursor[-1] == "A" else "A").join([cursor[:-1], ""])

    for movie, text in ((movies[1], cursor), (movies[0], other), (movies[0], cursor + "=")):
        response = await client.get(f"/api/movies/{movie.id}/history", params={"cursor": text})
        assert faults_in(response, "invalid_parameter") == {("cursor", "invalid_cursor")}
    assert [change.version for change in (await history(client, movies[0].id, f"?cursor={cursor}")).data] == [
        1
    ]


# ---- revert ----


async def test_a_movie_becomes_what_it_was_at_a_new_version(client: Client) -> None:
    heat = await client.added(genre="Crime")
    await revised(client, heat, title="Heath", genre=None)

    response = await revert(client, heat.id, 1)

    again = movie_in(response)
    assert response.status_code == 200
    assert (again.title, again.genre, again.version) == ("Heat", "Crime", 3)
    assert response.headers["etag"] == '"v3"'
    assert "watchly-image" not in response.headers
    assert await client.current(heat.id) == again
    assert [change.kind for change in (await history(client, heat.id)).data] == [
        "movie_revised",
        "movie_revised",
        "movie_added",
    ]


async def test_a_removed_movie_comes_back_and_its_version_goes_on(client: Client) -> None:
    heat = await client.added()
    await removed(client, heat)

    assert movie_in(await revert(client, heat.id, 1)).version == 3

    assert (await client.current(heat.id)).title == "Heat"


async def test_a_revert_to_what_it_is_changes_nothing(client: Client) -> None:
    heat = await client.added()

    assert movie_in(await revert(client, heat.id, 1)) == heat

    assert len((await history(client, heat.id)).data) == 1


@pytest.mark.parametrize("gone", [False, True])
async def test_a_revert_respects_if_match(client: Client, *, gone: bool) -> None:
    heat = await client.added()
    await revised(client, heat, genre="Crime")
    if gone:
        await removed(client, heat)
    now = 3 if gone else 2

    for stale in ('"v1"', f'"v{now + 1}"', '"v1", "v9"', '"x"', f'W/"v{now}"'):
        problem_in(await revert(client, heat.id, 1, **{"If-Match": stale}), "version_conflict")
    problem_in(await revert(client, heat.id, 1, **{"If-None-Match": f'"v{now}"'}), "version_conflict")
    problem_in(await revert(client, heat.id, 1, **{"If-Match": "v1"}), "malformed_request")
    assert (await history(client, heat.id)).data[0].version == now

    fresh = await revert(client, heat.id, 1, **{"If-Match": f'"v1", "v{now}"'})
    assert movie_in(fresh).version == now + 1


@pytest.mark.parametrize(
    ("body", "faults"),
    [
        (b"[]", {("#", "wrong_type")}),
        (b"{}", {("#/version", "required")}),
        (b'{"version": true}', {("#/version", "wrong_type")}),
        (b'{"version": 1.0}', {("#/version", "wrong_type")}),
        (b'{"version": "1"}', {("#/version", "wrong_type")}),
        (b'{"version": null}', {("#/version", "wrong_type")}),
        (b'{"version": 1, "to": 2}', {("#/to", "unknown_member")}),
        (b'{"versio": 1}', {("#/versio", "unknown_member"), ("#/version", "required")}),
        (b'{"version": 2}', {("#/version", "unknown_version")}),
        (b'{"version": 0}', {("#/version", "unknown_version")}),
        (b'{"version": -1}', {("#/version", "unknown_version")}),
        (b'{"version": 99999999999999999999999999}', {("#/version", "unknown_version")}),
    ],
)
async def test_a_body_that_names_no_version(
    client: Client, body: bytes, faults: set[tuple[str, str]]
) -> None:
    heat = await client.added()
    headers = {"Content-Type": "application/json"}

    response = await client.post(f"/api/movies/{heat.id}/revert", content=body, headers=headers)

    assert faults_in(response) == faults
    nowhere = await client.post("/api/movies/999/revert", content=body, headers=headers)
    problem_in(nowhere, "not_found")


@pytest.mark.parametrize(
    ("body", "kind", "code"),
    [
        (b'{"version": 1', "application/json", "malformed_json"),
        (b'{"version": 1}', "text/plain", "unsupported_media_type"),
        (b'{"version": 1' + b" " * 2_000 + b"}", "application/json", "too_large"),
    ],
)
async def test_a_body_that_cannot_be_read(
    configure_fakes: Configure, body: bytes, kind: str, code: str
) -> None:
    async with Client(configure_fakes(MAX_JSON_BYTES="1000")) as client:
        heat = await client.added()
        headers = {"Content-Type": kind}
        problem_in(await client.post(f"/api/movies/{heat.id}/revert", content=body, headers=headers), code)


async def test_the_version_of_a_removal_is_none_to_go_back_to(client: Client) -> None:
    heat = await client.added()
    await removed(client, heat)
    assert faults_in(await revert(client, heat.id, 2)) == {("#/version", "unknown_version")}


async def test_an_image_comes_back_while_it_is_kept(client: Client) -> None:
    movie, image = await with_image(client)
    assert (await client.delete(f"/api/movies/{movie.id}/image")).status_code == 204

    response = await revert(client, movie.id, movie.version)

    again = movie_in(response)
    assert again.image is not None
    assert again.image.key == image.key
    assert "watchly-image" not in response.headers
    assert sweep(client) == 0


async def test_a_movie_comes_back_without_an_image_that_is_gone_and_says_so(client: Client) -> None:
    movie, _ = await with_image(client)
    assert (await client.delete(f"/api/movies/{movie.id}/image?purge=true")).status_code == 204
    assert sweep(client) == 1

    response = await revert(client, movie.id, movie.version)

    assert response.status_code == 200
    assert response.headers["watchly-image"] == "gone"
    assert movie_in(response).image is None


# ---- changes ----


async def test_changes_are_told_in_one_order(client: Client) -> None:
    heat = await client.added()
    alien = await client.added(title="Alien")
    await revised(client, heat, genre="Crime")
    pictured = movie_in(await put(client, alien))
    await client.delete(f"/api/movies/{alien.id}/image")
    await removed(client, heat)

    found = await told(client)

    assert [(change.seq, change.kind, change.movie_id, change.version) for change in found.data] == [
        (1, "movie_added", heat.id, 1),
        (2, "movie_added", alien.id, 1),
        (3, "movie_revised", heat.id, 2),
        (4, "image_attached", alien.id, 2),
        (5, "image_detached", alien.id, 3),
        (6, "movie_removed", heat.id, 3),
    ]
    # With the addresses that its image has today.
    assert found.data[3].movie == pictured
    assert {change.kind for change in found.data} == KINDS
    assert found.next_after == 6


async def test_who_goes_on_after_next_after_misses_nothing_and_gets_nothing_twice(client: Client) -> None:
    numbers: list[int] = []
    after = 0
    for step in range(12):
        if step % 3 == 0:
            for _ in range(5):
                await client.added()
        page = await told(client, f"?after={after}&limit=3")
        numbers += [change.seq for change in page.data]
        after = page.next_after
    assert numbers == list(range(1, 21))
    assert await told(client, f"?after={after}") == Changes([], after)


async def test_changes_of_one_movie_and_of_some_kinds(client: Client) -> None:
    heat, alien = await client.added(), await client.added(title="Alien")
    for movie in (heat, alien):
        await revised(client, movie, genre="Crime")
    await removed(client, heat)

    async def numbers(query: str) -> list[int]:
        return [change.seq for change in (await told(client, query)).data]

    assert await numbers(f"?movie_id={heat.id}") == [1, 3, 5]
    assert await numbers("?kind=movie_removed,movie_added") == [1, 2, 5]
    assert await numbers(f"?kind=movie_revised&movie_id={alien.id}&after=3") == [4]
    assert await numbers("?movie_id=999") == []
    assert (await told(client, "?movie_id=999")).next_after == 5


async def test_beyond_the_end_there_is_nothing_yet(client: Client) -> None:
    await client.added()
    for after in (1, 2, 2**63 - 1):
        assert await told(client, f"?after={after}") == Changes([], after)


FAULTY = [
    ("after=-1", ("after", "invalid_value")),
    ("after=", ("after", "invalid_value")),
    ("after=1.0", ("after", "invalid_value")),
    ("after=%D9%A1", ("after", "invalid_value")),
    ("after=9223372036854775808", ("after", "invalid_value")),
    ("after=1&after=1", ("after", "repeated_parameter")),
    ("movie_id=0", ("movie_id", "invalid_value")),
    ("movie_id=2147483648", ("movie_id", "invalid_value")),
    ("kind=", ("kind", "invalid_value")),
    ("kind=movie_added,nothing", ("kind", "invalid_value")),
    ("kind=movie_added&kind=movie_revised", ("kind", "repeated_parameter")),
    ("since=1", ("since", "unknown_parameter")),
]


@pytest.mark.parametrize(("query", "fault"), FAULTY)
@pytest.mark.parametrize("address", ["/api/changes", "/api/changes/stream"])
async def test_parameters_that_mean_nothing_are_named(
    fake_client: Client, address: str, query: str, fault: tuple[str, str]
) -> None:
    assert faults_in(await fake_client.get(f"{address}?{query}"), "invalid_parameter") == {fault}


@pytest.mark.parametrize(("limit", "largest"), [("0", "200"), ("201", "200"), ("21", "20"), ("1001", "5000")])
async def test_a_limit_is_in_its_bounds(configure_fakes: Configure, limit: str, largest: str) -> None:
    async with Client(configure_fakes(MAX_PAGE_LIMIT=largest)) as client:
        assert faults_in(await client.get(f"/api/changes?limit={limit}"), "invalid_parameter") == {
            ("limit", "invalid_value")
        }
        for _ in range(51):
            await client.added()
        assert len((await told(client)).data) == min(50, int(largest))


@pytest.mark.parametrize("address", ["/api/changes", "/api/changes/stream"])
async def test_below_the_horizon_changes_are_gone(client: Client, address: str) -> None:
    heat = await client.added()
    for genre in ("Crime", "Thriller"):
        await revised(client, heat, genre=genre)
    assert len((await told(client)).data) == 3  # all have their numbers, and those that have none stay
    assert prune(client) == 2

    response = await client.get(f"{address}?after=1")

    problem_in(response, "changes_gone")
    assert msgspec.json.decode(response.content, type=ChangesGoneProblem).horizon == 2
    assert "errors" not in response.json()
    assert [change.seq for change in (await told(client, "?after=2")).data] == [3]
    assert [change.version for change in (await history(client, heat.id)).data] == [3]


@pytest.mark.parametrize("last", ["-1", "x", "", "1.0", "9223372036854775808"])
async def test_a_last_event_id_that_is_no_number(fake_client: Client, last: str) -> None:
    problem_in(
        await fake_client.get("/api/changes/stream", headers={"Last-Event-ID": last}), "malformed_request"
    )


async def test_the_head_of_a_stream(client: Client) -> None:
    response = await client.head("/api/changes/stream")

    assert response.status_code == 200
    assert response.content == b""
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-accel-buffering"] == "no"
