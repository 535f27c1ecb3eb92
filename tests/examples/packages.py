"""Adapters that are packages of their own: installed apart, and found by their entry points alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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


def lines_of(name: str) -> int:
    """How many lines the module of an example has."""
    (module,) = (EXAMPLES / name).glob("watchly_*.py")
    return len(module.read_text().splitlines())
