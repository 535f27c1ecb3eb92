"""The table of docs/reference/reliability.md, of which every long run writes its own row."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from benchmarks.pages import own_versions, table

PAGE: Final = Path(__file__).parents[2] / "docs/reference/reliability.md"

BEGIN: Final = "<!-- Written by the runs themselves. -->\n"
END: Final = "<!-- End of what the runs have written. -->\n"
_HEAD: Final = ("promise", "figure", "seed", "time")
#: A row by the name that it begins with.
_ROW: Final = re.compile(r"^\| \*\*(?P<name>[^*]+)\*\*: .* \|$", re.MULTILINE)


def record(name: str, promise: str, figure: str, seed: int, seconds: float) -> None:
    """Put a run's row into the table, or in the place of its last one; rows are in the order of their names.

    Args:
        name: of the run.
        promise: what must hold, in one line.
        figure: what came of it, in one line; ``FAILED: …`` if it did not hold.
        seed: what the run is repeated with.
        seconds: how long it took.
    """
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    written, _, after = rest.partition(END)
    rows = {row["name"]: row[0].strip("| ").split(" | ") for row in _ROW.finditer(written)}
    cells = (f"**{name}**: {promise}", figure, str(seed), _time(seconds))
    rows[name] = [" ".join(cell.replace("|", "/").split()) for cell in cells]
    where = f"On {os.cpu_count()} cores: {', '.join(own_versions())}."
    own = table(_HEAD, [rows[name] for name in sorted(rows)], words=2)
    PAGE.write_text(f"{before}{BEGIN}\n{own}\n\n{where}\n\n{END}{after}", encoding="utf-8")


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
