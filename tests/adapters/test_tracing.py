"""Spans: how they hang together, what they say, and what they never do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from watchly_adapters import tracing
from watchly_adapters.metrics import Metrics
from watchly_adapters.steps import Steps
from watchly_adapters.tracing import Tracing, make_tracing
from watchly_core.errors import Misconfigured, NotFound
from watchly_core.traces import current_trace, traced_by

pytestmark = pytest.mark.anyio

CLIENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Spans:
    """Traces that are kept in memory."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracing = Tracing(provider)

    def ended(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self._exporter.get_finished_spans()}


def parent(span: ReadableSpan) -> str:
    assert span.parent is not None
    return f"{span.parent.trace_id:032x}-{span.parent.span_id:016x}"


def own(span: ReadableSpan) -> str:
    context = span.get_span_context()
    assert context is not None
    return f"{context.trace_id:032x}-{context.span_id:016x}"


async def test_a_request_goes_on_with_the_trace_of_its_client() -> None:
    spans = Spans()
    steps = Steps(Metrics().steps, spans.tracing)

    with spans.tracing.request("GET", {"traceparent": CLIENT, "cookie": "secret"}) as request:
        with steps.step("use_case", "catalogue.get"):
            await asyncio.sleep(0)
            with steps.step("statement", "movies.get"):
                within = current_trace()
        request.end("/api/movies/{movie_id}", 200)
    assert current_trace() is None

    ended = spans.ended()
    asked, case, sql = ended["GET /api/movies/{movie_id}"], ended["catalogue.get"], ended["movies.get"]
    assert parent(asked) == CLIENT[3:-3]
    assert (parent(case), parent(sql)) == (own(asked), own(case))
    assert within == f"00-{own(sql)}-01"
    assert request.trace == f"00-{own(asked)}-01"
    assert [span.kind for span in (asked, case, sql)] == [SpanKind.SERVER, SpanKind.INTERNAL, SpanKind.CLIENT]
    assert dict(asked.attributes or {}) == {
        "http.request.method": "GET",
        "http.route": "/api/movies/{movie_id}",
        "http.response.status_code": 200,
    }
    assert dict(sql.attributes or {}) == {"db.system.name": "postgresql", "db.query.summary": "movies.get"}


@pytest.mark.parametrize("header", ["", "00-0-0-00", "ff-" + CLIENT[3:], "00-" + "0" * 32 + CLIENT[35:]])
async def test_without_a_client_that_traces_a_request_begins_one(header: str) -> None:
    spans = Spans()
    with spans.tracing.request("GET", {"traceparent": header}) as request:
        request.end(None, 404)

    assert spans.ended()["GET"].parent is None


async def test_what_is_not_to_be_sampled_is_not() -> None:
    spans = Spans()
    with spans.tracing.request("GET", {"traceparent": CLIENT[:-1] + "0"}) as request:
        within = current_trace()
        request.end(None, 200)

    assert spans.ended() == {}
    assert within is not None
    assert within.endswith("-00")


async def test_a_step_elsewhere_goes_on_with_what_the_core_says() -> None:
    spans = Spans()
    with traced_by(CLIENT), spans.tracing.step("publish", "broker"):
        pass

    assert parent(spans.ended()["publish to broker"]) == CLIENT[3:-3]
    assert spans.ended()["publish to broker"].kind is SpanKind.PRODUCER


async def test_a_step_of_nothing_that_is_traced_is_no_span() -> None:
    spans = Spans()
    with spans.tracing.step("statement", "numbering.number"):
        pass

    assert spans.ended() == {}


async def test_an_error_is_named_and_not_quoted() -> None:
    spans = Spans()
    with traced_by(CLIENT), pytest.raises(NotFound), spans.tracing.step("use_case", "catalogue.get"):
        raise NotFound("my secret film")

    span = spans.ended()["catalogue.get"]
    assert span.status.status_code is StatusCode.ERROR
    assert dict(span.attributes or {}) == {"error.type": "NotFound"}
    assert "secret" not in span.to_json()


@pytest.mark.parametrize(("status", "code"), [(499, StatusCode.UNSET), (500, StatusCode.ERROR)])
async def test_a_reply_is_an_error_if_the_service_is_at_fault(status: int, code: StatusCode) -> None:
    spans = Spans()
    with spans.tracing.request("GET", {}) as request:
        request.end("/health", status)

    assert spans.ended()["GET /health"].status.status_code is code


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_PROPAGATORS", "b3,jaeger"),
    ],
)
def test_what_is_not_there_is_said_at_the_start(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(Misconfigured, match=f"^{name} must be .*; an example: {name}="):
        make_tracing({name: value})


def test_a_number_that_cannot_be_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-1")
    with pytest.raises(Misconfigured, match=r"^OTEL_ variables: max_queue_size must be .*; an example: .*$"):
        make_tracing({"OTEL_BSP_MAX_QUEUE_SIZE": "-1"})


class Hanging(SpanExporter):
    """Sends spans to somebody who does not answer."""

    def __init__(self) -> None:
        self.answered = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002 - as the library calls it
        assert self.answered.wait(60)
        return SpanExportResult.SUCCESS


def test_a_stop_does_not_wait_for_who_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_PATIENCE", 0.01)
    exporter = Hanging()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    traced = Tracing(provider)
    with traced.request("GET", {}) as request:
        request.end(None, 200)
    closing = threading.Thread(target=traced.close, daemon=True)
    closing.start()
    closing.join(20)  # a deadline: less than the half minute for which the library waits

    assert not closing.is_alive()
    exporter.answered.set()
