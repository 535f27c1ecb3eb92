"""What pages have made while the site is built: ``<!-- made: NAME WORDS -->`` stands where it comes.

On GitHub such a line is not seen, and the rest of the page can be read there.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import TYPE_CHECKING, Final

import click
from docs.extensions import http, imports
from tests.typing.api import Api

from watchly_core import errors
from watchly_http.cli import cli
from watchly_http.problems import _BY_ERROR as BY_ERROR
from watchly_http.problems import KINDS

if TYPE_CHECKING:
    from docutils.nodes import Element
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment
    from sphinx.util.typing import ExtensionMetadata

ROOT: Final = Path(__file__).parents[2]

_MADE: Final = re.compile(r"^<!-- made: (?P<name>[a-z-]+)(?P<words>(?: [^ \n]+)*) -->$", flags=re.MULTILINE)

_LINK: Final = re.compile(r"\[(?P<text>[^\]\n]+)\]\((?P<target>[\w./-]+)\)")


def contents(caption: str, *patterns: str) -> Iterator[str]:
    """The pages that match, below docs/ or /from/the/root; the caption has - for spaces."""
    yield from _toctree(patterns, f":caption: {caption.replace('-', ' ')}")


def pages(*patterns: str) -> Iterator[str]:
    """The same, beside the text and not in it, for a page that links to them by itself."""
    yield from _toctree(patterns, ":hidden:")


def _toctree(patterns: Iterable[str], option: str) -> Iterator[str]:
    anchored = [pattern if pattern.startswith("/") else f"/docs/{pattern}" for pattern in patterns]
    there = [pattern for pattern in anchored if any(ROOT.glob(f"{pattern[1:]}.md"))]
    yield from ("```{toctree}", ":glob:", ":titlesonly:", option, "", *there, "```")


def problems() -> Iterator[str]:
    """Every problem, its status, and the errors that are told by it."""
    for code, kind in KINDS.items():
        told = ", ".join(f"`{error.__name__}`" for error, named in BY_ERROR.items() if named == code)
        yield from (
            f"(problem-{code})=",
            "",
            f"### {code}",
            "",
            f"**{kind.status} {kind.title}.** {kind.explanation}",
            "",
        )
        if told:
            yield from (f"Raised as {told}.", "")


def tree() -> Iterator[str]:
    """The tree of errors, as it is drawn in the module's docstring."""
    drawn = (errors.__doc__ or "").split("\n\n")[2]
    yield from ("```text", *dedent(drawn).splitlines(), "```")


def command_line() -> Iterator[str]:
    """All commands, by what they say for ``--help``."""
    return _helped(cli, None)


def _helped(command: click.Command, above: click.Context | None) -> Iterator[str]:
    context = click.Context(command, above, "watchly" if above is None else command.name, terminal_width=100)
    yield from (
        f"## {context.command_path}",
        "",
        "```text",
        *command.get_help(context).splitlines(),
        "```",
        "",
    )
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            if found := command.get_command(context, name):
                yield from _helped(found, context)


def python(*packages: str) -> Iterator[str]:
    """All that is public in these packages and in the modules right below them."""
    api = _api()
    for name in api.modules:
        if any(name == package or re.fullmatch(rf"{re.escape(package)}\.\w+", name) for package in packages):
            yield from _module(importlib.import_module(name), api)


@cache
def _api() -> Api:
    return Api()


def _module(module: ModuleType, api: Api) -> Iterator[str]:
    name = module.__name__
    yield from (f"## {name}", "", *_rst(f".. automodule:: {name}", "   :no-members:"))
    elsewhere = []
    for public in sorted(module.__all__):
        thing, home = getattr(module, public), api.home(name, public)
        if home != f"{name}.{public}":
            elsewhere.append(f"{{py:obj}}`{public} <{home}>`")
        elif inspect.isclass(thing):
            known = ", ".join(base.__name__ for base in thing.mro()[1:] if not _is_private(base))
            hidden = any(map(_is_private, thing.mro()[1:]))
            inherited = [f"   :inherited-members: {known}"] if hidden else []
            told = any(base is not object and not _is_private(base) for base in thing.__bases__)
            bases = ["   :show-inheritance:"] if told else []
            yield from _rst(f".. autoclass:: {name}.{public}", "   :members:", *inherited, *bases)
        elif callable(thing):
            yield from _rst(f".. autofunction:: {name}.{public}")
        else:
            yield from _rst(f".. autodata:: {name}.{public}", "   :no-value:")
    if elsewhere:
        yield from (f"Also here: {', '.join(elsewhere)}.", "")


