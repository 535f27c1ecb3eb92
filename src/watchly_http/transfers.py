"""The routes by which whole catalogues leave and arrive: export and import."""

from __future__ import annotations

import asyncio
import enum
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import islice
from typing import IO, Final

import msgspec
from litestar import get, post
from litestar.response.base import ASGIResponse

from watchly_core.errors import Unavailable
from watchly_core.exports import write_csv, write_ndjson
from watchly_core.imports import Form, ImportReport, Row, read_lines, read_rows
from watchly_core.people import Permission
from watchly_core.spools import spooled
from watchly_http.answers import Answer, json_answer
from watchly_http.authorization import actor_of
from watchly_http.downloads import Download
from watchly_http.filters import FILTERS, SORT, read_query
from watchly_http.idempotency import Sending
from watchly_http.negotiation import Representation, acceptable, sent_form
from watchly_http.openapi import IDEMPOTENCY_KEY, POSITION, Operation, Parameter, Reply
from watchly_http.parts import Catalogue, ImportTurns, Reading, RowThreads, Settings
from watchly_http.positions import SEEN, seen_by
from watchly_http.problems import ImportProblem
from watchly_http.requests import (
    HEAD_ONLY,
    BodyTooLarge,
    Parameters,
    Request,
    flag,
    require_plain,
    require_size,
    stream,
)
from watchly_http.routes import Routes

_NDJSON: Final = Representation("application/x-ndjson")
_CSV: Final = Representation("text/csv", {"charset": "utf-8", "header": "present"})

#: Rows of an import, and bytes of them, that are read at once: the service answers others in between.
_ROWS: Final = 250
_BYTES: Final = 1_000_000
#: Lines that are read in one go where they make no rows.
_LINES: Final = 1_000

#: Seconds that an import waits for its turn.
TURN_WAIT: Final = 5.0
#: Seconds after which one that did not get it may try again: it has to be sent once more.
_RETRY_AFTER: Final = 10

_encode = msgspec.json.Encoder().encode


class OnError(enum.Enum):
    """What becomes of an import in which a row breaks a rule."""

    ABORT = "abort"
    SKIP = "skip"


