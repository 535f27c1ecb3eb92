"""All metrics of a page, and what may stand in their labels."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Final, NamedTuple

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

_SWITCH: Final = "in|out"
_ROUTE: Final = r"none|/[a-z0-9_./{}:-]*"
_METHOD: Final = "GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|other"
_TARGET: Final = "broker|webhook"
#: The name of an error, unless all went well.
_OUTCOME: Final = "ok|[A-Z][A-Za-z]+"
_BOUND: Final = r"[0-9.]+|\+Inf"


class Described(NamedTuple):
    """Of which type a metric is, and what its labels may hold."""

    kind: str
    labels: Mapping[str, str]


def _counter(**labels: str) -> Described:
    return Described("counter", labels)


def _gauge(**labels: str) -> Described:
    return Described("gauge", labels)


def _histogram(**labels: str) -> Described:
    return Described("histogram", {**labels, "le": _BOUND})


METRICS: Final[Mapping[str, Described]] = {
    "watchly_build_info": _gauge(version=re.escape(version("watchly")), python=platform.python_version()),
    "watchly_workers": _gauge(),
    "watchly_http_requests": _counter(route=_ROUTE, method=_METHOD, status="[1-5][0-9][0-9]"),
    "watchly_http_request_seconds": _histogram(route=_ROUTE, method=_METHOD),
    "watchly_http_requests_in_flight": _gauge(),
    "watchly_http_bytes": _counter(route=_ROUTE, direction=_SWITCH),
    "watchly_database_statement_seconds": _histogram(statement=r"[a-z_]+(\.[a-z_]+)?", outcome=_OUTCOME),
    "watchly_image_store_call_seconds": _histogram(call=r"image_store\.[a-z_]+", outcome=_OUTCOME),
    "watchly_publish_seconds": _histogram(target=_TARGET, outcome=_OUTCOME),
    "watchly_use_case_seconds": _histogram(use_case=r"[a-z_]+\.[a-z_]+", outcome=_OUTCOME),
    "watchly_pool_connections": _gauge(pool="primary|replica", state="open|idle"),
    "watchly_pool_waiting": _gauge(pool="primary|replica"),
    "watchly_pool_refused": _counter(pool="primary|replica"),
    "watchly_pool_acquire_seconds": _histogram(pool="primary|replica"),
    "watchly_cache_reads": _counter(outcome="hit|miss", level="local|shared|none"),
    "watchly_cache_hit_age_seconds": _histogram(),
    "watchly_cache_failures": _counter(),
    "watchly_rate_limit_failures": _counter(),
    "watchly_log_changes": _gauge(),
    "watchly_log_unnumbered": _gauge(),
    "watchly_relay_behind": _gauge(target=_TARGET),
    "watchly_relay_letters": _gauge(target=_TARGET, state="waiting|dead"),
    "watchly_relay_targets_down": _gauge(target=_TARGET),
    "watchly_images_due": _gauge(),
    "watchly_images_dead": _gauge(),
    "watchly_images_overdue_seconds": _gauge(),
    "watchly_ready": _gauge(),
    "watchly_check_up": _gauge(check="database|image_store|replica|cache|keys|rate_limit"),
}


def families(page: str) -> list[Metric]:
    """The metrics of a page, without the times at which the library made them."""
    found = text_string_to_metric_families(page)
    return [family for family in found if not family.name.endswith("_created")]


def odd_labels(page: str) -> Iterator[str]:
    """The labels of a page that hold what they should not, or that nobody knows."""
    for family in families(page):
        for sample in family.samples:
            for name, value in sample.labels.items():
                if re.fullmatch(METRICS[family.name].labels.get(name, ""), value) is None:
                    yield f"{sample.name}{{{name}={value}}}"
