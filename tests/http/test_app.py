"""The application as it is put together."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog
from litestar.routes import HTTPRoute
from tests.http.cast import running
from tests.http.conftest import Configure

from watchly_http.app import create_app

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
