"""A service for clients that are generated from its OpenAPI document, and who signs in there."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.pictures import blank_png
from tests.services import Service, run

EMAIL: Final = "ada@films.example"
PASSWORD: Final = "correct horse battery"  # noqa: S105 - of nobody
PICTURE: Final = blank_png(600, 900)


@contextmanager
def signed_up(folder: Path) -> Iterator[Service]:
    """A service that asks who somebody is, where there is an administrator."""
    home = folder / f"clients-{uuid.uuid4().hex}"
    variables = {"WATCHLY_HOME": str(home), "AUTH": "on", "WORKERS": "1"}
    added = run("user", "add", EMAIL, "--role", "admin", stdin=PASSWORD, **variables)
    assert added.returncode == 0, added.stderr
    with Service(folder / f"{home.name}.log", **variables) as service:
        yield service
    shutil.rmtree(home, ignore_errors=True)
