"""The plugin of pytest, as those use it who build on Watchly: each test here runs some of theirs."""

from __future__ import annotations

from typing import Final

import pytest

pytest_plugins = ["pytester"]

_BACKEND: Final = """
import pytest

@pytest.fixture
def anyio_backend():
    return "asyncio"
"""


def run(pytester: pytest.Pytester, *more: str) -> pytest.RunResult:
    """Run the tests in this directory, in a process that has loaded nothing but the plugin, and these."""
    named = [part for plugin in ("watchly_adapters.testing.plugin", *more) for part in ("-p", plugin)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        return pytester.runpytest_subprocess("-W", "error", *named)


def test_a_catalogue_and_its_api_are_there_for_tests(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(_BACKEND)
    pytester.makepyfile(
        test_waiting="""
        import datetime
        import pytest
        from watchly_adapters.testing import samples
        from watchly_core.errors import Unavailable

        PNG = samples.UPRIGHT["png"]
        TWO_DAYS = datetime.timedelta(days=2)

        def test_clients(client, script, clock, movie_ids):
            assert client.post("/api/movies", json={"title": "Heat"}).status_code == 201
            assert client.get("/api/movies/1").json()["created_at"] == "2026-03-01T12:00:00.123456Z"
            clock.move(TWO_DAYS)
            revised = client.patch("/api/movies/1", json={"genre": "Crime"}).json()
            assert revised["updated_at"] == "2026-03-03T12:00:00.123456Z"
            image = client.put("/api/movies/1/image", content=PNG, headers={"Content-Type": "image/png"})
            assert image.json()["image"]["key"] == "0" * 31 + "1"
            script.fail_next("queries.find")
            assert client.get("/api/movies").status_code == 503
            (added,) = script.called("movies.add")
            assert added.result.id == 1

        def test_answers_are_lost(client, script, clock):
            key = {"Idempotency-Key": "k"}
            script.fail_next("movies.add", after_commit=True)
            assert client.post("/api/movies", json={"title": "Heat"}, headers=key).status_code == 503
            again = client.post("/api/movies", json={"title": "Heat"}, headers=key)
            assert (again.status_code, again.headers["idempotency-replayed"]) == (201, "true")
            clock.move(TWO_DAYS)
            once_more = client.post("/api/movies", json={"title": "Heat"}, headers=key)
            assert once_more.json()["id"] == 2

        def test_blocking(blocking_catalogue, blocking_gallery, client, clock, script):
            heat = blocking_catalogue.add({"title": "Heat"})
            assert heat.created_at == clock()
            shown = blocking_gallery.attach(heat.id, [PNG], "image/png")
            assert shown.image.key == "0" * 31 + "1"
            assert blocking_catalogue.get(heat.id) == shown
            assert [each.title for rows in blocking_catalogue.export() for each in rows] == ["Heat"]
            # The API has the same movies.
            assert client.get("/api/movies/1").json()["image"]["key"] == shown.image.key
            client.patch("/api/movies/1", json={"genre": "Crime"})
            assert blocking_catalogue.get(1).genre == "Crime"
            script.fail_next("movies.add", after_commit=True)
            with pytest.raises(Unavailable):
                blocking_catalogue.add({"title": "Ronin"})
            assert blocking_catalogue.get(2).title == "Ronin"

        def test_waiting(client, script):
            held = script.hold_next("movies.add")
            answers = client.blocking_portal.start_task_soon(waiting, client)
            held.wait()
            assert client.get("/api/movies").json()["data"] == []
            held.release()
            answers.result()
            assert client.get("/api/movies/1").status_code == 200

        async def waiting(client):
            import anyio
            await anyio.to_thread.run_sync(lambda: client.post("/api/movies", json={"title": "Heat"}))
        """,
        test_awaiting="""
        import pytest
        from watchly_core.errors import Unavailable

        pytestmark = pytest.mark.anyio

        @pytest.fixture
        def movie_ids():
            return [41, 17]

        async def pieces(content):
            yield content

        async def test_use_cases(catalogue, gallery, image_store, async_client, script):
            from watchly_adapters.testing import samples
            movie = await catalogue.add({"title": "Heat"})
            assert movie.id == 41
            shown = await gallery.attach(movie.id, pieces(samples.UPRIGHT["png"]), "image/png")
            assert shown.image.key == "0" * 31 + "1"
            assert await image_store.stat(shown.image.key)
            found = await async_client.get("/api/movies/41")
            assert found.json()["image"]["key"] == shown.image.key
            script.fail_next("movies.add", after_commit=True)
            with pytest.raises(Unavailable):
                await catalogue.add({"title": "Ronin"})
            assert (await async_client.get("/api/movies/17")).json()["title"] == "Ronin"
        """,
    )
    run(pytester, "anyio").assert_outcomes(passed=5)


def test_fixtures_of_ones_own_take_the_place_of_these(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import pytest
        from watchly_adapters.memory import MemoryImages

        class Cupboard(MemoryImages):
            pass

        @pytest.fixture
        def image_store():
            return Cupboard()

        @pytest.fixture
        def watchly_settings():
            return {"SERVICE": "movies", "PUBLIC_READ": "true"}

        def test_it(client, watchly_container):
            assert type(watchly_container.images()) is Cupboard
            assert client.get("/api/movies").status_code == 200
            assert client.post("/api/movies", json={"title": "Heat"}).status_code == 401
            assert client.get("/api/changes").status_code == 404
    """)
    run(pytester).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("missing", "extras"),
    [
        ("litestar", "server"),
        ("PIL", None),
        ("httpx", "server,testing"),
    ],
)
def test_an_extra_that_is_missing_is_named(
    pytester: pytest.Pytester, missing: str, extras: str | None
) -> None:
    pytester.makeconftest(f"import sys\nsys.modules[{missing!r}] = None\n")
    pytester.makepyfile("""
        def test_core(catalogue, gallery, image_store, clock, script):
            assert script.calls == ()

        def test_client(client):
            assert client.get("/health/live").status_code == 200
    """)
    result = run(pytester)
    if extras is None:  # Pillow is needed by no fixture
        result.assert_outcomes(passed=2)
        return
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines([f"this fixture needs {missing}*: pip install 'watchly[[]{extras}[]]'"])
    assert "Traceback" not in result.stdout.str()


def test_it_loads_no_extra_until_a_fixture_needs_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import sys

        def test_core(catalogue, gallery):
            loaded = {"litestar", "httpx", "psycopg", "dependency_injector", "PIL", "watchly_http"}
            assert loaded.isdisjoint(sys.modules)
    """)
    run(pytester).assert_outcomes(passed=1)
