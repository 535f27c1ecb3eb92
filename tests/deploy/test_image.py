"""What the Containerfile says, as far as that can be tried without an engine for containers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.gateways import DEPLOY, Echo, free_port

ROOT: Final = DEPLOY.parent
TEXT: Final = re.sub(r"\\\n\s*", "", (DEPLOY / "Containerfile").read_text())


def test_all_that_is_copied_is_there_and_is_sent_to_the_builder() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", TEXT, re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    assert {"src", "constraints.txt", "deploy/haproxy/keys.py"} <= sources
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in sent if line.startswith("!")} == sources
    assert all((ROOT / source).exists() for source in sources)


def test_the_image_runs_as_a_user_who_is_not_root_and_stops_by_a_signal() -> None:
    assert re.findall(r"^USER (.+)$", TEXT, re.MULTILINE) == ["10001:10001"]
    assert re.findall(r"^STOPSIGNAL (.+)$", TEXT, re.MULTILINE) == ["SIGTERM"]
    # A shell before it would keep the signal to itself.
    (entry,) = re.findall(r"^ENTRYPOINT (.+)$", TEXT, re.MULTILINE)
    assert json.loads(entry) == ["/opt/watchly/bin/watchly"]


def test_the_health_check_tells_whether_somebody_answers() -> None:
    (words,) = re.findall(r"^HEALTHCHECK .*?CMD (\[.*\])$", TEXT, re.MULTILINE)
    program, *arguments = json.loads(words)
    assert Path(program).name == "python"
    port = free_port("127.0.0.1")
    command, variables = (sys.executable, *arguments), {"PORT": str(port)}
    with Echo("127.0.0.1", port):
        subprocess.run(command, env=variables, check=True, timeout=30)
    assert (
        subprocess.run(command, env=variables, check=False, capture_output=True, timeout=30).returncode == 1
    )
