"""The page of metrics, for Prometheus and those who speak as it does."""

from __future__ import annotations

from typing import Final

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import SkipValidation

from watchly_adapters.metrics import Metrics
from watchly_http.negotiation import Representation, acceptable
from watchly_http.openapi import Operation, Reply
from watchly_http.requests import Request
from watchly_http.routes import Routes

_TEXT: Final = Representation("text/plain", {"version": "0.0.4"})  # the framework adds the charset
_OPENMETRICS: Final = Representation("application/openmetrics-text", {"version": "1.0.0", "charset": "utf-8"})
#: The same again, for those who say what to do with names of odd letters: here are none.
_ESCAPED: Final = tuple(
    Representation(_OPENMETRICS.media_type, {**_OPENMETRICS.parameters, "escaping": escaping})
    for escaping in ("allow-utf-8", "underscores", "dots", "values")
)


class MetricsController(Routes):
    """Metrics."""

    path = "/metrics"

    @get(
        opt=Operation(
            "getMetrics",
            "How does it do, in figures?",
            {
                200: Reply(
                    "All that is counted, by all workers together, in the text format or in OpenMetrics.",
                    bytes,
                    media_types=(_TEXT.media_type, _OPENMETRICS.media_type),
                    headers=("Cache-Control", "Vary"),
                )
            },
            needs=None,
            tag="Operations",
            problems=("not_acceptable",),
        ).opt(),
    )
    async def metrics(
        self, request: Request, metrics: NamedDependency[SkipValidation[Metrics]]
    ) -> Response[bytes]:
        """Answer as Prometheus expects, whichever worker is asked."""
        form = acceptable(request, (_TEXT, _OPENMETRICS, *_ESCAPED))
        page = await metrics.page(as_openmetrics=form.media_type == _OPENMETRICS.media_type)
        return Response(page, media_type=form.content_type, headers={"Cache-Control": "no-store"})
