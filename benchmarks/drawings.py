"""What plots of the reference share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.figure import Figure

COLOURS: Final = ("#1f6feb", "#54aeff", "#9a6700", "#57606a", "#8250df", "#bc4c00")


@contextmanager
def drawing(path: Path, size: tuple[float, float]) -> Iterator[Figure]:
    """A figure of so many inches, which is then an SVG at `path`."""
    # Text as text and fixed names inside: a small file, and the same one for the same figures.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "watchly", "font.family": "sans-serif"}):
        drawn = Figure(figsize=size, layout="constrained")
        yield drawn
        drawn.savefig(path, metadata={"Date": None})
