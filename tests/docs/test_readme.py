"""The code of the README runs, and gives what the README says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.services import Service, environment

README = Path("README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
SESSION = "".join(text for kind, text in BLOCKS if kind == "console")
EXAMPLES = [(code, BLOCKS[place + 1][1]) for place, (kind, code) in enumerate(BLOCKS) if kind == "python"]

#: What differs from run to run, and what it is called when runs are compared.
VARYING = (
    (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME"),
    (r"\w{3}, \d\d \w{3} \d{4} [\d:]+ GMT", "DATE"),
    (r"\b[0-9a-f]{32}\b", "KEY"),
    (r'"bytes":\d+', '"bytes":SIZE'),
    (r"\b[0-9A-F]+/[0-9A-F]+-[0-9a-f]+$", "POSITION"),
    (r"\b(eyJ|wrt_|watchly_)[\w.…-]+", "SECRET"),
    (r'"(kid|x|y|prefix)":"[\w…-]+"', "PUBLIC"),
)


def _steady(text: str) -> list[str]:
    for pattern, name in VARYING:
        text = re.sub(pattern, name, text, flags=re.MULTILINE)
    return [line.rstrip() for line in text.splitlines()]


@pytest.fixture
def service(reachable_directory: Path, tmp_path: Path) -> Iterator[Service]:
    with Service(tmp_path / "log", AUTH="on", WATCHLY_HOME=str(reachable_directory / "readme")) as service:
        yield service


def test_the_session(service: Service, reachable_directory: Path, tmp_path: Path) -> None:
    # A shell that shows each command as the README does, in a folder that stands for the clone.
    lines = ["exec 2>&1"]
    for line in SESSION.splitlines():
        if line.startswith("$ "):
            command = line.removeprefix("$ ")
            lines += [f"printf '%s\\n' {_quoted(line)}", command, "printf '\\n'"]
    (tmp_path / ".venv").symlink_to(sys.prefix)
    script = "\n".join(lines).replace("127.0.0.1:5000", service.url.removeprefix("http://"))
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=environment(WATCHLY_HOME=str(reachable_directory / "readme")),
    )
    shown = done.stdout.replace(service.url.removeprefix("http://"), "127.0.0.1:5000")
    assert [line for line in _steady(shown) if line] == [line for line in _steady(SESSION) if line]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


@pytest.mark.parametrize(("code", "output"), EXAMPLES, ids=["fake", "postgres", "people", "blocking", "host"])
def test_an_example(code: str, output: str, empty_database: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "DATABASE_URL": empty_database},
    )
    assert (done.stderr, done.stdout) == ("", output)


def test_the_two_commands_are_those_of_ci() -> None:
    commands = [line.strip() for line in README.splitlines() if line.startswith("    python3 -m venv")]
    assert len(commands) == 2
    assert Path(".ci/run").read_text(encoding="utf-8").splitlines()[-1] == commands[1]
