"""Spans as a collector of OpenTelemetry gets them: by OTLP over HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.receivers import Receiver


class Collected(NamedTuple):
    """A span; ids are hexadecimal digits, and `parent` is empty where there is none."""

    name: str
    service: str
    trace: str
    id: str
    parent: str
    attributes: Mapping[str, str]


def collected(receiver: Receiver) -> Sequence[Collected]:
    """All spans that were sent so far."""
    return [
        Collected(
            span.name,
            {each.key: each.value.string_value for each in of.resource.attributes}["service.name"],
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            {each.key: each.value.string_value or str(each.value.int_value) for each in span.attributes},
        )
        for received in receiver.received
        if received.path.endswith("/v1/traces")
        for of in ExportTraceServiceRequest.FromString(received.body).resource_spans
        for scope in of.scope_spans
        for span in scope.spans
    ]
