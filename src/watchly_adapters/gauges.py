"""Gauges of what all processes see alike, which is asked for when a page is written: backlogs and health."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from watchly_core.backlogs import Backlog


def of_backlog(backlog: Backlog) -> Iterable[Metric]:
    """What is still to be done in the background."""
    yield _gauge("watchly_log_changes", "Number of the last change.", backlog.numbered_up_to)
    yield _gauge("watchly_log_unnumbered", "Changes that have no number yet.", backlog.unnumbered)
    behind = _by_target(
        "watchly_relay_behind", "Changes that the target which is furthest behind does not know."
    )
    letters = GaugeMetricFamily(
        "watchly_relay_letters",
        "Messages that are set aside: to be tried again, or given up.",
        labels=("target", "state"),
    )
    down = _by_target("watchly_relay_targets_down", "Targets that take nothing at present.")
    for target, relay in (("broker", backlog.broker), ("webhook", backlog.webhook)):
        behind.add_metric((target,), relay.behind)
        letters.add_metric((target, "waiting"), relay.waiting)
        letters.add_metric((target, "dead"), relay.dead)
        down.add_metric((target,), relay.down)
    yield from (behind, letters, down)
    yield _gauge("watchly_images_due", "Images that the sweeper should have deleted.", backlog.images_due)
    yield _gauge("watchly_images_dead", "Images that the sweeper has given up.", backlog.images_dead)
    yield _gauge(
        "watchly_images_overdue_seconds",
        "Time for which the first of the images that are due has been so.",
        backlog.overdue,
    )


def of_health(checks: Mapping[str, bool], *, ready: bool) -> Iterable[Metric]:
    """Whether the instance that shows the page should get requests, and how it finds the parts."""
    yield _gauge("watchly_ready", "Whether this instance should get requests.", ready)
    up = GaugeMetricFamily("watchly_check_up", "Whether a part gives signs of life.", labels=("check",))
    for name, alive in checks.items():
        up.add_metric((name,), alive)
    yield up


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(name, documentation, value)


def _by_target(name: str, documentation: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, documentation, labels=("target",))
