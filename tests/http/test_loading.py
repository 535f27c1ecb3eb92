"""Each command loads what it uses, and nothing else that takes long to load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from tests.services import environment

_RUN: Final = """
import atexit, sys
atexit.register(lambda: sys.stderr.write("\\n" + " ".join(sorted(sys.modules))))
from watchly_http.cli import main
main()
"""

_SERVICE: Final = {"granian", "litestar", "prometheus_client", "watchly_http.app"}
_TOKENS: Final = {"cryptography", "jwt"}
_IMAGES: Final = {"PIL", "urllib3", "watchly_adapters.filesystem", "watchly_adapters.pillow"}
_DATABASE: Final = {"asyncio", "psycopg", "ssl"}
_PARTS: Final = {"dependency_injector", "watchly_core.catalogue"}


def loaded_by(*command: str, typed: str = "", **variables: str) -> set[str]:
    """The modules that `watchly` has loaded when it ends well."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *command],
        input=typed,
        env=environment(**variables),
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("command", ["--help", "--version", "token --help", "import --help", "serve --help"])
def test_help_loads_no_library_but_that_of_the_command_line(command: str) -> None:
    loaded = loaded_by(*command.split())
    assert {"click", "watchly_http.cli"} <= loaded
    assert loaded & (
        _SERVICE | _TOKENS | _IMAGES | _DATABASE | _PARTS | {"argon2", "dotenv", "rich", "structlog"}
    ) == set()  # fmt: skip


@pytest.mark.parametrize(
    ("command", "used", "unused"),
    [
        ("migrate", _DATABASE, _SERVICE | _TOKENS | _IMAGES | {"argon2", "dependency_injector", "rich"}),
        ("token", _DATABASE | _TOKENS, _SERVICE | _IMAGES | {"argon2", "rich", "structlog"}),
        ("user add a@films.example", _DATABASE | {"argon2"}, _SERVICE | _TOKENS | _IMAGES | {"rich"}),
        (
            "export",
            _DATABASE | _PARTS,
            _SERVICE | _TOKENS | {"PIL", "argon2", "rich", "structlog", "watchly_adapters.pillow"},
        ),
        (
            "webhook list",
            _DATABASE | _PARTS,
            _SERVICE | _TOKENS | {"argon2", "rich", "watchly_adapters.pillow"},
        ),
    ],
)
def test_a_command_loads_only_what_it_uses(
    home: Path, command: str, used: set[str], unused: set[str]
) -> None:
    loaded = loaded_by(*command.split(), typed="correct horse battery\n", WATCHLY_HOME=str(home))
    assert used <= loaded
    assert loaded & unused == set()


_WORKER: Final = """
import sys
from watchly_adapters.settings import read_settings
from watchly_http.cli import serving
settings = read_settings({"DATABASE_URL": "memory:", "SECRET_KEY": "k" * 32})
serving._load()
before = set(sys.modules)
from watchly_adapters.container import Container
from watchly_http.app import create_app
create_app(Container(settings=settings))
print(*{name.partition(".")[0] for name in set(sys.modules) - before})
"""


def test_workers_share_the_memory_of_the_libraries_that_each_of_them_needs() -> None:
    done = subprocess.run([sys.executable, "-c", _WORKER], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & (_TOKENS | {"argon2", "prometheus_client"}) == set()
