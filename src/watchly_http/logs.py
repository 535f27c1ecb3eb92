"""Logs: structured, to stderr, for people or for machines, one line for whatever happened.

What is logged in the course of a request says so by itself: `about` tells of it. `log_lines` writes.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import textwrap
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Final, Protocol, TypeAlias

import msgspec
import structlog
from structlog.typing import EventDict

from watchly_adapters.settings import Settings
from watchly_http.log_lines import Lines

#: Tells of the request that is answered where something is logged: its id, who sent it, what it asks for.
about: Final[ContextVar[Callable[[], Mapping[str, object]]]] = ContextVar("watchly.about", default=dict)

#: Bytes of a line above which each of its texts is cut to so many characters.
_LONGEST: Final = 65_536
_SHORT: Final = 8_000

#: What JSON lets through, and nobody who shows it should take for the end of a line, or for an order:
#: controls, ends of lines and paragraphs, and what turns the direction of text.
_ODD: Final = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
#: What needs no quotes, for people.
_WORD: Final = re.compile(r"[\w/.:+@%~{}…*-]+")

#: Makes a line of what happened.
_Render: TypeAlias = Callable[[Mapping[str, object]], bytes]

_lines: Lines | None = None


def configure(settings: Settings) -> None:
    """Send the logs of this process, those of libraries included, to stderr as the settings say.

    It is so for processes as well that are forked from it.
    """
    global _lines  # noqa: PLW0603 - a process has one log, as it has one stderr
    flush()
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    # Where stderr was closed, its number may be that of something else.
    descriptor = os.open(os.devnull, os.O_WRONLY) if sys.stderr is None else sys.stderr.fileno()
    render = _as_json if settings.log_format == "json" else _for_people(colours=os.isatty(descriptor))

    def line(name: str, level: str, event: EventDict) -> bytes:
        described = _described(name, level, event)
        text = render(described)
        return (
            text if len(text) <= _LONGEST else render({key: _cut(value) for key, value in described.items()})
        )

    def of_dropped(count: int) -> bytes:
        return line("watchly.logs", "warning", {"event": "lines were dropped", "lines": count})

    def rendered(logger: _Named, level: str, event: EventDict) -> bytes:
        return line(logger.name, level, event)

    lines = _lines = Lines(descriptor, of_dropped)
    structlog.configure(
        processors=[rendered],
        logger_factory=lambda *names: _Logger(lines, *names),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [_OfLibraries(lines, line)]
    root.setLevel(max(level, logging.WARNING))
    logging.getLogger("watchly").setLevel(level)


def flush() -> None:
    """Write what waits to be written, if that is soon done: for processes that end without Python's exit."""
    if _lines is not None:
        _lines.flush()


class _Named(Protocol):
    @property
    def name(self) -> str: ...


class _Logger:
    """What structlog hands the lines of one name to, by a method for each level."""

    __slots__ = ("_lines", "name")

    def __init__(self, lines: Lines, name: str = "") -> None:
        self._lines, self.name = lines, name

    def info(self, line: bytes) -> None:
        """Have it written soon."""
        self._lines.add(line)

    def error(self, line: bytes) -> None:
        """Have it written at once."""
        self._lines.add(line, urgent=True)

    debug, warning, critical = info, error, error


class _OfLibraries(logging.Handler):
    """Takes what is logged by the standard library's way, as it is logged by ours."""

    def __init__(self, lines: Lines, line: Callable[[str, str, EventDict], bytes]) -> None:
        super().__init__()
        self._lines, self._line = lines, line

    def emit(self, record: logging.LogRecord) -> None:
        """Hand it on."""
        try:
            event: EventDict = {"event": record.getMessage(), "exc_info": record.exc_info, "_record": record}
            if record.name.startswith("watchly."):  # nobody knows what others put there
                event = dict(_extra(logging.root, "", event))
            del event["_record"]
            line = self._line(record.name, record.levelname.lower(), event)
            self._lines.add(line, urgent=record.levelno >= logging.WARNING)
        except Exception:  # noqa: BLE001 - whatever it is, who logs has nothing to do with it
            self.handleError(record)


_extra: Final = structlog.stdlib.ExtraAdder()


def _described(name: str, level: str, event: EventDict) -> dict[str, object]:
    """All that a line tells, the most important of it first."""
    described = {
        "timestamp": datetime.now(UTC),
        "level": level,
        "event": event.pop("event", ""),
        "logger": name,
        **about.get()(),
        **event,
    }
    if "exc_info" in event:
        described = dict(structlog.processors.format_exc_info(None, level, described))
    return described


_encode: Final = msgspec.json.Encoder().encode
_PLAIN: Final = frozenset({str, int, float, bool, type(None), datetime})


def _as_json(event: Mapping[str, object]) -> bytes:
    if not _PLAIN.issuperset(map(type, event.values())):
        event = {key: _plain(value) for key, value in event.items()}
    try:
        line = _encode(event)
    except (ValueError, OverflowError):  # text that is none, or a number that is too large
        return json.dumps({key: _cut(value) for key, value in event.items()}).encode() + b"\n"
    if not line.isascii() or b"\x7f" in line:
        line = _ODD.sub(lambda odd: f"\\u{ord(odd[0]):04x}", line.decode()).encode()
    return line + b"\n"


def _plain(value: object) -> object:
    """A value of JSON; objects by how they show themselves, for some do not show all that they are."""
    if isinstance(value, (str, int, float, datetime)) or value is None:
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(each) for each in value]
    return repr(value)


def _cut(value: object) -> str:
    text = value if isinstance(value, str) else str(value)
    half = _SHORT // 2
    return text if len(text) <= _SHORT else f"{text[:half]} […] {text[-half:]}"


def _for_people(*, colours: bool) -> _Render:
    """Lines in columns; a traceback below one is indented, so that nothing in it is taken for another.

    Not by structlog's renderer for consoles, which takes several times as long, and lets through what moves a
    cursor.
    """
    bright, reset = (structlog.dev.BRIGHT, structlog.dev.RESET_ALL) if colours else ("", "")
    styles = structlog.dev.ConsoleRenderer.get_default_level_styles(colours)

    def render(event: Mapping[str, object]) -> bytes:
        time, level, what, name, *_ = event.values()
        head = (
            f"{str(time).removesuffix('+00:00')}Z [{styles.get(str(level), '')}{level:<8}{reset}]"
            f" {bright}{_visible(str(what)):<24}{reset} [{name}]"
        )
        pairs = [f"{key}={_quoted(value)}" for key, value in event.items() if key not in _COLUMNS]
        line = " ".join([head, *pairs]) + "\n"
        if (trace := event.get("exception")) is not None:
            line += textwrap.indent(_visible(str(trace), "\n"), "  ") + "\n"
        return line.encode(errors="backslashreplace")

    return render


_COLUMNS: Final = frozenset({"timestamp", "level", "event", "logger", "exception"})


def _quoted(value: object) -> str:
    if isinstance(value, str):
        return value if _WORD.fullmatch(value) else repr(value)
    return _visible(str(value))


def _visible(text: str, kept: str = "") -> str:
    """A text with all in it escaped that moves a cursor, or what comes after it."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter in kept else letter.encode("unicode_escape").decode()
        for letter in text
    )
