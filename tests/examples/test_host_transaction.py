"""The example of a host's transaction runs, and prints what it promises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

PROGRAM: Final = Path("examples/host_transaction/main.py")
PRINTED: Final = """\
at first: movies [], licences []
refused: movie 1 is at version 1, not 7
seen in the transaction alone: Heat
committed together: movies ['Heat'], licences [500]
refused: movie 2 is at version 1, not 7
rolled back together: movies ['Heat'], licences [500]
log: [(1, 'Heat')]
"""


def test_a_row_and_a_movie_are_committed_and_rolled_back_together(empty_database: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", PROGRAM],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "DATABASE_URL": empty_database},
    )
    assert (done.stderr, done.stdout) == ("", PRINTED)
