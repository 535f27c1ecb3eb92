"""What watches Watchly: the dashboard, the rules and the alerts, and Prometheus with them on a real service.

`alerts_test.yaml` has what the alerts have to prove.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import httpx
import msgspec
import pytest
from litestar.routes import HTTPRoute
from tests.daemons import Daemon
from tests.dashboards import CONFIGURATION, DASHBOARD, RULES, Dashboard, asked, panels, rules
from tests.metrics import METRICS
from tests.services import NO_CERTIFICATES, Service, wait_until

from watchly_adapters.cloudinary import calls
from watchly_adapters.container import Container
from watchly_adapters.settings import MEMORY, read_settings
from watchly_core import errors
from watchly_http.app import create_app

TESTS: Final = Path(__file__).with_name("alerts_test.yaml")

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="there is no promtool: install Debian's prometheus"
)
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="there is no prometheus: install Debian's"
)

#: All metrics by their names, and the names of their labels.
LABELS: Final[Mapping[str, frozenset[str]]] = {
    f"{name}_total" if described.kind == "counter" else name: frozenset(described.labels) - {"le"}
    for name, described in METRICS.items()
}
#: Metrics that the dashboard does not show, and why.
NOT_SHOWN: Final[Mapping[str, str]] = {}
#: What Prometheus adds by itself.
TARGET: Final = frozenset({"job", "instance"})

#: A name in an expression, whose labels stand in braces if it is of a metric.
SELECTOR: Final = re.compile(r"\b((?:watchly_\w|job_?\w*:)[\w:]+|up|ALERTS)\b(?:\{([^}]*)\})?")
MATCHER: Final = re.compile(r'(\w+)(?:=~|!~|!=|=)"([^"]*)"')
GROUPING: Final = re.compile(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\(([^)]*)\)")


class Expected(msgspec.Struct):
    """What an alert should come to; no samples: it is quiet."""

    expr: str
    exp_samples: list[dict[str, str | int]] = []


class Case(msgspec.Struct):
    """A test of rules."""

    name: str
    promql_expr_test: list[Expected]


class Cases(msgspec.Struct):
    """A file of tests of rules."""

    tests: list[Case]


def promtool(*words: str | Path) -> None:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


#: An expression, and what else names the labels of what it comes to.
Wording: TypeAlias = tuple[str, str]

WORDINGS: Final[Sequence[Wording]] = [
    *((rule.expr, "".join(rule.annotations.values())) for rule in rules()),
    *((target.expr, target.legend_format) for panel in panels() for target in panel.targets),
]


def labels_of(name: str) -> frozenset[str]:
    """The labels of a sample or of what is recorded; fails if there is no such thing."""
    if name in {"up", "ALERTS"}:
        return TARGET
    if ":" in name:
        assert name in {rule.record for rule in rules()}, name
        return frozenset(name.partition(":")[0].split("_"))
    family = re.sub(r"(?<=_seconds)_(bucket|sum|count)$", "", name)
    assert family in LABELS, name
    return LABELS[family] | TARGET | ({"le"} if name.endswith("_bucket") else frozenset())


def matched(label: str) -> Iterator[str]:
    """The values that some expression asks for in a label, regular expressions by their alternatives."""
    for expression, _ in WORDINGS:
        for _, inside in SELECTOR.findall(expression):
            for name, value in MATCHER.findall(inside):
                if name == label:
                    yield from value.split("|")


# The files


@needs_promtool
def test_prometheus_takes_the_configuration_and_the_rules() -> None:
    promtool("check", "config", "--lint-fatal", CONFIGURATION)


@needs_promtool
def test_alerts_fire_when_they_should() -> None:
    promtool("test", "rules", TESTS)


def test_each_alert_is_tested_to_fire_and_to_be_quiet() -> None:
    said: dict[str, set[bool]] = {rule.alert: set() for rule in rules() if rule.alert}
    for case in msgspec.yaml.decode(TESTS.read_bytes(), type=Cases).tests:
        for expected in case.promql_expr_test:
            ((_, inside),) = SELECTOR.findall(expected.expr)
            said[dict(MATCHER.findall(inside))["alertname"]].add(bool(expected.exp_samples))
    assert {alert for alert, both in said.items() if len(both) < 2} == set()


def test_each_alert_says_how_bad_it_is_and_what_to_do() -> None:
    for rule in rules():
        if rule.alert:
            assert set(rule.labels) == {"severity"}
            assert rule.labels["severity"] in {"critical", "warning"}
            assert set(rule.annotations) == {"summary", "description"}


@needs_promtool
def test_what_the_dashboard_asks_for_can_be_read(tmp_path: Path) -> None:
    asks = [asked(target.expr) for panel in panels() for target in panel.targets]
    wrapped = [{"record": f"panel:{number}", "expr": ask} for number, ask in enumerate(asks)]
    file = tmp_path / "rules.json"
    file.write_bytes(msgspec.json.encode({"groups": [{"name": "panels", "rules": wrapped}]}))
    promtool("check", "rules", "--lint=none", file)


def test_the_dashboard_is_whole_and_small() -> None:
    found = msgspec.json.decode(DASHBOARD.read_bytes(), type=Dashboard).panels
    taken = Counter(
        (x, y)
        for place in (panel.grid_pos for panel in found)
        for x in range(place.x, place.x + place.w)
        for y in range(place.y, place.y + place.h)
    )
    assert max(taken.values()) == 1, "panels lie on each other"
    assert max(x for x, _ in taken) < 24
    assert len({panel.id for panel in found}) == len(found)
    for panel in panels():
        assert re.fullmatch(r"[A-Z].{10,110}\.", panel.description), panel.title
        assert panel.targets, panel.title
    assert DASHBOARD.read_text(encoding="utf-8").count("\n") < 1500


# What they name


@pytest.mark.parametrize("wording", WORDINGS)
def test_metrics_and_labels_are_there(wording: Wording) -> None:
    expression, rest = wording
    selectors = SELECTOR.findall(expression)
    assert selectors
    for name, inside in selectors:
        assert {label for label, _ in MATCHER.findall(inside)} <= labels_of(name)
    every = frozenset().union(*(labels_of(name) for name, _ in selectors))
    for names in GROUPING.findall(expression):
        assert set(re.findall(r"\w+", names)) <= every
    assert set(re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)", rest)) <= every


def test_what_is_recorded_is_named_by_its_labels() -> None:
    for rule in rules():
        if rule.record:
            for names in GROUPING.findall(rule.expr):
                assert set(re.findall(r"\w+", names)) - {"le"} == labels_of(rule.record)


def test_every_metric_is_shown() -> None:
    shown = {name for panel in panels() for ask in panel.targets for name, _ in SELECTOR.findall(ask.expr)}
    families = {re.sub(r"(?<=_seconds)_(bucket|sum|count)$", "", name) for name in shown}
    assert families == LABELS.keys() - NOT_SHOWN.keys()


def test_routes_that_are_left_out_are_there() -> None:
    settings = read_settings({"DATABASE_URL": MEMORY, "AUTH": "off", "SECRET_KEY": secrets.token_hex(32)})
    app = create_app(Container(settings=settings))
    routes = [route.path_format for route in app.routes if isinstance(route, HTTPRoute)]
    for pattern in set(matched("route")):
        assert any(re.fullmatch(pattern, route) for route in routes), pattern


def test_outcomes_are_ok_or_errors_that_there_are() -> None:
    words = {word for word in matched("outcome") if word not in {"ok", "hit"}}
    known = {name for place in (errors, calls, asyncio) for name in dir(place)}
    assert words <= known


# Prometheus itself


class Prometheus(Daemon):
    """A Prometheus that asks once a second, with the configuration that is shipped but for where things are.

    Attributes:
        url: where it answers.
    """

    def __init__(self, folder: Path, target: str) -> None:
        super().__init__(folder)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._address = f"127.0.0.1:{free.getsockname()[1]}"
        self.url = f"http://{self._address}"
        shipped = CONFIGURATION.read_text(encoding="utf-8")
        for there, here in {
            "15s": "1s",
            r"\[rules.yaml, alerts.yaml\]": msgspec.json.encode([str(file) for file in RULES]).decode(),
            "alertmanager:9093": "127.0.0.1:9",
            r"dns_sd_configs:\n.*\n.*\n *port: \d+": f"static_configs: [{{targets: [{target}]}}]",
        }.items():
            shipped, replaced = re.subn(there, here, shipped)
            assert replaced, there
        self._configuration = folder / "prometheus.yaml"
        folder.mkdir()
        self._configuration.write_text(shipped)

    def command(self) -> Sequence[str | Path]:
        """See `Daemon`."""
        return [
            "prometheus",
            f"--config.file={self._configuration}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address={self._address}",
        ]

    def answers(self, pid: int) -> bool:  # noqa: ARG002 - its port is known
        """See `Daemon`."""
        try:
            return httpx.get(f"{self.url}/-/ready", verify=NO_CERTIFICATES).status_code == 200
        except httpx.TransportError:
            return False

    def ask(self, path: str, **parameters: str) -> object:
        """What its API answers."""
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, verify=NO_CERTIFICATES)
        assert answer.status_code == 200, (parameters, answer.text)
        return answer.json()["data"]


class Checked(msgspec.Struct):
    """What Prometheus says of an instance, or of a rule."""

    health: str


class Targets(msgspec.Struct, rename="camel"):
    """What it says of all instances."""

    active_targets: list[Checked]


class RuleGroup(msgspec.Struct):
    """What it says of a group of rules."""

    rules: list[Checked]


class Rules(msgspec.Struct):
    """What it says of all rules."""

    groups: list[RuleGroup]


class Found(msgspec.Struct):
    """What it answers to a query."""

    result: list[object]


@needs_prometheus
def test_prometheus_watches_a_service(tmp_path: Path) -> None:
    with (
        Service(tmp_path / "log", DATABASE_URL=MEMORY) as service,
        Prometheus(tmp_path / "prometheus", service.url.removeprefix("http://")) as prometheus,
    ):

        def targets() -> list[Checked]:
            return msgspec.convert(prometheus.ask("targets"), Targets).active_targets

        def worked_out() -> list[Checked]:
            groups = msgspec.convert(prometheus.ask("rules"), Rules).groups
            return [rule for group in groups for rule in group.rules]

        wait_until(lambda: {each.health for each in targets()} == {"up"}, "it was asked")
        wait_until(lambda: {each.health for each in worked_out()} == {"ok"}, "all rules were worked out")
        assert len(worked_out()) == len(rules())
        for panel in panels():
            for target in panel.targets:
                prometheus.ask("query", query=asked(target.expr))
        found = prometheus.ask("query", query='up{job="watchly"}')
        assert msgspec.convert(found, Found).result
