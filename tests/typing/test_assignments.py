"""That `assignments.py`, which the type checkers read, runs as well; and what its plugs do when they run."""

import runpy
from pathlib import Path

ASSIGNMENTS = Path(__file__).with_name("assignments.py")


def test_the_assignments_run() -> None:
    names = runpy.run_path(str(ASSIGNMENTS))
    catalogue, gallery = names["on_memory"](names["MemoryDatabase"](), names["MemoryImages"]())
    assert type(catalogue).__name__ == "Catalogue"
    assert type(gallery).__name__ == "Gallery"


def test_only_stores_that_serve_their_images_are_files() -> None:
    """`ImageFiles` is asked for when the service runs, so it has to tell them apart then as well."""
    names = runpy.run_path(str(ASSIGNMENTS))
    files = [store for store in names["IMAGE_STORES"] if issubclass(store, names["ImageFiles"])]
    assert tuple(files) == names["IMAGE_FILES"]
