"""A Python client is generated from the OpenAPI document, and used; one in TypeScript is an example."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.clients import EMAIL, PASSWORD, PICTURE, signed_up
from tests.services import Service, environment

PROGRAM = Path(__file__).with_name("generated.py")
#: The generator knows bodies as JSON, forms and bytes: what else is one of these is said here.
CONFIGURATION = """
package_name_override: watchly_api
content_type_overrides:
  application/x-ndjson: application/octet-stream
"""
#: What is generated of its own accord, for any document, is not strictly typed.
TYPES = """
[mypy]
strict = true
[mypy-watchly_api.client]
ignore_errors = true
"""


@pytest.fixture
def service(reachable_directory: Path) -> Iterator[Service]:
    with signed_up(reachable_directory) as service:
        yield service


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment(PYTHONPATH=str(folder), PYTHONWARNINGS=""),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_python_client(service: Service, tmp_path: Path) -> None:
    document = httpx.get(f"{service.url}/openapi.json").text
    (tmp_path / "openapi.json").write_text(document)
    (tmp_path / "config.yml").write_text(CONFIGURATION)
    (tmp_path / "mypy.ini").write_text(TYPES)
    picture = tmp_path / "poster.png"
    picture.write_bytes(PICTURE)

    made = run(
        tmp_path,
        *("-m", "openapi_python_client", "generate", "--path", "openapi.json"),
        *("--config", "config.yml", "--meta", "none", "--output-path", "watchly_api"),
    )
    # Each operation is there, but the one whose body can be any image.
    assert made.count("Endpoint will not be generated") == 1
    run(tmp_path, "-m", "mypy", "--config-file", "mypy.ini", str(PROGRAM), "watchly_api")
    run(tmp_path, str(PROGRAM), service.url, EMAIL, PASSWORD, str(picture))
