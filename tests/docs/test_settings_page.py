"""The page on settings has each of them, with its real default and an example that is good."""

from __future__ import annotations

import re
from typing import Final

import pytest
from tests.docs.pages import ROOT
from tests.docs.test_pages import Asked

from watchly_adapters.settings import read_settings
from watchly_core.errors import Misconfigured

PAGE: Final = (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8")
ROWS: Final = re.findall(r"^\| `([A-Z_]+)` \| (.+?) \| `(.+?)` \|", PAGE, re.MULTILINE)
CLOUDINARY: Final = ("CLOUDINARY_CLOUD_NAME", "CLOUDINARY_API_KEY", "CLOUDINARY_API_SECRET")
#: What others have to say for an example to make sense.
BESIDE: Final = {
    "JWKS_URL": {"SERVICE": "movies"},
    "READ_DATABASE_URL": {"DATABASE_URL": "postgresql://primary/watchly"},
    **{name: {other: "any" for other in CLOUDINARY if other != name} for name in CLOUDINARY},
}
#: Those whose default is told in words, for it is made by where Watchly runs.
PLACES: Final = {"WATCHLY_HOME", "WORKERS"}


def test_the_page_has_each_variable_that_is_asked_for() -> None:
    asked = Asked({})
    read_settings(asked)
    names = [name for name, _, _ in ROWS]
    assert sorted(names) == sorted(asked.names)


@pytest.mark.parametrize(("name", "default"), [row[:2] for row in ROWS], ids=[row[0] for row in ROWS])
def test_a_default_is_the_real_one(name: str, default: str) -> None:
    said = re.fullmatch(r"`(.+)`", default)
    if said:
        assert read_settings({name: said[1]}) == read_settings({})
    elif name not in PLACES:
        assert default == "none"
        # Those of Cloudinary and OpenTelemetry are parts of another.
        assert not getattr(read_settings({}), name.lower(), None)


@pytest.mark.parametrize(("name", "example"), [row[::2] for row in ROWS], ids=[row[0] for row in ROWS])
def test_an_example_is_good_and_no_default(name: str, example: str) -> None:
    if name == "BROKER_URL":
        with pytest.raises(Misconfigured, match="an installed package knows, and none does"):
            read_settings({name: example})
        return
    found = read_settings({name: example, **BESIDE.get(name, {})})
    assert name == "WORKERS" or found != read_settings({})
