"""Adapters that are packages of their own: installed apart, and found by their entry points alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.services import environment

EXAMPLES = Path(__file__).parents[2] / "examples"
#: What the packages may have, so that whoever writes one sees that it is little.
MOST_LINES = 250


def install(name: str, target: Path) -> Path:
    """Install the example of this name into a folder, without what it depends on, and return the folder."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
    subprocess.run([*command, str(EXAMPLES / name)], check=True)
    return target


def path_with(installed: Path) -> str:
    """What PYTHONPATH is to be for a process that has what was installed, and what this one has."""
    return os.pathsep.join([str(installed), *sys.path])


def run_suites(name: str, installed: Path) -> str:
    """Run the tests of the example of this name on what was installed; what pytest says at its end."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:randomly",
        str(EXAMPLES / name),
    ]
    done = subprocess.run(
        command,
        cwd=EXAMPLES.parent,
        env=environment(PYTHONPATH=path_with(installed)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5_000:]
    return done.stdout.splitlines()[-1]


def lines_of(name: str) -> int:
    """How many lines the module of an example has."""
    (module,) = (EXAMPLES / name).glob("watchly_*.py")
    return len(module.read_text().splitlines())
