"""The parts that the use cases are tried on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.households import Household
from tests.houses import House

from watchly_adapters.filesystem import FilesystemImages
from watchly_adapters.headers import HeaderInspector
from watchly_adapters.memory import MemoryDatabase, MemoryImages
from watchly_adapters.pillow import PillowInspector


@pytest.fixture(scope="session")
def pillow() -> Iterator[PillowInspector]:
    """One for all tests: its process takes longer to start than most of them."""
    inspector = PillowInspector()
    yield inspector
    inspector.close()


@pytest.fixture(params=["memory", "postgres"])
def house(request: pytest.FixtureRequest, tmp_path: Path, pillow: PillowInspector) -> House:
    """A catalogue of the fakes, or in PostgreSQL with a directory of images."""
    base_url, secret = "https://films.example", b"secret"
    if request.param == "memory":
        return House(
            MemoryDatabase(), MemoryImages(base_url=base_url, secret=secret), HeaderInspector(), None
        )
    return House(
        request.getfixturevalue("postgres"),
        FilesystemImages(tmp_path / "images", base_url=base_url, secret=secret),
        pillow,
        tmp_path / "images",
    )


@pytest.fixture
def household(house: House) -> Household:
    """The use cases on people over the fakes, or over PostgreSQL."""
    return Household(house)
