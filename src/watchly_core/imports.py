"""Rows of CSV and NDJSON on their way into the catalogue, and what became of them."""

from __future__ import annotations

import codecs
import csv
import itertools
import json
import re
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator, Sequence
from typing import IO, Final, Literal, Never, TypeAlias

import msgspec

from watchly_core.errors import Fault, ImportRejected, InvalidMovie, MalformedJSON
from watchly_core.movies import CLIENT_FIELDS, Members, MovieDraft, drafted

__all__ = [
    "MAX_LINE",
    "Form",
    "ImportReport",
    "Rejection",
    "Row",
    "decode_json",
    "read_csv",
    "read_lines",
    "read_ndjson",
    "read_rows",
]

#: More digits are no year; int() would take its time over thousands of them.
_YEAR: Final = re.compile(r"\s*-?[0-9]{1,18}\s*", re.ASCII)


class Row(msgspec.Struct, frozen=True):
    """One movie to be: its members, or the faults that kept it from being read.

    `line` counts from 1 and is where the row starts.
    """

    line: int
    members: Members = {}
    faults: tuple[Fault, ...] = ()


class Rejection(msgspec.Struct, frozen=True):
    """A row that was not added, and why."""

    line: int
    errors: tuple[Fault, ...]


class ImportReport(msgspec.Struct, frozen=True):
    """What an import came to: `rejected` lists the first thousand of `rejected_total` rows."""

    added: int
    rejected: tuple[Rejection, ...]
    rejected_total: int
    dry_run: bool


#: Unknown columns that are told of one header.
_FAULTS: Final = 20
#: Faults that are told of one row.
_FAULTS_OF_ROW: Final = 20
#: Rejections that a report lists; it counts all of them.
_LISTED: Final = 1_000
#: Rows that an import hands to the store at once: large enough for COPY, small enough for memory, and for
#: others who are answered in between.
_BATCH: Final = 500
#: The longest line that is read, in bytes.
MAX_LINE: Final = 1_000_000


def read_lines(file: IO[bytes]) -> Iterator[bytes]:
    """The lines of `file` with their ends, as `read_csv` and `read_ndjson` take them.

    Raises:
        InvalidMovie: a line has more than `MAX_LINE` bytes, so that it is hardly a line of these formats.
    """
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise _lost(number, f"is longer than {MAX_LINE} bytes")
        yield line


def decode_json(text: bytes) -> object:
    """The value of a JSON text (RFC 8259) in UTF-8.

    Raises:
        MalformedJSON: it is none, or nested too deep to read.
    """
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass
    # msgspec refuses lone surrogates and numbers beyond a double, which are JSON: as such they get the
    # error that names their member.
    try:
        value: object = json.loads(text.decode(), parse_constant=_not_json, parse_int=_integer)
    except (ValueError, RecursionError):
        raise MalformedJSON("is not JSON in UTF-8, or is nested too deep") from None
    return value


def _integer(digits: str) -> int:
    # More digits are beyond every range of ours, and int() refuses thousands of them.
    return int(digits[:20])


def _not_json(name: str) -> Never:
    raise ValueError(name)


#: The forms in which rows come.
Form: TypeAlias = Literal["csv", "ndjson"]


def read_rows(lines: Iterable[bytes], form: Form, *, ignore_unknown: bool = False) -> Iterator[Row]:
    """Read what `read_lines` gives; bytes that are not UTF-8 are a fault of their row.

    Raises:
        InvalidMovie: see `read_csv`.
    """
    if form == "ndjson":
        return read_ndjson(lines, ignore_unknown=ignore_unknown)
    texts = (line.decode("utf-8", "surrogateescape") for line in lines)
    return read_csv(texts, ignore_unknown=ignore_unknown)


def read_csv(lines: Iterable[str], *, ignore_unknown: bool = False) -> Iterator[Row]:
    """Read CSV (RFC 4180) whose first row names its columns: title, and any of the others.

    `lines` come with their line ends, so that quoted newlines survive. An empty field is no value; in
    quotes it is an empty text where a movie can have one, in its description. Bytes that are not UTF-8
    should come as lone surrogates (``errors="surrogateescape"``): the row is then rejected by name
    instead of ending the import.

    Raises:
        InvalidMovie: the header names no title, an unknown column, or a column twice; or a quote that is
            never closed makes it unknown where the next row starts.
    """
    raw: list[str] = []
    reader = csv.reader(_noted(lines, raw), strict=True)
    try:
        columns = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise InvalidMovie([Fault("malformed", f"the header is not CSV: {error}", pointer="#")]) from None
    _check_header(columns, ignore_unknown=ignore_unknown)
    places = [(columns.index(name), name) for name in CLIENT_FIELDS if name in columns]
    emptiable = columns.index("description") if "description" in columns else None
    while True:
        line = reader.line_num + 1
        raw.clear()
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if str(error).startswith(_LOST):
                raise _lost(line, f"{error}: is a quote missing?") from None
            yield Row(line, faults=(Fault("malformed", f"is not CSV: {error}", pointer="#"),))
            continue
        if not values:
            continue
        if len(values) != len(columns):
            detail = f"has {len(values)} fields where the header has {len(columns)}"
            yield Row(line, faults=(Fault("malformed", detail, pointer="#"),))
            continue
        members: dict[str, object] = {name: values[place] or None for place, name in places}
        if emptiable is not None and not values[emptiable] and _is_quoted(raw, emptiable):
            members["description"] = ""
        # int() also reads other digits and underscores, which are no years of ours.
        if isinstance(year := members.get("release_year"), str) and _YEAR.fullmatch(year):
            members["release_year"] = int(year)
        yield Row(line, members)


