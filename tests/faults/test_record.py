"""A run writes one row of the table of figures, and nothing else of the page."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.faults import record as recording
from tests.faults.record import PAGE, record


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the page, which is written in its place."""
    copy = tmp_path / PAGE.name
    copy.write_text(PAGE.read_text())
    monkeypatch.setattr(recording, "PAGE", copy)
    return copy


def rows(page: Path) -> list[str]:
    return [line for line in page.read_text().splitlines() if line.startswith("| **zz")]


def test_rows_are_put_in_order_and_replaced(page: Path) -> None:
    record("zz2", "nothing is lost", "0 lost", 7, 61.4)
    record("zz1", "all is | well", "FAILED: 3 wrong", 5, 2)
    assert rows(page) == [
        "| **zz1**: all is / well | FAILED: 3 wrong | 5 | 2 s |",
        "| **zz2**: nothing is lost | 0 lost | 7 | 1 min 1 s |",
    ]
    record("zz1", "all is well", "3 of 3", 6, 3)
    assert rows(page) == [
        "| **zz1**: all is well | 3 of 3 | 6 | 3 s |",
        "| **zz2**: nothing is lost | 0 lost | 7 | 1 min 1 s |",
    ]


def test_the_words_around_the_table_stay(page: Path) -> None:
    def words() -> list[str]:
        begin, end = recording.BEGIN, recording.END
        text = page.read_text()
        return [text.partition(begin)[0], text.partition(end)[2]]

    before = words()
    for seed in range(2):
        record("zz1", "all is well", "3 of 3", seed, 3)
    assert words() == before
    assert "cores: watchly " in page.read_text()
