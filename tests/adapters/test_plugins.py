"""Adapters of other packages: how they are found, and what is said of those that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from watchly_adapters import plugins
from watchly_adapters.container import Container, make_images
from watchly_adapters.memory import MemoryImages
from watchly_adapters.settings import Settings, read_settings
from watchly_core.errors import Misconfigured
from watchly_core.ports import Publisher

MODULE = """
from watchly_adapters.memory import MemoryImages

class Publisher:
    async def publish(self, message): ...
    async def close(self): ...

def make_images(settings):
    return MemoryImages(base_url=settings.image_store_url)

def make_publisher(settings):
    return Publisher()

def make_nothing(settings):
    return None

async def make_later(settings):
    return MemoryImages()

def fail(settings):
    raise OSError(f"no way to\\n{settings.image_store_url}")

no_function = 7
"""
ENTRIES = """
[watchly.image_stores]
shelf = some_adapters:make_images
gone = some_adapters.gone:make_images
missing = some_adapters:make_it
nothing = some_adapters:make_nothing
seven = some_adapters:no_function
later = some_adapters:make_later
fails = some_adapters:fail
raises = some_raising_adapters:make_images
both = some_adapters:make_images

[watchly.movie_stores]
ledger = some_adapters:make_nothing

[watchly.publishers]
pigeon = some_adapters:make_publisher
"""


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two packages, as pip leaves them."""
    (tmp_path / "some_adapters.py").write_text(MODULE)
    (tmp_path / "some_raising_adapters.py").write_text('raise RuntimeError("not\\nhere")\n')
    for name, entries in (("some", ENTRIES), ("other", "[watchly.image_stores]\nboth = other:make_images\n")):
        folder = tmp_path / f"{name}_adapters-1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-adapters\nVersion: 1\n")
        (folder / "entry_points.txt").write_text(entries)
    monkeypatch.syspath_prepend(str(tmp_path))


def settings(**variables: str) -> Settings:
    return read_settings({"WATCHLY_HOME": "/nowhere", "DATABASE_URL": "memory:", **variables})


def test_a_scheme_chooses_the_package_that_knows_it() -> None:
    images = make_images(settings(IMAGE_STORE_URL="shelf://third/from/above"))
    assert isinstance(images, MemoryImages)
    assert images.url("0" * 32) == f"shelf://third/from/above/images/{'0' * 32}"


@pytest.mark.anyio
async def test_a_broker_is_told_beside_webhooks() -> None:
    container = Container(settings=settings(BROKER_URL="pigeon://loft"))
    assert isinstance(container.dispatch().brokers["pigeon"](), Publisher)


@pytest.mark.parametrize(
    ("scheme", "said"),
    [
        ("gone", "some_adapters.gone:make_images cannot be loaded: ModuleNotFoundError: No module named"),
        ("missing", "some_adapters:make_it cannot be loaded: AttributeError: module"),
        ("raises", "some_raising_adapters:make_images cannot be loaded: RuntimeError: not here; an example"),
        ("nothing", "some_adapters:make_nothing makes NoneType, which has not all that is needed; an"),
        ("later", "some_adapters:make_later makes coroutine, which has not all that is needed; an"),
        ("seven", "some_adapters:no_function is no function; an example"),
        # The URL may hold a password.
        ("fails", "some_adapters:fail fails: OSError: no way to …; an example: IMAGE_STORE_URL=file:"),
        ("both", "which is known to other:make_images and some_adapters:make_images; an example"),
    ],
)
def test_what_cannot_be_used_is_named(scheme: str, said: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        make_images(settings(IMAGE_STORE_URL=f"{scheme}://x"))
    told = str(refused.value)
    assert told.removeprefix(f"IMAGE_STORE_URL asks for {scheme}:, ").removeprefix("and ").startswith(said)
    assert "\n" not in told


@pytest.mark.parametrize("url", ["shelf://X/y", "SHELF://X/y", "Shelf://X/y"])
def test_a_scheme_is_the_same_in_any_case(url: str) -> None:
    images = make_images(settings(IMAGE_STORE_URL=url))
    assert images.url("0" * 32) == f"shelf://X/y/images/{'0' * 32}"


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("Cloudinary://key:Secret@Cloud", "cloudinary://key:Secret@Cloud"),
        ("FILE:///srv/Images", "file:///srv/Images"),
    ],
)
def test_a_scheme_of_our_own_is_the_same_in_any_case(url: str, plain: str) -> None:
    asked = settings(IMAGE_STORE_URL=url)
    assert asked.image_store_url == plain
    make_images(asked)


def test_a_store_of_another_package_may_be_named_without_slashes() -> None:
    assert settings(DATABASE_URL="Ledger:movies.db").is_brought
    assert not settings().is_brought


def test_a_store_of_another_package_has_no_replica() -> None:
    with pytest.raises(Misconfigured, match="DATABASE_URL no server that could have one"):
        settings(DATABASE_URL="ledger:movies.db", READ_DATABASE_URL="postgresql://replica/movies")


def test_a_scheme_that_nobody_knows_is_told_with_those_that_somebody_does() -> None:
    with pytest.raises(Misconfigured, match=r"or a URL of shelf:; an example: IMAGE_STORE_URL=file:"):
        settings(IMAGE_STORE_URL="attic://x")
    assert "shelf" in plugins.schemes(plugins.IMAGE_STORES)
