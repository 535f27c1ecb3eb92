"""What the load picture tells is what locust's processes wrote down."""

from __future__ import annotations

from datetime import date

import pytest
from benchmarks.load.figures import (
    Findings,
    Level,
    Recording,
    Use,
    Waits,
    findings,
    highest,
    percentile,
    waits,
)
from benchmarks.load.plan import STAGES, Plan, Stage, settling
from benchmarks.load.report import Run, headline, page, panels

_FEW, _MANY, _MORE = Stage(10, 1.0), Stage(20, 1.0), Stage(40, 1.0)
_RUN = Run("nox -s load", date(2026, 11, 22), 58_788, 4, 1)


def level(p99: float, *, errors: int = 0, rate: float = 100.0, answers: int = 100) -> Level:
    return Level(_FEW, rate, Waits(answers, 1.0, 2.0, p99), errors, 0.0, Use(0, 0, 0, 0, 0))


def found(*recordings: Recording, stages: tuple[Stage, ...] = (_FEW, _MANY)) -> Findings:
    """Four seconds of each stage, of which two count, with a processor each for server and database."""
    uses = [Use(1_000.0 + at, at * 1.0, at * 0.5, at * 0.25, 0.0) for at in range(-1, 13)]
    return findings(stages, 4, recordings, uses)


@pytest.mark.parametrize(
    ("share", "value"), [(0.5, 50.0), (0.95, 95.0), (0.99, 99.0), (1.0, 100.0), (0.0, 1.0)]
)
def test_a_percentile_is_one_of_the_values(share: float, value: float) -> None:
    assert percentile([float(number) for number in range(1, 101)], share) == value


def test_percentiles_of_one_value_and_of_none() -> None:
    assert waits([7.0]) == (1, 7.0, 7.0, 7.0)
    assert waits([]) == (0, 0.0, 0.0, 0.0)


def test_the_highest_level_is_the_last_one_that_held() -> None:
    levels = [level(20), level(200), level(199.9), level(200)]
    assert highest(levels) is levels[2]


@pytest.mark.parametrize("wrong", [level(200), level(20, errors=1), level(0, answers=0)])
def test_what_is_slow_or_wrong_or_unanswered_does_not_hold(wrong: Level) -> None:
    assert highest([wrong]) is None


def test_the_beginning_of_a_stage_does_not_count() -> None:
    slow = Recording(1_000.0, [(0, "movie", [900.0]), (2, "movie", [3.0, 4.0]), (5, "movie", [900.0])])
    few, many = found(slow).levels
    assert (few.waits, few.rate, few.held) == ((2, 3.0, 4.0, 4.0), 1.0, True)
    assert (many.waits.answers, many.held) == (0, False)


def test_errors_of_its_beginning_count() -> None:
    seen = Recording(1_000.0, [(6, "movie", [3.0])], [(4, "movie: 503", 1)])
    assert [(each.errors, each.held) for each in found(seen).levels] == [(0, False), (1, False)]


def test_what_several_processes_saw_is_put_together() -> None:
    one = Recording(1_000.0, [(2, "movie", [1.0])], [(6, "movie: 503", 2)], [(3, [5.0])], [(2, 6)], 3)
    other = Recording(1_000.1, [(2, "search", [9.0])], [(7, "movie: 503", 1)], [(3, [8.0])], [(2, 4)], 4)
    together = found(one, other)
    assert together.kinds == {"movie": (1, 1.0, 1.0, 1.0), "search": (1, 9.0, 9.0, 9.0)}
    assert together.errors == {"movie: 503": 3}
    assert [each.errors for each in together.levels] == [0, 3]
    assert together.changes == 7
    assert together.levels[0].late == 8.0
    assert together.moments[2] == (2, 10, (2, 1.0, 9.0, 9.0), 0)
    assert [moment.errors for moment in together.moments] == [0, 0, 0, 0, 0, 0, 2, 1]


def test_the_kinds_are_those_of_the_highest_level_that_held() -> None:
    seen = Recording(
        1_000.0, [(2, "movie", [1.0]), (6, "search", [2.0]), (10, "search", [300.0]), (10, "add", [1.0])]
    )
    together = found(seen, stages=(_FEW, _MANY, _MORE))
    assert together.best is together.levels[1]
    assert together.beyond is together.levels[2]
    assert together.kinds == {"search": (1, 2.0, 2.0, 2.0)}


def test_a_stage_below_the_best_one_that_did_not_hold_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.load.report.version", lambda _: "1.2")
    monkeypatch.setattr("benchmarks.load.report.own_versions", lambda: ["watchly 0"])
    together = found(Recording(1_000.0, [(2, "movie", [300.0]), (6, "movie", [2.0])]))
    assert together.best is together.levels[1]
    assert together.beyond is None
    told = page(together, _RUN, "")
    assert "where it ends was not found" in told
    assert "some did not: 0 requests/s" in told


def test_processors_are_those_that_were_busy_meanwhile() -> None:
    together = found(Recording(1_000.0))
    for each in together.levels:
        assert each.use[1:] == (1.0, 0.5, 0.25, 0.0)
    assert together.uses[0].at == 1.0
    # Others are what is left of all, which is looked up a moment later.
    assert Use(2.0, 1, 1, 1, 0.9).since(Use(1.0, 1, 1, 1, 1.0)).others == 0.0


def test_a_plan_ends() -> None:
    assert [stage.users for stage in STAGES] == sorted(stage.users for stage in STAGES)
    assert [stage.rate for stage in STAGES] == sorted(stage.rate for stage in STAGES)
    assert STAGES[-1].users == 1_000
    assert (settling(25), settling(6)) == (5, 3)
    plan = Plan("", "", (_FEW, _MANY), 4, [], [], [], [], (), [], [], "", "")
    assert [plan.stage(second) for second in (0, 3.9, 4, 7.9, 8)] == [_FEW, _FEW, _MANY, _MANY, None]


def test_a_second_without_answers_is_a_gap_in_the_picture() -> None:
    seen = Recording(1_000.0, [(2, "movie", [1.0])], users=[(2, 10)])
    shown = panels(found(seen))
    lines = {name: list(line) for panel in shown for name, line in panel.lines.items()}
    assert lines["p99"][1:4] == [(1, None), (2, 1.0), (3, None)]
    assert lines["requests"][1:3] == [(1, 0), (2, 1)]
    assert [lines["users"][2], lines["errors"][2]] == [(2, 10), (2, 0)]
    assert {"Watchly", "PostgreSQL", "locust", "others"} <= set(lines)
    assert [panel.limit for panel in shown if "p99" in panel.lines] == [200]


def test_the_page_says_what_held_and_what_was_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.load.report.version", lambda _: "1.2")
    monkeypatch.setattr("benchmarks.load.report.own_versions", lambda: ["watchly 0"])
    seen = Recording(1_000.0, [(2, "movie", [1.0]), (6, "movie", [2.0])], [(7, "movie: 503", 3)])
    told = page(found(seen), _RUN, "load.svg")
    assert "up to 0 requests a second of 10 users: p50 1.0 ms, p95 1.0 ms, p99 1.0 ms" in told
    assert "- 3 times movie: 503" in told
    assert "| 20 | 1.00 | 0 | 2.0 | 2.0 | 2.0 | 3 | no |" in told
    assert "At the next stage, which did not hold, 1.8 of" in told
    assert "![Load over time](load.svg)" in told


def test_a_run_in_which_nothing_held_says_so() -> None:
    assert headline(found(Recording(1_000.0))).startswith("No stage stayed below 200 ms")