def _rst(*lines: str) -> Iterable[str]:
    return ("```{eval-rst}", *lines, "```", "")


def _drawn(svg: str) -> Iterable[str]:
    return ("```{raw} html", svg, "```")


MAKERS: Final[Mapping[str, Callable[[Sequence[str]], Iterable[str]]]] = {
    "contents": lambda words: contents(*words),
    "pages": lambda words: pages(*words),
    "http": lambda _: http.page(http.document()),
    "problems": lambda _: problems(),
    "tree": lambda _: tree(),
    "command-line": lambda _: command_line(),
    "python": lambda words: python(*words),
    "drawing-of-packages": lambda _: _drawn(imports.draw_packages()),
    "drawing-of-the-core": lambda _: _drawn(imports.draw_core()),
    "drawing-of": lambda words: _drawn(imports.draw_some(*words)),
    "drawing-of-ports": lambda _: _drawn(imports.draw_ports()),
    "drawing-of-libraries": lambda _: _drawn(imports.draw_libraries()),
}


def pointed(text: str, folder: Path) -> str:
    """The text of a page: links to folders lead to their README, and are text where there is none."""

    def link(found: re.Match[str]) -> str:
        if not (folder / found["target"]).is_dir():
            return found[0]
        readme = f"{found['target'].rstrip('/')}/README.md"
        return f"[{found['text']}]({readme})" if (folder / readme).is_file() else found["text"]

    return _LINK.sub(link, text)


def made(text: str) -> str:
    """The text of a page, with all that is made for it."""
    return _MADE.sub(lambda line: "\n".join(MAKERS[line["name"]](line["words"].split())), text)


def _read(_app: Sphinx, name: str, source: list[str]) -> None:
    source[0] = made(pointed(source[0], (ROOT / name).parent))


def _keep(app: Sphinx, what: str, name: str, _thing: object, _options: object, lines: list[str]) -> None:
    """What is said of a value is a sentence: napoleon would take the words before a colon for its type."""
    if what in _VALUES:
        _kept(app)[name] = list(lines)


def _restore(app: Sphinx, what: str, name: str, _thing: object, _options: object, lines: list[str]) -> None:
    if what in _VALUES:
        lines[:] = _kept(app).pop(name)


_VALUES: Final = {"attribute", "data", "property"}


@cache
def _kept(_app: Sphinx) -> dict[str, list[str]]:
    return {}


def _show_bases(_app: Sphinx, _name: str, _thing: object, _options: object, bases: list[type]) -> None:
    bases[:] = [base for base in bases if not _is_private(base)]


def _is_private(base: type) -> bool:
    """Whether this is a class of ours that nobody is told of: what it has is shown where it is inherited."""
    module = sys.modules[base.__module__]
    return base.__module__.startswith("watchly_") and base.__name__ not in getattr(module, "__all__", ())


def _find(app: Sphinx, env: BuildEnvironment, node: pending_xref, shown: Element) -> Element | None:
    """A name of Python by its last part, where that is enough."""
    target = str(node["reftarget"])
    if node["refdomain"] == "py":
        python = env.domains.python_domain
        names = [name for name in python.objects if name.endswith(f".{target.rpartition('.')[2]}")]
        if (near := f"{node.get('py:module')}.{target}") in names:
            names = [near]
        if len(names) == 1:
            return python.resolve_xref(env, node["refdoc"], app.builder, "obj", names[0], node, shown)
    return None


def setup(app: Sphinx) -> ExtensionMetadata:
    """What Sphinx calls first."""
    app.connect("source-read", _read)
    app.connect("autodoc-process-docstring", _keep, priority=400)
    app.connect("autodoc-process-docstring", _restore, priority=600)
    app.connect("autodoc-process-bases", _show_bases)
    app.connect("missing-reference", _find)
    app.add_css_file("drawings.css")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
