"""The example that imports a file, queries it, and writes a report: in memory and in PostgreSQL."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.services import environment

TASK = Path(__file__).parents[2] / "examples" / "data_task" / "decades.py"
MOVIES = """\
title,release_year,genre,seen
Heat,1995,Crime,yes
Se7en,1995,Crime,no
Fargo,1996,Drama,no
Alien,1979,Horror,yes
Le Voyage dans la Lune,1902,,no
,1999,Drama,no
"""
REPORT = "decade,genre,movies\r\n1970,Horror,1\r\n1990,Crime,2\r\n1990,Drama,1\r\n"


@pytest.mark.parametrize("where", ["memory", "postgres"])
def test_the_data_task(where: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    source, target = tmp_path / "movies.csv", tmp_path / "report.csv"
    source.write_text(MOVIES)
    url: str = request.getfixturevalue("empty_database") if where == "postgres" else ""

    done = subprocess.run(
        [sys.executable, str(TASK), str(source), str(target)],
        env=environment(**({"DATABASE_URL": url} if url else {})),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout == "movies added: 5, rows rejected: 1\n"
    assert done.stderr == "line 7: title: is required\n"
    assert target.read_bytes().decode() == REPORT
