"""That the public API is the one that is written down, and that what is met in it can be named."""

import difflib
from importlib import import_module
from typing import Final

import pytest
from tests.typing.api import COMMAND, TEXT, Api, text

API = Api()

#: What is public and still shows what is not, for a reason.
KNOWN: Final = {
    # They are handed from the container to `create_app`, and to nobody else.
    "watchly_adapters.container.Container.metrics names watchly_adapters.metrics.Metrics",
    "watchly_adapters.container.Container.tracing names watchly_adapters.tracing.Tracing",
    # Nobody but `Gallery` makes one.
    "watchly_core.uploads.DirectUploads.__init__ names watchly_core.journey.Journey",
}


def test_the_api_is_what_is_written_down() -> None:
    written, found = TEXT.read_text().splitlines(), text().splitlines()
    changes = "\n".join(difflib.unified_diff(written, found, "written", "in the code", lineterm="", n=0))
    assert not changes, (
        f"the API has changed; if it should, run `{COMMAND}` and tell of it in CHANGELOG.md:\n{changes}"
    )


@pytest.mark.parametrize("module", API.modules)
def test_public_names_are_there(module: str) -> None:
    """Also those that are loaded when they are asked for."""
    loaded = import_module(module)
    assert [name for name in loaded.__all__ if not hasattr(loaded, name)] == []


def test_what_public_names_show_is_public() -> None:
    assert set(API.strays()) == KNOWN


def test_public_attributes_declare_their_types() -> None:
    assert list(API.untyped()) == []
