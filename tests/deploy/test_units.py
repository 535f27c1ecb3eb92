"""The units of systemd, as systemd itself finds them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest
from tests.docs.pages import read
from tests.gateways import DEPLOY
from tests.services import WATCHLY

UNITS: Final = DEPLOY / "systemd"
ANALYZE: Final = shutil.which("systemd-analyze")
#: By systemd's own measure, of ten: 10 is open to everything.
MOST_EXPOSED: Final = 1.6

pytestmark = pytest.mark.skipif(ANALYZE is None, reason="no systemd-analyze here: apt-get install systemd")


def analyze(*words: str | Path) -> subprocess.CompletedProcess[str]:
    assert ANALYZE is not None
    return subprocess.run([ANALYZE, *words], capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units with programs that are on this machine, for systemd looks whether they are there."""
    folder = tmp_path_factory.mktemp("units")
    for unit in UNITS.iterdir():
        if unit.is_file():
            text = unit.read_text().replace("/opt/watchly/bin/watchly", WATCHLY)
            (folder / unit.name).write_text(text)
    return folder


def test_systemd_finds_no_fault_in_any_unit(units: Path) -> None:
    names = sorted(unit.name for unit in units.iterdir())
    assert "watchly.service" in names
    assert "watchly-backup.timer" in names
    done = analyze("verify", "--man=no", *(units / name for name in names))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_systemd_finds_the_fault_that_is_there(units: Path, tmp_path: Path) -> None:
    text = (units / "watchly.service").read_text()
    wrong = tmp_path / "watchly.service"
    wrong.write_text(text.replace("KillMode=mixed", "KillMood=mixed"))
    done = analyze("verify", "--man=no", wrong)
    assert "KillMood" in done.stderr


@pytest.mark.parametrize("name", ["watchly", "watchly-relay", "watchly-sweep"])
def test_a_database_that_comes_late_keeps_nobody_from_starting(name: str) -> None:
    lines = (UNITS / f"{name}.service").read_text().splitlines()
    # Requires, and systemd would not start it ever again once a migration has failed at boot.
    assert not [line for line in lines if line.startswith(("Requires=", "Requisite=", "BindsTo="))]
    assert "Restart=on-failure" in lines
    assert "PartOf=watchly-migrate.service" in lines
    for relation in ("Wants=", "After="):
        (others,) = (line for line in lines if line.startswith(relation))
        assert "watchly-migrate.service" in others.partition("=")[2].split()


@pytest.mark.parametrize("name", sorted(unit.name for unit in UNITS.glob("*.service")))
def test_units_may_do_nothing_that_they_need_not(units: Path, name: str) -> None:
    done = analyze("security", "--offline=true", "--no-pager", units / name)
    (exposure,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    print(f"{name}: exposed by {exposure} of 10")  # noqa: T201 - the figure
    assert float(exposure) <= MOST_EXPOSED, done.stdout


def test_the_gateway_of_debian_takes_the_settings(units: Path, tmp_path: Path) -> None:
    shipped = Path("/lib/systemd/system/haproxy.service")
    if not shipped.exists():
        pytest.skip("no HAProxy here: apt-get install haproxy")
    for unit in (shipped, *units.iterdir()):
        shutil.copy(unit, tmp_path)
    shutil.copytree(UNITS / "haproxy.service.d", tmp_path / "haproxy.service.d")
    done = analyze("verify", "--man=no", tmp_path / "haproxy.service")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_gateway_that_is_stopped_has_the_time_that_requests_get_to_end() -> None:
    lines = (UNITS / "haproxy.service.d" / "watchly.conf").read_text().splitlines()
    configuration = (DEPLOY / "haproxy" / "haproxy.cfg").read_text()
    (most,) = re.findall(r"^ *hard-stop-after (\d+)s$", configuration, re.MULTILINE)
    (patience,) = (int(line.partition("=")[2]) for line in lines if line.startswith("TimeoutStopSec="))
    assert "KillSignal=SIGUSR1" in lines
    assert patience > int(most)


def test_what_root_is_told_to_make_is_what_units_want(tmp_path: Path) -> None:
    (told,) = (block.text for block in read(DEPLOY / "README.md").blocks if block.kind == "by hand")
    lines = [line for line in told.splitlines() if line.startswith(("install ", "cp "))]
    # In a folder, and for whoever runs the tests.
    script = re.sub(r" /(?=etc/|var/)", f" {tmp_path}/", "\n".join(lines)).replace(
        "-o watchly -g watchly", ""
    )
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    subprocess.run(["bash", "-euc", script], cwd=DEPLOY.parent, check=True, timeout=60)
    installed = {path.name for path in (tmp_path / "etc/systemd/system").iterdir()}
    assert installed == {unit.name for unit in UNITS.iterdir() if unit.is_file()}
    settings = tmp_path / "etc/watchly/watchly.env"
    assert settings.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "var/backups/watchly").stat().st_mode & 0o777 == 0o750
    lines = (UNITS / "watchly-backup.service").read_text().splitlines()
    for wanted in (
        "EnvironmentFile=/etc/watchly/watchly.env",
        "ReadWritePaths=/var/backups/watchly",
        "User=watchly",
    ):
        assert wanted in lines
    assert "useradd --system --home-dir /var/lib/watchly " in told
    assert "WorkingDirectory=/var/lib/watchly" in lines
    assert "python3 -m venv /opt/watchly " in told
