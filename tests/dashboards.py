"""What Grafana and Prometheus are given to watch Watchly with, as far as tests look at it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

DEPLOY: Final = Path(__file__).parents[1] / "deploy"
DASHBOARD: Final = DEPLOY / "grafana/watchly.json"
CONFIGURATION: Final = DEPLOY / "prometheus/prometheus.yaml"
RULES: Final = (DEPLOY / "prometheus/rules.yaml", DEPLOY / "prometheus/alerts.yaml")


class Rule(msgspec.Struct):
    """A rule that gives a metric or an alert its value."""

    expr: str
    record: str = ""
    alert: str = ""
    for_: str = msgspec.field(name="for", default="")
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Group(msgspec.Struct):
    """Rules that are worked out one after the other."""

    name: str
    rules: list[Rule]


class RuleFile(msgspec.Struct):
    """A file of rules."""

    groups: list[Group]


class Target(msgspec.Struct, rename="camel"):
    """What a panel asks for."""

    expr: str
    ref_id: str
    legend_format: str = ""


class Place(msgspec.Struct):
    """Where a panel is."""

    x: int
    y: int
    w: int
    h: int


class Panel(msgspec.Struct, rename="camel"):
    """A part of the dashboard; a row has neither targets nor a description."""

    id: int
    type: str
    title: str
    grid_pos: Place
    description: str = ""
    targets: list[Target] = []


class Dashboard(msgspec.Struct, rename="camel"):
    """What Grafana reads, as far as it is looked at here."""

    uid: str
    schema_version: int
    panels: list[Panel]


def rules() -> list[Rule]:
    """All rules of all files."""
    return [
        rule
        for file in RULES
        for group in msgspec.yaml.decode(file.read_bytes(), type=RuleFile).groups
        for rule in group.rules
    ]


def panels() -> list[Panel]:
    """All panels but the rows."""
    found = msgspec.json.decode(DASHBOARD.read_bytes(), type=Dashboard).panels
    return [panel for panel in found if panel.type != "row"]


def asked(expression: str) -> str:
    """An expression of the dashboard as Grafana sends it."""
    for variable, value in {
        "$__rate_interval": "1m",
        "$__range": "3h",
        "$job": "watchly",
        "$instance": ".+",
    }.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression
    return expression
