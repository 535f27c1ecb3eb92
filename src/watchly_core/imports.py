"""Rows of CSV and NDJSON on their way into the catalogue, and what became of them."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from watchly_core.errors import Fault, InvalidMovie
from watchly_core.movies import CLIENT_FIELDS, Members

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


def read_csv(lines: Iterable[str], *, ignore_unknown: bool = False) -> Iterator[Row]:
    """Read CSV (RFC 4180) whose first row names its columns: title, and any of the others.

    `lines` come with their line ends, so that quoted newlines survive; an empty field is no value. Bytes
    that are not UTF-8 should come as lone surrogates (``errors="surrogateescape"``): the row is then
    rejected by name instead of ending the import.

    Raises:
        InvalidMovie: the header names no title, an unknown column, or a column twice.
    """
    reader = csv.reader(_without_mark(lines), strict=True)
    try:
        columns = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise InvalidMovie([Fault("malformed", f"the header is not CSV: {error}", pointer="#")]) from None
    _check_header(columns, ignore_unknown=ignore_unknown)
    places = [(columns.index(name), name) for name in CLIENT_FIELDS if name in columns]
    while True:
        line = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Row(line, faults=(Fault("malformed", f"is not CSV: {error}", pointer="#"),))
            continue
        if not values:
            continue
        if len(values) != len(columns):
            detail = f"has {len(values)} fields where the header has {len(columns)}"
            yield Row(line, faults=(Fault("malformed", detail, pointer="#"),))
            continue
        members: dict[str, object] = {name: values[place] or None for place, name in places}
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
            members: object = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            yield Row(number, faults=(Fault("malformed", "is not JSON", pointer="#"),))
            continue
        if not isinstance(members, dict):
            yield Row(number, faults=(Fault("wrong_type", "must be a JSON object", pointer="#"),))
            continue
        if ignore_unknown:
            members = {name: members[name] for name in CLIENT_FIELDS if name in members}
        yield Row(number, members)


def _without_mark(lines: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(lines):
        yield line if number else line.removeprefix("\ufeff")


def _check_header(columns: list[str], *, ignore_unknown: bool) -> None:
    faults = [
        Fault("unknown_column", f"the column {name!r} is not one of {', '.join(CLIENT_FIELDS)}", pointer="#")
        for name in columns
        if name not in CLIENT_FIELDS and not ignore_unknown
    ]
    faults += [
        Fault("repeated_column", f"the column {name!r} is there twice", pointer="#")
        for name in CLIENT_FIELDS
        if columns.count(name) > 1
    ]
    if "title" not in columns:
        faults.append(Fault("missing_column", "there is no column 'title'", pointer="#"))
    if faults:
        raise InvalidMovie(faults)