class TransferController(Routes):
    """Export and import."""

    path = "/api/movies"

    @get(
        "/export",
        opt=Operation(
            "exportMovies",
            "Export movies",
            needs=Permission.READ,
            parameters=(*FILTERS, SORT, SEEN),
            replies={
                200: Reply(
                    "The movies in a form that import reads: a JSON object a line, or CSV with a header row.",
                    bytes,
                    media_types=(_NDJSON.media_type, _CSV.media_type),
                    headers=("Content-Disposition", "Vary"),
                )
            },
            problems=("malformed_request", "invalid_parameter", "not_acceptable"),
        ).opt(),
    )
    async def export(self, request: Request, reading: Reading, settings: Settings) -> ASGIResponse:
        """Send all movies that the filters let through, as of one moment, in the type that Accept asks for.

        A reply that was cut short does not end as HTTP says it should: clients can tell.
        """
        form = acceptable(request, (_NDJSON, _CSV))
        query = read_query(request, (*FILTERS, SORT), settings)
        write, name = (write_csv, "movies.csv") if form is _CSV else (write_ndjson, "movies.ndjson")
        chunks = write(seen_by(request, reading).export(query, actor=actor_of(request)))
        try:
            # Whatever is wrong shows while there is still time for a problem.
            first = await anext(chunks, b"")
        except BaseException:
            await chunks.aclose()
            raise
        if request.scope.get(HEAD_ONLY):
            await chunks.aclose()
        headers = {
            "Content-Type": form.content_type,
            "Content-Disposition": f'attachment; filename="{name}"',
        }
        return Download(first, chunks, headers)

    @post(
        "/import",
        opt=Operation(
            "importMovies",
            "Import movies",
            needs=Permission.WRITE,
            parameters=(
                Parameter(
                    "on_error",
                    "Whether a row that breaks a rule ends the import (the default), or is left out.",
                    OnError,
                    "abort",
                ),
                Parameter("dry_run", "Whether to check the rows and add nothing.", bool, example=False),
                IDEMPOTENCY_KEY,
            ),
            body={_NDJSON.media_type: bytes, _CSV.media_type: bytes},
            replies={
                200: Reply(
                    "What was added, and the first thousand rows that were not.",
                    ImportReport,
                    headers=(POSITION,),
                ),
                422: Reply(
                    "Nothing was added: rows break rules, or begin who knows where; or the key was used.",
                    ImportProblem,
                    media_types=("application/problem+json",),
                ),
            },
            problems=("malformed_request", "invalid_parameter", "too_large", "unsupported_media_type"),
        ).opt(),
    )
    async def import_(
        self,
        request: Request,
        catalogue: Catalogue,
        settings: Settings,
        row_threads: RowThreads,
        import_turns: ImportTurns,
    ) -> Answer:
        """Add the movies of a file in one transaction: CSV with a header row, or a JSON object a line.

        Columns, or members, are title, description, release_year and genre. Nothing is added before all of
        the file has arrived.
        """
        form: Form = "csv" if sent_form(request, (_NDJSON, _CSV)) is _CSV else "ndjson"
        require_plain(request)
        given = Parameters(request, ("on_error", "dry_run"))
        on_error = given.get("on_error", _on_error, OnError.ABORT)
        dry_run = given.get("dry_run", flag, default=False)
        given.check()
        sending = Sending(request, actor_of(request).name)
        largest = settings.max_import_bytes
        require_size(request, largest)
        async with spooled(stream(request), largest, BodyTooLarge(largest)) as (file, _), _turn(import_turns):
            source = _Source(file, form)
            return await sending.once(
                lambda receipt: catalogue.add_many(
                    _rows(source, row_threads),
                    skip_invalid=on_error is OnError.SKIP,
                    dry_run=dry_run,
                    actor=actor_of(request),
                    receipt=receipt,
                ),
                _report_answer,
            )


def _report_answer(report: ImportReport) -> Answer:
    return json_answer(_encode(report))


def _on_error(text: str) -> OnError:
    try:
        return OnError(text)
    except ValueError:
        raise ValueError("must be abort or skip") from None


@asynccontextmanager
async def _turn(turns: asyncio.Semaphore) -> AsyncIterator[None]:
    """Let an import add its rows: it holds a connection meanwhile, so only those whose rows are read do.

    Raises:
        Unavailable: others are still at it.
    """
    try:
        async with asyncio.timeout(TURN_WAIT):
            await turns.acquire()
    except TimeoutError:
        raise Unavailable("imports", "too many imports are under way", retry_after=_RETRY_AFTER) from None
    try:
        yield
    finally:
        turns.release()


class _Source:
    """The rows of a file, read some at a time in a thread."""

    def __init__(self, file: IO[bytes], form: Form) -> None:
        self._lines = read_lines(file)
        self._read = self._taken = 0
        self._stop = threading.Event()
        self._rows = read_rows(self._counted(), form)

    def some(self, stop: threading.Event) -> list[Row]:
        """The next rows; none at the end. `stop` ends it early, for a caller that is no longer there."""
        self._stop = stop
        self._taken = 0
        room = self._read + _BYTES
        found: list[Row] = []
        for row in islice(self._rows, _ROWS):
            found.append(row)
            if self._read >= room:
                break
        return found

    def _counted(self) -> Iterator[bytes]:
        for line in self._lines:
            if self._stop.is_set():
                return
            self._read += len(line)
            self._taken += 1
            if self._taken % _LINES == 0:
                # Lines without rows, blank ones say, end no call: let the loop have the interpreter.
                time.sleep(0.001)
            yield line


async def _rows(source: _Source, threads: RowThreads) -> AsyncIterator[Row]:
    while found := await threads.lend(source.some):
        for row in found:
            yield row
