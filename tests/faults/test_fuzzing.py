"""Requests that schemathesis makes, against a real service, in short: `nox -s soak` is the long form."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from tests.faults.fuzzing import Plan, run_cases

PLAN: Final = Plan(cases=300, seed=int(os.environ.get("FAULTS_SEED", "5")))


def test_what_the_document_says_is_what_happens(server_url: str, tmp_path: Path) -> None:
    outcome = run_cases(PLAN, tmp_path, server_url, lanes=1)
    print(outcome)  # noqa: T201 - the counts, if it fails
    assert not outcome.wrong
    assert outcome.counts["cases"] >= PLAN.cases
    assert sum(number for what, number in outcome.counts.items() if what.endswith("2xx")) > PLAN.cases // 5
