"""Drawings of who uses whom, as SVG in the page's colours: boxes in layers, and tables of dots."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from html import escape
from itertools import count, pairwise
from typing import Final, TypeAlias

Graph: TypeAlias = Mapping[str, Collection[str]]
#: A place on a line: a node, or where an edge to it passes a row on its way.
Stop: TypeAlias = tuple[str, int]

_LETTER: Final = 7.6
_LINE: Final = 17
_GAP: Final = 74
_CELL: Final = 16
#: Rows are ordered so often, of all the turns in which places are looked for.
_ORDERED: Final = 40
_TURNS: Final = 60
_FAINT: Final = ' class="detail"'
_ids: Final = count(1)


def layers(graph: Graph, about: str, details: Mapping[str, Sequence[str]] | None = None) -> str:
    """A box for each node, with lines of details, above all that it uses.

    Edges to the same box share their way past the rows between, so that they do not cross each other there.

    Raises:
        ValueError: the graph has a circle, so that there is no above.
    """
    details = details or {}
    depth = _depths(graph)
    top = max(depth.values())
    ways = [
        [
            (user, depth[user]),
            *((used, row) for row in range(depth[user] - 1, depth[used], -1)),
            (used, depth[used]),
        ]
        for user, all_used in graph.items()
        for used in sorted(all_used)
    ]
    stops = sorted({stop for way in ways for stop in way} | set(depth.items()))
    widths = {(name, row): _width(name, details) if depth[name] == row else 10 for name, row in stops}
    x = _placed([[stop for stop in stops if stop[1] == row] for row in range(top, -1, -1)], ways, widths)
    heights = [
        max(1 + len(details.get(name, ())) for name in depth if depth[name] == row) * _LINE + 14
        for row in range(top + 1)
    ]
    y = {row: sum(heights[row + 1 :]) + (top - row) * _GAP + 8 for row in range(top + 1)}
    left = min(x[stop] - widths[stop] / 2 for stop in stops) - 8
    right = max(x[stop] + widths[stop] / 2 for stop in stops) + 8
    drawn = [_line(way, x, y, heights) for way in ways]
    for name, row in sorted(depth.items()):
        centre, lines = x[name, row] - left, [name, *details.get(name, ())]
        width, left_side = widths[name, row], centre - widths[name, row] / 2
        box = f'<rect x="{left_side:.0f}" y="{y[row]}" width="{width:.0f}" rx="5"'
        texts = [
            f'<text x="{centre:.0f}" y="{y[row] + 4 + _LINE * number}"{_FAINT if number > 1 else ""}>'
            f"{escape(line)}</text>"
            for number, line in enumerate(lines, 1)
        ]
        drawn.append(f'<g data-node="{name}">{box} height="{len(lines) * _LINE + 12}"/>{"".join(texts)}</g>')
    return _svg(
        about,
        right - left,
        y[0] + heights[0] + 8,
        [line.replace("LEFT", f"{-left:.0f}") for line in drawn],
        graph,
    )


def dots(graph: Graph, columns: Sequence[str], about: str) -> str:
    """A row for each node, with a dot in the column of each that it uses."""
    rows = list(graph)
    margin = max(map(len, rows)) * _LETTER + 10
    height = max(map(len, columns)) * _LETTER * 0.8 + 16
    drawn = []
    for place, name in enumerate(columns):
        x = margin + (place + 0.5) * _CELL
        drawn.append(
            f'<text class="column" transform="translate({x + 4:.0f} {height - 8:.0f}) rotate(-55)">'
            f"{escape(name)}</text>"
        )
        drawn.append(f'<path class="rule" d="M{x:.0f} {height:.0f}V{height + len(rows) * _CELL}"/>')
    for place, name in enumerate(rows):
        y = height + (place + 0.5) * _CELL
        drawn.append(f'<text class="row" x="{margin - 8:.0f}" y="{y + 4:.0f}">{escape(name)}</text>')
        drawn.append(f'<path class="rule" d="M{margin:.0f} {y:.0f}h{len(columns) * _CELL}"/>')
        drawn += [
            f'<circle data-edge="{name} {used}" cy="{y:.0f}" r="4.5"'
            f' cx="{margin + (columns.index(used) + 0.5) * _CELL:.0f}">'
            f"<title>{escape(name)}: {escape(used)}</title></circle>"
            for used in sorted(graph[name])
        ]
    width = margin + len(columns) * _CELL + max(map(len, columns)) * _LETTER * 0.6
    return _svg(about, width, height + len(rows) * _CELL + 6, drawn, {})


def _depths(graph: Graph) -> dict[str, int]:
    """How many others are below each, at most."""
    depth: dict[str, int] = {}
    names = set(graph).union(*graph.values())
    while left := names - set(depth):
        free = {name for name in left if set(graph.get(name, ())) <= set(depth)}
        if not free:
            raise ValueError(f"these use each other in a circle: {', '.join(sorted(left))}")
        depth |= {name: max((depth[used] + 1 for used in graph.get(name, ())), default=0) for name in free}
    return depth


def _placed(
    rows: list[list[Stop]], ways: list[list[Stop]], widths: Mapping[Stop, float]
) -> dict[Stop, float]:
    """Where stops are in their rows: near those that they are tied to, and beside each other."""
    near: dict[Stop, list[Stop]] = {stop: [] for row in rows for stop in row}
    for way in ways:
        for one, other in pairwise(way):
            near[one].append(other)
            near[other].append(one)
    x = {stop: float(place * 120) for row in rows for place, stop in enumerate(row)}
    for turn in range(_TURNS):
        for row in rows if turn % 2 else reversed(rows):
            wanted = {
                stop: sum(x[one] for one in near[stop]) / len(near[stop]) if near[stop] else x[stop]
                for stop in row
            }
            if turn < _ORDERED:  # then the order stays, and places settle
                row.sort(key=lambda stop: (wanted[stop], stop))
            edge = float("-inf")
            for stop in row:
                x[stop] = max(wanted[stop], edge + widths[stop] / 2)
                edge = x[stop] + widths[stop] / 2 + 18
            shift = sum(x[stop] - wanted[stop] for stop in row) / len(row)
            for stop in row:
                x[stop] -= shift
    return x


def _line(way: list[Stop], x: Mapping[Stop, float], y: Mapping[int, int], heights: Sequence[int]) -> str:
    user, used = way[0][0], way[-1][0]
    path = ""
    for (one, above), (other, below) in pairwise(way):
        begin, end = y[above] + heights[above] - 2, y[below]
        bend = (end - begin) / 2
        here, there = f"{x[one, above]:.0f}", f"{x[other, below]:.0f}"
        path += f"V{begin}" if path else f"M{here} {begin - heights[above] + 12}V{begin}"
        path += f"C{here} {begin + bend:.0f} {there} {end - bend:.0f} {there} {end}"
    ends = f'data-edge="{user} {used}" class="from-{_name(user)} to-{_name(used)}"'
    return f'<path transform="translate(LEFT 0)" {ends} d="{path}"/>'


def _width(name: str, details: Mapping[str, Sequence[str]]) -> float:
    return max(map(len, [name, *details.get(name, ())])) * _LETTER + 18


def _name(node: str) -> str:
    return node.replace(".", "-")


def _svg(about: str, width: float, height: float, drawn: Sequence[str], graph: Graph) -> str:
    """The whole: whoever points at a box sees its own edges alone."""
    key = f"drawing-{next(_ids)}"
    shown = "".join(
        f'#{key}:has([data-node="{name}"]:hover) path:not(.from-{end}, .to-{end}){{opacity:.1}}'
        for name in sorted(set(graph).union(*graph.values()))
        for end in [_name(name)]
    )
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}"'
    body = "\n".join(drawn)
    head = f"<title>{escape(about)}</title><style>{shown}</style>"
    return f'<svg class="drawing" id="{key}" role="img" {size}>{head}\n{body}\n</svg>'
