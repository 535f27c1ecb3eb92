"""Traces by OpenTelemetry: requests and their steps as spans, which belong together across processes.

Names of spans and attributes follow its semantic conventions; none holds an id, or what somebody sent.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.semconv.attributes.db_attributes import DB_QUERY_SUMMARY, DB_SYSTEM_NAME
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_METHOD,
    HTTP_RESPONSE_STATUS_CODE,
    HTTP_ROUTE,
)
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from watchly_adapters.watching import Kind
from watchly_core.errors import Misconfigured
from watchly_core.traces import current_trace, traced_by

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

_KINDS: Final[Mapping[Kind, SpanKind]] = {
    "use_case": SpanKind.INTERNAL,
    "statement": SpanKind.CLIENT,
    "image_store": SpanKind.CLIENT,
    "publish": SpanKind.PRODUCER,
}
#: What stands before a name that says too little by itself.
_NAMED: Final[Mapping[Kind, str]] = {"publish": "publish to "}
#: The first status that is the service's fault.
_FAULT: Final = 500

#: How others name a trace, and in which headers. Events name theirs so, and there is no other way here.
_PROPAGATOR: Final = TraceContextTextMapPropagator()
_CARRIED: Final = frozenset(_PROPAGATOR.fields)

#: Seconds that a stop waits for whoever collects spans.
_PATIENCE: Final = 2.0


class Tracing:
    """Makes spans.

    Args:
        provider: where they go.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("watchly", version("watchly"))

    @contextmanager
    def step(self, kind: Kind, name: str) -> Iterator[None]:
        """A span for the length of a block, within the one that is under way, here or elsewhere.

        There is none where nothing is: what goes on in the background, all day, is of no trace.
        """
        within: Context | None = None
        if not trace.get_current_span().get_span_context().is_valid:
            if (elsewhere := current_trace()) is None:
                yield
                return
            within = _PROPAGATOR.extract({"traceparent": elsewhere}, Context())
        attributes: dict[str, AttributeValue] = {}
        if kind == "statement":
            attributes = {DB_SYSTEM_NAME: "postgresql", DB_QUERY_SUMMARY: name}
        with self._span(_NAMED.get(kind, "") + name, _KINDS[kind], attributes, within):
            yield

    @contextmanager
    def request(self, method: str, headers: Mapping[str, str]) -> Iterator[RequestSpan]:
        """A span for a request, within that of the client if `headers` name it."""
        carried = {name: value for name, value in headers.items() if name in _CARRIED}
        context = _PROPAGATOR.extract(carried, Context()) if carried else Context()
        with self._span(method, SpanKind.SERVER, {HTTP_REQUEST_METHOD: method}, context) as span:
            yield RequestSpan(span, method)

    def close(self) -> None:
        """Send what is left, if that is soon done."""
        # In a thread that the process does not wait for: the library gives up after half a minute.
        sending = threading.Thread(target=self._provider.shutdown, name="watchly-traces", daemon=True)
        sending.start()
        sending.join(_PATIENCE)

    @contextmanager
    def _span(
        self, name: str, kind: SpanKind, attributes: Mapping[str, AttributeValue], context: Context | None
    ) -> Iterator[Span]:
        with self._tracer.start_as_current_span(
            name,
            context,
            kind,
            attributes,
            # What an error says may hold what somebody sent.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                with traced_by(_traceparent(span)):
                    yield span
            except BaseException as error:
                span.set_attribute(ERROR_TYPE, type(error).__name__)
                span.set_status(Status(StatusCode.ERROR))
                raise


class RequestSpan:
    """The span of a request, whose route and status are known at its end."""

    def __init__(self, span: Span, method: str) -> None:
        self._span, self._method = span, method

    @property
    def trace(self) -> str:
        """How it is named to others, as in a header `traceparent`."""
        return _traceparent(self._span)

    def end(self, route: str | None, status: int) -> None:
        """Say what became of the request."""
        if route is not None:
            self._span.update_name(f"{self._method} {route}")
            self._span.set_attribute(HTTP_ROUTE, route)
        self._span.set_attribute(HTTP_RESPONSE_STATUS_CODE, status)
        if status >= _FAULT:
            self._span.set_attribute(ERROR_TYPE, str(status))
            self._span.set_status(Status(StatusCode.ERROR))


def _traceparent(span: Span) -> str:
    """How a span is named to others (W3C Trace Context, section 3.2.2)."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def make_tracing(variables: Mapping[str, str]) -> Tracing:
    """Traces as the OTEL_ variables say, which are also those of a file `.env`.

    Raises:
        Misconfigured: one of them asks for what there is not.
    """
    for name, value in variables.items():
        os.environ.setdefault(name, value)  # where the library looks
    if SERVICE_NAME not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        os.environ.setdefault("OTEL_SERVICE_NAME", "watchly")
    if "tracecontext" not in variables.get("OTEL_PROPAGATORS", "tracecontext").replace(" ", "").split(","):
        raise Misconfigured(
            "OTEL_PROPAGATORS must be tracecontext, or name it among others;"
            " an example: OTEL_PROPAGATORS=tracecontext"
        )
    exporter = _exporter(variables)
    try:
        provider = TracerProvider(resource=Resource.create(), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(exporter))
    except ValueError as error:
        raise Misconfigured(
            f"OTEL_ variables: {str(error).rstrip('.')}; an example: OTEL_BSP_MAX_QUEUE_SIZE=2048"
        ) from error
    return Tracing(provider)


def _exporter(variables: Mapping[str, str]) -> SpanExporter:
    match variables.get("OTEL_TRACES_EXPORTER") or "otlp":
        case "console":
            return ConsoleSpanExporter()
        case "otlp":
            pass
        case other:
            raise Misconfigured(
                f"OTEL_TRACES_EXPORTER must be otlp, console or none, not {other};"
                " an example: OTEL_TRACES_EXPORTER=otlp"
            )
    variable = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
    if variable not in variables:
        variable = "OTEL_EXPORTER_OTLP_PROTOCOL"
    if variables.get(variable, "http/protobuf") != "http/protobuf":
        raise Misconfigured(f"{variable} must be http/protobuf; an example: {variable}=http/protobuf")
    return OTLPSpanExporter()
