"""The code of a page, run as its reader would: every block of it, from the top to the bottom, in one folder.

What becomes of a block is told by its language, and where that is not enough by a comment before it:

- ``console``: after each ``$`` a command for bash, continued after ``>``, and then what it prints;
- ``python``: a program, and after it, as ``text``, what it prints;
- ``json``: a document, which is read;
- ``dotenv``: settings, which are read as `watchly` does, beside those of the blocks before;
- what begins with a brace: a directive, which the generator of the site sees to;
- ``<!-- file: NAME -->``: what the reader puts into a file, for the blocks below;
- ``<!-- add to: NAME -->``: what the reader adds to its end;
- ``<!-- part of: PATH -->``: lines of a file of the repository, which other tests run;
- ``<!-- by hand: REASON -->``: what no test can do, such as what root does to a machine.

A page says at its top what it takes for granted, as ``<!-- given: … -->``:

- ``service``: `watchly serve` runs in another terminal, at 127.0.0.1:5000;
- ``database``: an empty one that DATABASE_URL names;
- ``postgresql``: the server's own programs, such as `psql` and `pg_dump`;
- the names of programs, without which the page cannot be tried and is skipped.

A page of an example is run in a copy of its folder, and others beside `deploy/`. Ports of 127.0.0.1 and those
after ``--port`` or ``PORT=`` are free ones when a page is run. What it starts in the background ends with it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from markdown_it import MarkdownIt

ROOT: Final = Path(__file__).parents[2]

_COMMENT: Final = re.compile(r"<!-- (?P<kind>given|file|add to|part of|by hand): (?P<what>.+?) -->")

#: How Watchly is run and tested, as the README says first of all: the sessions of nox do so.
COMMANDS: Final = (
    "python3 -m venv .venv && .venv/bin/pip install '.[all]' && .venv/bin/watchly serve",
    "python3 -m venv .venv && .venv/bin/pip install nox && .venv/bin/nox",
)

#: What differs from run to run, and what it is called when runs are compared.
_VARYING: Final = (
    (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME"),
    (r"\w{3}, \d\d \w{3} \d{4} [\d:]+ GMT", "DATE"),
    (r"\b[0-9a-f]{32}\b", "KEY"),
    (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "KEY"),
    (r"\bwebhook-[0-9a-f]{8}\b", "WEBHOOK"),
    (r'"bytes":\d+', '"bytes":SIZE'),
    (r"\b[0-9A-F]+/[0-9A-F]+-[0-9a-f]+$", "POSITION"),
    (r"\b(eyJ|wrt_|watchly_[0-9a-f]{12}_)[\w.…-]+", "SECRET"),
    (r'"(kid|x|y|prefix)":"[\w…-]+"', "PUBLIC"),
    (r"in \d+\.\d+s", "in SECONDS"),
    (r"\b\d+ passed", "ALL passed"),
)


class Block(NamedTuple):
    """A fenced block of a page."""

    line: int
    language: str
    text: str
    #: What the comment before it says, and of what: a file, or a part of one.
    kind: str = ""
    what: str = ""


class Page(NamedTuple):
    """A page, and what it takes for granted."""

    path: Path
    given: tuple[str, ...]
    blocks: tuple[Block, ...]

    def __str__(self) -> str:
        return str(self.path.relative_to(ROOT))


def pages() -> list[Page]:
    """All pages with code in them that a reader may run."""
    folders = ("README.md", "deploy/README.md", "docs/**/*.md", "examples/*/README.md")
    found = sorted(path for folder in folders for path in ROOT.glob(folder))
    return [page for path in found if (page := read(path)).blocks]


def read(path: Path) -> Page:
    """A page, whose blocks are all fenced.

    Raises:
        ValueError: one is indented instead, which hides its language, or a comment has no block after it.
    """
    given: tuple[str, ...] = ()
    blocks, comment = [], ("", "")
    for token in MarkdownIt().parse(path.read_text(encoding="utf-8")):
        line = token.map[0] + 1 if token.map else 0
        if comment[0] and token.type != "fence":
            raise ValueError(f"{path}:{line}: before this has to be the block of a comment")
        if token.type == "html_block" and (found := _COMMENT.match(token.content)):
            if found["kind"] == "given":
                given = tuple(found["what"].split(", "))
            else:
                comment = (found["kind"], found["what"])
        elif token.type == "fence":
            blocks.append(Block(line, token.info, token.content, *comment))
            comment = ("", "")
        elif token.type == "code_block" and token.content.strip() not in COMMANDS:
            raise ValueError(f"{path}:{line}: a block of code without a language")
    return Page(path, given, tuple(blocks))


class Step(NamedTuple):
    """What is done for a block, as lines of bash, and what it prints."""

    block: Block
    script: str
    output: str


def steps(page: Page, scratch: Path, python: str) -> Iterator[Step]:
    """What is done for the blocks that are run or written, by this Python; programs are put into `scratch`.

    Raises:
        ValueError: nobody knows what becomes of a block.
    """
    outputs = {
        number: after.text
        for number, (block, after) in enumerate(zip(page.blocks, page.blocks[1:], strict=False))
        if block.language == "python" and not block.kind and after.language == "text"
    }
    for number, block in enumerate(page.blocks):
        if block.kind in {"file", "add to"}:
            target = scratch / f"{number}.block"
            target.write_text(block.text, encoding="utf-8")
            name, into = shlex.quote(block.what), ">" if block.kind == "file" else ">>"
            yield Step(
                block, f'mkdir -p "$(dirname {name})" && cat {shlex.quote(str(target))} {into} {name}', ""
            )
        elif block.language == "python" and not block.kind:
            program = scratch / f"{number}.block"
            program.write_text(block.text, encoding="utf-8")
            command = shlex.join([python, "-W", "error", str(program)])
            yield Step(block, f'PYTHONPATH="$PWD:$PYTHONPATH" {command}', outputs.get(number, ""))
        elif block.language == "console":
            yield Step(block, "\n".join(_commands(block)), block.text)
        elif not _is_seen_to(block) and number - 1 not in outputs:
            raise ValueError(f"{page}:{block.line}: what becomes of this block ({block.language})?")


def _is_seen_to(block: Block) -> bool:
    """Whether what is to become of it is not done in the page's folder."""
    is_known = block.language in {"json", "dotenv"} or block.language.startswith("{")
    return block.kind in {"part of", "by hand"} or is_known


def _commands(block: Block) -> Iterator[str]:
    """The commands of a session, each shown as the page shows it; one that shows nothing has to succeed."""
    session = re.compile(r"(^\$ .*\n(?:^> .*\n)*)((?:^(?!\$ ).*\n)*)", flags=re.MULTILINE)
    for command, output in session.findall(block.text):
        typed = re.sub(r"^[$>] ", "", command, flags=re.MULTILINE)
        judged = "" if output.strip() else "test $? = 0 || printf 'it failed'\n"
        yield f"printf '%s' {shlex.quote(command)}\n{typed}{judged}printf '\\n'"


def steady(text: str) -> list[str]:
    """The lines of an output that say something, with names in place of what differs from run to run."""
    for pattern, name in _VARYING:
        text = re.sub(pattern, name, text, flags=re.MULTILINE)
    return [line for line in map(str.rstrip, text.splitlines()) if line]