def read_ndjson(lines: Iterable[bytes], *, ignore_unknown: bool = False) -> Iterator[Row]:
    """Read one JSON object a line, in UTF-8; blank lines are passed over."""
    for number, raw in enumerate(lines, start=1):
        line = raw.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        try:
            members = decode_json(line)
        except MalformedJSON as error:
            yield Row(number, faults=(Fault("malformed", str(error), pointer="#"),))
            continue
        if not isinstance(members, dict):
            yield Row(number, faults=(Fault("wrong_type", "must be a JSON object", pointer="#"),))
            continue
        if ignore_unknown:
            members = {name: members[name] for name in CLIENT_FIELDS if name in members}
        yield Row(number, members)


#: What the csv module says when it no longer knows whether it is inside a quoted field.
_LOST: Final = ("field larger than field limit", "unexpected end of data")


def _lost(line: int, reason: str) -> InvalidMovie:
    return InvalidMovie([Fault("malformed", f"what starts at line {line} {reason}", pointer="#")])


def _noted(lines: Iterable[str], raw: list[str]) -> Iterator[str]:
    """`lines` without a byte order mark, each appended to `raw` as it is read."""
    mark = "\ufeff"
    start = size = 0
    for number, line in enumerate(lines, start=1):
        read = line.removeprefix(mark)
        mark = ""
        if not raw:
            start, size = number, 0
        size += len(read)
        if size > MAX_LINE:
            raise _lost(start, f"is longer than {MAX_LINE} characters")
        raw.append(read)
        yield read


#: A field of a record that the csv module has read, and so of a sound one.
_FIELD: Final = re.compile(r'("(?:[^"]++|"")*+"|[^,]*)(?:,|\Z)')


def _is_quoted(raw: list[str], place: int) -> bool:
    """Whether the field there, an empty one, is in quotes: the csv module does not tell."""
    record = "".join(raw)
    if '""' not in record:
        return False
    found = itertools.islice(_FIELD.finditer(record.rstrip("\r\n")), place, None)
    return next(found)[1] == '""'


def _check_header(columns: list[str], *, ignore_unknown: bool) -> None:
    faults = [
        Fault(
            "unknown_column",
            f"the column {name[:100]!r} is not one of {', '.join(CLIENT_FIELDS)}",
            pointer="#",
        )
        for name in columns
        if name not in CLIENT_FIELDS and not ignore_unknown
    ][:_FAULTS]
    faults += [
        Fault("repeated_column", f"the column {name!r} is there twice", pointer="#")
        for name in CLIENT_FIELDS
        if columns.count(name) > 1
    ]
    if "title" not in columns:
        faults.append(Fault("missing_column", "there is no column 'title'", pointer="#"))
    if faults:
        raise InvalidMovie(faults)


class Tally:
    """What an import has come to so far: how many rows were `added`, and how many rejected."""

    def __init__(self, on_rejected: Callable[[Rejection], None] | None) -> None:
        self.added = 0
        self.rejected_total: int = 0
        self._listed: list[Rejection] = []
        self._on_rejected = on_rejected

    def reject(self, line: int, faults: Sequence[Fault]) -> None:
        """Note a row that cannot be added, and why."""
        rejection = Rejection(line, tuple(faults[:_FAULTS_OF_ROW]))
        self.rejected_total += 1
        if len(self._listed) < _LISTED:
            self._listed.append(rejection)
        if self._on_rejected is not None:
            self._on_rejected(rejection)

    def report(self, *, dry_run: bool, skip_invalid: bool) -> ImportReport:
        """What it came to.

        Raises:
            ImportRejected: rows were rejected, and are not to be skipped.
        """
        if skip_invalid or not self.rejected_total:
            return ImportReport(self.added, tuple(self._listed), self.rejected_total, dry_run)
        raise ImportRejected(ImportReport(0, tuple(self._listed), self.rejected_total, dry_run))


async def draft_batches(rows: AsyncIterable[Row], tally: Tally) -> AsyncGenerator[list[MovieDraft], None]:
    """Yield the valid rows as drafts, many at a time; the others go to `tally`."""
    batch: list[MovieDraft] = []
    async for row in rows:
        if row.faults:
            tally.reject(row.line, row.faults)
            continue
        try:
            batch.append(drafted(row.members))
        except InvalidMovie as invalid:
            tally.reject(row.line, invalid.faults)
            continue
        if len(batch) >= _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
