"""The example whose client is generated from the OpenAPI document of a service, which it then uses."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients import EMAIL, PASSWORD, PICTURE, signed_up
from tests.services import Service

EXAMPLE = Path(__file__).parents[2] / "examples" / "javascript_client"
FILES = ("main.ts", "package.json", "tsconfig.json")


@pytest.fixture
def service(reachable_directory: Path) -> Iterator[Service]:
    with signed_up(reachable_directory) as service:
        yield service


def npm(folder: Path, *words: str, url: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["npm", *words],
        cwd=folder,
        env={**os.environ, "WATCHLY_URL": url, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The example, with what it needs installed."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("there is no Node.js with npm")
    for name in FILES:
        shutil.copy(EXAMPLE / name, tmp_path)
    quick = ("--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=1")
    installed = npm(tmp_path, "install", *quick)
    if installed.returncode != 0:
        pytest.skip(f"npm cannot install what the example needs: {installed.stderr[-300:]}")
    return tmp_path


@pytest.mark.timeout(300)
def test_the_javascript_client(folder: Path, service: Service) -> None:
    picture = folder / "poster.png"
    picture.write_bytes(PICTURE)

    for script in ("generate", "build"):
        done = npm(folder, "run", script, url=service.url)
        assert done.returncode == 0, done.stdout + done.stderr
    done = npm(folder, "start", "--", service.url, EMAIL, PASSWORD, str(picture))

    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.splitlines()
    for line in (
        f"signed in as {EMAIL}, admin",
        "#/release_year: must be at least 1870",
        "Part 0, Part 1, Part 2, Part 3, Part 4",
        "title,description,release_year,genre",
        "movie_added, movie_revised, image_attached, movie_removed",
    ):
        assert line in said, done.stdout
    assert any(line.startswith("the thumbnail is image/webp of ") for line in said), done.stdout


def test_its_packages_are_exact_and_come_from_no_named_place() -> None:
    package = (EXAMPLE / "package.json").read_text()

    assert not (EXAMPLE / "package-lock.json").exists()
    assert "^" not in package
    assert "~" not in package
    assert "//" not in package
