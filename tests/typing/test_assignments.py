"""That `assignments.py`, which the type checkers read, runs as well; and what its plugs do when they run."""

import runpy
from pathlib import Path

import pytest

ASSIGNMENTS = Path(__file__).with_name("assignments.py")


def test_the_assignments_run() -> None:
    names = runpy.run_path(str(ASSIGNMENTS))
    catalogue, gallery = names["on_memory"](names["MemoryDatabase"](), names["MemoryImages"]())
    assert type(catalogue).__name__ == "Catalogue"
    assert type(gallery).__name__ == "Gallery"


@pytest.mark.anyio
async def test_what_strangers_write_runs() -> None:
    names = runpy.run_path(str(ASSIGNMENTS.with_name("strangers.py")))
    async with names["MemoryDatabase"]() as database:
        assert await names["embed"](database) == ["Heat"]


def test_what_strangers_write_that_wait_runs() -> None:
    names = runpy.run_path(str(ASSIGNMENTS.with_name("strangers.py")))
    assert names["run_script"](["title\r\n", "Heat\r\n", '""\r\n']) == ["Heat"]
    assert names["make_app"]().routes


@pytest.mark.parametrize(
    ("role", "stores"),
    [
        ("ImageFiles", "IMAGE_FILES"),
        ("ImageUploads", "IMAGE_UPLOADS"),
        ("ImageNotifications", "IMAGE_NOTIFICATIONS"),
    ],
)
def test_stores_are_told_apart_by_their_roles(role: str, stores: str) -> None:
    """They are asked for it when the service runs, so that the type checkers alone are not enough."""
    names = runpy.run_path(str(ASSIGNMENTS))
    found = [store for store in names["IMAGE_STORES"] if issubclass(store, names[role])]
    assert tuple(found) == names[stores]
