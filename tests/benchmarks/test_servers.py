"""What is told of the servers that are compared is true."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.comparison.servers import (
    EXPRESS,
    FASTIFY,
    Contestant,
    Missing,
    family,
    install,
    processor_seconds,
    running,
)

_BUSY = "import time\nwhile time.process_time() < 0.4: pass"


def test_what_a_process_has_used_counts_after_it_has_ended() -> None:
    before = processor_seconds(os.getpid())
    subprocess.run([sys.executable, "-c", _BUSY], check=True)
    assert processor_seconds(os.getpid()) - before >= 0.2  # told in ticks


@pytest.mark.parametrize("name", [EXPRESS, FASTIFY])
def test_a_peer_whose_runtime_is_not_there_is_missing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Missing, match="node is not on the PATH"):
        install(name, tmp_path / "peers")


def test_why_packages_are_not_to_be_had_is_shown_but_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("node", "npm"):
        (tmp_path / name).write_text("#!/bin/sh\necho a host and a folder >&2\nexit 1\n")
        (tmp_path / name).chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(Missing, match=r"^npm failed$"):
        install(FASTIFY, tmp_path / "peers")
    assert "a host and a folder" in capsys.readouterr().err


def test_a_peer_that_does_not_start_is_missing_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = family(os.getpid())
    too_old = Contestant(FASTIFY, (sys.executable, "-c", "raise SystemExit('too old')"), tmp_path)
    with pytest.raises(Missing, match="it did not start"), running(too_old, {}):
        pass
    assert "too old" in capsys.readouterr().err
    assert family(os.getpid()) == before
