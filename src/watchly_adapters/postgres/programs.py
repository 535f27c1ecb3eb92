"""PostgreSQL's own programs, at work.

What they are told of the connection goes through their environment, which nobody else on the machine sees.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Final

from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Conninfo

from watchly_core.errors import Misconfigured, Unavailable

#: Set at the beginning of what pg_restore writes since version 17, and not known to servers before that.
_UNKNOWN: Final = b"SET transaction_timeout = 0;\n"
_FIRST_LINES: Final = 30
_CHUNK_BYTES: Final = 256 * 1024
_COMPLAINT_BYTES: Final = 64 * 1024

_ERROR: Final = re.compile(r"\b(?:error|ERROR|FATAL|PANIC):\s+(.*)")
_DETAIL: Final = re.compile(r"\b(?:detail|DETAIL):\s+(.*)")


def variables(url: str) -> tuple[Mapping[str, str], Sequence[str]]:
    """What tells libpq of the connection that `url` names: environment variables, and words for the rest.

    Raises:
        Misconfigured: a secret among it can go only where everybody sees it.
    """
    known = {option.keyword.decode(): option for option in Conninfo.get_defaults()}
    told: dict[str, str] = {}
    rest: dict[str, str] = {}
    for keyword, value in conninfo_to_dict(url).items():
        option = known[keyword]
        if option.envvar is not None:
            told[option.envvar.decode()] = str(value)
        elif option.dispchar:
            raise Misconfigured(f"DATABASE_URL: {keyword} cannot be told to pg_dump without others seeing it")
        else:
            rest[keyword] = str(value)
    return told, [f"--dbname={make_conninfo(**rest)}"] if rest else []


class Running:
    """A program of PostgreSQL that is at work."""

    def __init__(self, process: Process, name: str, complaints: IO[bytes]) -> None:
        self._process, self._name, self._complaints = process, name, complaints
        self.gone: bool = False

    async def feed(self, source: IO[bytes]) -> None:
        """Write all of `source` to it, or what it reads of it."""
        while (chunk := await asyncio.to_thread(source.read, _CHUNK_BYTES)) and not self.gone:
            await self.write(chunk)
        await self.close()

    async def write(self, content: bytes) -> None:
        """Write to it; what it does not read any more is lost."""
        stdin = self._process.stdin
        if stdin is None or self.gone:
            return
        try:
            stdin.write(content)
            await stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            self.gone = True

    async def text(self) -> AsyncIterator[bytes]:
        """What it writes, in SQL, without what some servers do not know."""
        stdout = self._process.stdout
        if stdout is None:
            return
        for _ in range(_FIRST_LINES):
            if (line := await stdout.readline()) != _UNKNOWN:
                yield line
        while chunk := await stdout.read(_CHUNK_BYTES):
            yield chunk

    async def end(self) -> None:
        """See it end.

        Raises:
            Unavailable: it has failed; says why.
        """
        await self.close()
        code = await self._process.wait()
        if code:
            self._complaints.seek(0)
            text = self._complaints.read(_COMPLAINT_BYTES).decode(errors="replace")
            raise Unavailable("database", f"{self._name}: {_complaint(text, code)}")

    async def close(self) -> None:
        """Write nothing more to it."""
        stdin = self._process.stdin
        if stdin is not None:
            stdin.close()
            # Also where it has broken: older versions of Python log an error of it that nobody asks for.
            with suppress(BrokenPipeError, ConnectionResetError):
                await stdin.wait_closed()


@asynccontextmanager
async def running(
    program: Path, words: Sequence[str], url: str | None, *, stdin: int, stdout: int | IO[bytes]
) -> AsyncIterator[Running]:
    """A program, which is killed if it is still at work at the end of the block."""
    told, rest = ({}, ()) if url is None else variables(url)
    with tempfile.TemporaryFile() as complaints:
        process = await asyncio.create_subprocess_exec(
            program,
            *words,
            *rest,
            stdin=stdin,
            stdout=stdout,
            stderr=complaints,
            env={**os.environ, "PGAPPNAME": "watchly", **told, "LC_ALL": "C"},
            limit=_CHUNK_BYTES,
        )
        started = Running(process, program.name, complaints)
        try:
            yield started
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                # Not `wait`, which does not return before all that it has written is read.
                await process.communicate()
            await started.close()


def _complaint(text: str, code: int) -> str:
    """The line that says what went wrong."""
    found = _ERROR.search(text)
    if found is None:
        ended = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        return next((line.strip() for line in text.splitlines() if line.strip()), ended)
    detail = _DETAIL.search(text, found.end())
    return " ".join((found[1] if detail is None else f"{found[1]} ({detail[1]})").split())
