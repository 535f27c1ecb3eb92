"""The faults made by hand: that they fit, that there are enough, and that some of them are caught.

All of them take some ten minutes: ``python -m tests.mutants``, or ``nox -s mutants``.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants.attempts import Verdict, misfits
from tests.mutants.suites import HERE, LEAST, ROOT, SUITES, patches

#: Folders whose suites are short and need no server.
QUICK = ("memory/receipts", "memory/throttles", "memory/relays", "memory/cache", "memory/sessions")

git = pytest.mark.skipif(shutil.which("git") is None, reason="git puts patches into sources, and is not here")


def test_every_folder_has_its_suite_and_enough_faults() -> None:
    folders = {str(patch.parent.relative_to(HERE)) for patch in HERE.rglob("*.patch")}
    assert folders == set(SUITES)
    assert [folder for folder in SUITES if len(patches(folder)) < LEAST] == []


def test_no_two_faults_of_a_folder_are_alike() -> None:
    for folder in SUITES:
        contents = [_changes(patch) for patch in patches(folder)]
        assert len(set(contents)) == len(contents), folder


@git
def test_every_fault_fits_the_sources_as_they_are() -> None:
    assert [str(patch.relative_to(HERE)) for patch in misfits(sorted(HERE.rglob("*.patch")))] == []


@pytest.mark.parametrize(
    ("verdict", "caught"),
    [
        (Verdict(1, 0, "test_one", "call", late=False), True),
        (Verdict(1, 5, "test_one", "setup", late=False), True),
        (Verdict(1, 5, "test_one", "call", late=True), True),
        (Verdict(1, 0, "test_one", "setup", late=False), False),
        (Verdict(2, 0, "test_stores.py", "collect", late=False), False),
        (Verdict(0, 5, "", "", late=False), False),
        (Verdict(5, 0, "", "", late=False), False),
    ],
)
def test_a_crash_before_any_test_is_no_catch(verdict: Verdict, *, caught: bool) -> None:
    assert verdict.caught is caught
    assert verdict.good is (verdict.code == 0)


@git
def test_some_faults_are_caught() -> None:
    seed = random.randrange(1_000_000)  # noqa: S311 - which ones is no secret
    words = ["--only", *QUICK, "--sample", "2", "--seed", str(seed)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutants", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 caught" in done.stdout


def _changes(patch: Path) -> str:
    """What a patch takes out and puts in, wherever that is."""
    lines = patch.read_text().splitlines()
    return "\n".join(line for line in lines if line.startswith(("+", "-", "@@")))
