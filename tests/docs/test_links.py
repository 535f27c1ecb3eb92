"""Each link of a page leads somewhere where the page is read in the repository, too."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from tests.docs.pages import ROOT

FOLDERS: Final = ("*.md", "benchmarks/**/*.md", "deploy/*.md", "docs/**/*.md", "examples/*/*.md")
PAGES: Final = sorted(path for folder in FOLDERS for path in ROOT.glob(folder))


def tokens(page: Path) -> list[Token]:
    """What a page is made of."""
    return MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8"))


def targets(page: Path) -> Iterator[str]:
    """What a page links to, or shows, that is in the repository."""
    for token in tokens(page):
        for inner in token.children or []:
            target = str(inner.attrs.get("href") or inner.attrs.get("src") or "")
            if target and not re.match(r"https?:", target):
                yield target


@cache
def anchors(page: Path) -> set[str]:
    """The anchors that headings have, as GitHub makes them of their words."""
    found = tokens(page)
    headings = [
        "".join(inner.content for inner in after.children or [])
        for token, after in pairwise(found)
        if token.type == "heading_open"
    ]
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_there(target: str, page: Path) -> bool:
    """Whether somebody who follows a link arrives."""
    name, _, anchor = target.partition("#")
    file = page.parent / name if name else page
    return file.exists() and (not anchor or anchor in anchors(file))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert [target for target in targets(page) if not is_there(target, page)] == []


def test_a_link_that_leads_nowhere_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A `first` word\n\n[a](#a-first-word) [b](#b)\n\n| [c](page.md#c) |\n|-|\n| [d](d.md) |\n"
    )
    assert [target for target in targets(page) if not is_there(target, page)] == ["#b", "page.md#c", "d.md"]
