"""The application as it is put together."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import Iterator

import pytest
import structlog
from litestar import Litestar
from litestar.routes import HTTPRoute
from litestar.testing import RequestFactory
from litestar.types import HTTPRequestEvent, Message, Receive, Scope, Send
from tests.http.cast import running
from tests.http.conftest import Configure

from watchly_adapters.metrics import Metrics
from watchly_core.tasks import cancelled
from watchly_http.app import create_app
from watchly_http.front import Bounds, Front

pytestmark = pytest.mark.anyio


@pytest.fixture
def loggers() -> Iterator[None]:
    """structlog as it was, after a test that configures it."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def test_no_handler_needs_tasks_for_its_parts(configure_fakes: Configure) -> None:
    models = [
        model
        for route in create_app(configure_fakes()).routes
        if isinstance(route, HTTPRoute)
        for _, model in route.route_handler_map.values()
    ]

    assert max(len(model.dependency_batches) for model in models) > 1
    assert {len(batch) for model in models for batch in model.dependency_batches} == {1}


@pytest.mark.usefixtures("loggers")
@pytest.mark.parametrize(
    "kind",
    [None, structlog.make_filtering_bound_logger(logging.INFO)],
    ids=["as structlog has it", "of structlog alone"],
)
async def test_requests_are_answered_and_logged_whatever_kind_of_loggers_there_are(
    configure_fakes: Configure,
    kind: type[structlog.typing.BindableLogger] | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    structlog.reset_defaults()
    structlog.configure(wrapper_class=kind)

    async with running(configure_fakes()) as (_, client):
        assert (await client.get("/api/movies")).status_code == 200

    assert "/api/movies" in capsys.readouterr().out


@pytest.mark.parametrize("late", [False, True])
async def test_nothing_holds_a_connection_when_its_request_is_over(*, late: bool) -> None:
    """Not even what the request began, which lives longer, nor until somebody looks for garbage."""

    class Connection:
        async def receive(self) -> HTTPRequestEvent:
            await asyncio.Event().wait()
            raise AssertionError

        async def send(self, message: Message) -> None:
            pass

    async def last() -> None:
        await asyncio.Event().wait()

    lasting: list[asyncio.Task[None]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - ASGI
        lasting.append(asyncio.create_task(last()))
        if late:
            await asyncio.Event().wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    front = Front(app, by_origin=False, metrics=Metrics().requests, bounds=Bounds(0.02))
    scope = RequestFactory(Litestar(logging_config=None)).get("/").scope
    scope["headers"] = [(b"host", b"x"), (b"content-length", b"100"), (b"expect", b"100-continue")]
    connection = Connection()
    held = weakref.ref(connection)
    gc.disable()
    try:
        task = asyncio.create_task(front(scope, connection.receive, connection.send))
        del connection
        await task
        del task
        await asyncio.sleep(0)  # whoever waited for it has heard
        assert held() is None
    finally:
        gc.enable()
        await cancelled(*lasting)
