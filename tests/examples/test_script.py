"""The script of the examples."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples" / "script" / "films.py"
FILMS = "title,release_year,genre\nHeat,1995,Crime\nRan,1985,Drama\n,2000,Drama\nPaterson,2016,Drama\n"


def test_it_imports_and_prints(empty_database: str, tmp_path: Path) -> None:
    (tmp_path / "films.csv").write_text(FILMS)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(SCRIPT), str(tmp_path / "films.csv")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "DATABASE_URL": empty_database},
    )
    assert done.stdout.splitlines() == [
        "added 3, rejected 1", "    2 Drama", "    1 Crime", "2016 Paterson", "1995 Heat", "1985 Ran"
    ]  # fmt: skip
    assert done.stderr.startswith("line 4: title:")
