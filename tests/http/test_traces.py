"""Traces of a service as users run it: from the client through SQL and the log to other services."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import httpx
import pytest
from tests.brokers import Nats, kept
from tests.receivers import Receiver, receiving
from tests.services import Service, as_url, wait_until
from tests.spans import Collected, collected

TRACE: Final = "0af7651916cd43dd8448eb211c80319c"
CLIENT: Final = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.fixture
def collector() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def settings(collector: Receiver, database_url: str, home: Path) -> dict[str, str]:
    return {
        "DATABASE_URL": as_url(database_url),
        "SECRET_KEY": "k" * 32,
        "WATCHLY_HOME": str(home),
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }


def chain(spans: Sequence[Collected], last: Collected) -> list[str]:
    """The names of a span and of those that it is within, the outermost first."""
    names = [last.name]
    by_id = {span.id: span for span in spans}
    while last.parent in by_id:
        last = by_id[last.parent]
        names.insert(0, last.name)
    return names


def test_a_trace_goes_from_a_request_through_an_event_to_a_broker(
    collector: Receiver, empty_database: str, tmp_path: Path
) -> None:
    variables = settings(collector, empty_database, tmp_path)
    with (
        Nats(tmp_path / "nats") as broker,
        Service(tmp_path / "log", "--workers", "1", **variables, RELAY="on", NATS_URL=broker.url) as service,
    ):
        title = "Perfect Days, which nobody else may see"
        added = httpx.post(
            f"{service.url}/api/movies", json={"title": title}, headers={"traceparent": CLIENT}
        )
        assert added.status_code == 201

        def told() -> bool:
            return any(span.name == "publish to broker" for span in collected(collector))

        wait_until(told, "the publication was traced")
        messages = asyncio.run(kept(broker))
        assert service.stop() == 0

    spans = [span for span in collected(collector) if span.trace == TRACE]
    by_name = {span.name: span for span in spans}
    assert {span.service for span in spans} == {"watchly"}
    request = by_name["POST /api/movies"]
    assert request.parent == CLIENT[36:52]
    assert chain(spans, by_name["publish to broker"]) == [
        "POST /api/movies",
        "catalogue.add",
        "publish to broker",
    ]
    statements = {span.name for span in spans if "db.query.summary" in span.attributes}
    assert {"movies.add", "events.append"} & statements
    for span in spans:
        if span.name in statements:
            assert chain(spans, span)[:2] == ["POST /api/movies", "catalogue.add"]
    (message,) = messages
    assert message.headers["traceparent"] == f"00-{TRACE}-{by_name['publish to broker'].id}-01"
    assert f'"traceparent":"00-{TRACE}-{by_name["catalogue.add"].id}-01"' in message.body.decode()
    assert all(title.encode() not in received.body for received in collector.received)


def test_a_trace_goes_on_where_another_process_relays(
    collector: Receiver, empty_database: str, tmp_path: Path
) -> None:
    variables = settings(collector, empty_database, tmp_path)
    with Service(tmp_path / "log", "--workers", "1", **variables) as service:
        httpx.post(f"{service.url}/api/movies", json={"title": "Ran"}, headers={"traceparent": CLIENT})
        assert service.stop() == 0
    # What is left is sent before the end.
    (added,) = [span for span in collected(collector) if span.name == "catalogue.add"]
    with Nats(tmp_path / "nats") as broker:
        relay = {**variables, "OTEL_SERVICE_NAME": "relay", "RELAY": "on", "NATS_URL": broker.url}
        with Service(tmp_path / "log of the relay", "--workers", "1", **relay) as service:
            wait_until(
                lambda: "publish to broker" in {span.name for span in collected(collector)}, "it was told"
            )
            assert service.stop() == 0

    (told,) = [span for span in collected(collector) if span.name == "publish to broker"]
    assert (told.trace, told.parent, told.service) == (TRACE, added.id, "relay")
