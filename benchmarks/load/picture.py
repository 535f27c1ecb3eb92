"""The picture of what was found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.drawings import COLOURS, drawing
from benchmarks.load.plan import Stage
from benchmarks.load.report import Panel

_GREY: Final = "#d0d7de"
_RED: Final = "#cf222e"


def draw(panels: Sequence[Panel], stages: Sequence[Stage], seconds: int, path: Path) -> None:
    """Draw the panels one above the other, as SVG, with the stages behind them."""
    with drawing(path, (9, 1.7 * len(panels))) as drawn:
        places = drawn.subplots(len(panels), 1, sharex=True)
        for panel, place in zip(panels, places, strict=True):
            for (name, line), colour in zip(panel.lines.items(), COLOURS, strict=False):
                x, y = zip(
                    *((at, float("nan") if value is None else value) for at, value in line), strict=True
                )
                place.plot(x, y, label=name, color=colour, linewidth=1)
            for number in range(1, len(stages)):
                place.axvline(number * seconds, color=_GREY, linewidth=0.6, zorder=0)
            if panel.logarithmic:
                place.set_yscale("log")
            else:
                place.set_ylim(bottom=0)
            if panel.limit is not None:
                place.axhline(panel.limit, color=_RED, linewidth=0.8, linestyle="--")
            if len(panel.lines) > 1:
                place.legend(loc="upper left", fontsize=7, ncols=len(panel.lines), frameon=False)
            place.set_title(panel.title, fontsize=9, loc="left")
            place.tick_params(labelsize=7)
            place.spines[["top", "right"]].set_visible(False)
        places[-1].set_xlabel("seconds", fontsize=8)
