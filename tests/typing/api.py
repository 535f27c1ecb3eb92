"""The public API as text: ``python -m tests.typing.api`` writes it to `docs/reference/api.txt`.

A module is public that has an `__all__`, as is what that names; nothing else is. The text is read from
the sources, which are not run. It shows each name once: where it is defined, or where a private one is
brought to light. What a function raises is what its docstring says. An attribute that is of a private
class promises what the port does that this satisfies, and is shown as such.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import griffe

ROOT: Final = Path(__file__).parents[2]
TEXT: Final = ROOT / "docs/reference/api.txt"
PACKAGES: Final = ("watchly_core", "watchly_adapters", "watchly_http")
COMMAND: Final = "python -m tests.typing.api"

_HEAD: Final = f"""\
The public API of Watchly, written by `{COMMAND}`; a test compares it with the code.
What is not here is private. Every port may raise Unavailable as well.
"""
#: The methods of the data model that are asked for by their names, or by a statement.
_SPECIAL: Final = {
    "__init__", "__call__", "__enter__", "__aenter__", "__iter__", "__aiter__", "__next__", "__anext__",
}  # fmt: skip
_SATISFIES: Final = re.compile(r"Satisfies `(ports\.\w+)`")
_ANNOTATED: Final = re.compile(r"Annotated\[(.+?), Meta\(")
#: Longer values are not shown.
_LONG: Final = 64

Named: TypeAlias = griffe.Object | griffe.Alias
Expression: TypeAlias = griffe.Expr | str | None


class Api:
    """The public API of the packages.

    Attributes:
        modules: the public ones, by their paths, and in the order of these.
    """

    def __init__(self) -> None:
        self._loader = griffe.GriffeLoader(search_paths=[ROOT / "src"], allow_inspection=False)
        packages = [self._loader.load(package, try_relative_path=False) for package in PACKAGES]
        self._loader.resolve_aliases(external=False, implicit=True)
        found = [module for package in packages for module in _modules(package) if _exports(module)]
        self.modules: dict[str, Named] = {module.path: module for module in sorted(found, key=_path)}
        #: Where each public thing is defined, and where it is shown.
        self._shown: dict[str, str] = {}
        for module in self.modules.values():
            for name in _exports(module):
                defined = _named(module, name).canonical_path
                if defined.rpartition(".")[0] == module.path or defined not in self._shown:
                    self._shown[defined] = f"{module.path}.{name}"

    def lines(self) -> Iterator[str]:
        """The text, line by line."""
        for module in self.modules.values():
            yield f"\n{module.path}"
            for name in sorted(_exports(module)):
                yield from self._thing(module, name)

    def home(self, module: str, name: str) -> str:
        """Where the public `name` of `module` is shown: there, or where it is defined."""
        return self._shown[_named(self.modules[module], name).canonical_path]

    def strays(self) -> Sequence[str]:
        """What public signatures name that is not public itself, and where."""
        found: set[str] = set()
        for defined in self._shown:
            public = self._loader.modules_collection[defined]
            for part in (public, *(self._members(public) if public.is_class else ())):
                found.update(
                    f"{part.path} names {thing.path}"
                    for expression in _expressions(part)
                    for _, thing in self._private(expression)
                    if _instead(thing) is None
                )
        return sorted(found)

    def untyped(self) -> Sequence[str]:
        """Public attributes of which nothing says what they are: neither they, nor what they override."""
        found: list[str] = []
        for defined in self._shown:
            public = self._loader.modules_collection[defined]
            parts = self._members(public) if public.is_class else (public,)
            found += [part.path for part in parts if isinstance(part, griffe.Attribute) and not _typed(part)]
        return sorted(found)

    def _private(self, expression: Expression) -> Iterator[tuple[str, Named]]:
        """What `expression` names of Watchly that is not public, by these names."""
        for name in expression.iterate() if isinstance(expression, griffe.Expr) else ():
            if isinstance(name, griffe.ExprName) and name.canonical_path.startswith(PACKAGES):
                try:
                    thing = _final(self._loader.modules_collection[name.canonical_path])
                except (KeyError, griffe.AliasResolutionError):
                    continue  # a parameter, a type variable of a class
                if not _is_type_variable(thing) and thing.canonical_path not in self._shown:
                    yield name.name, thing

    def _thing(self, module: Named, name: str) -> Iterator[str]:
        thing = _named(module, name)
        shown = self._shown[thing.canonical_path]
        if shown != f"{module.path}.{name}":
            yield f"    {name} is {shown}"
            return
        thing = _final(thing)
        yield f"    {self._declared(thing)}"
        if thing.is_class:
            yield from (f"        {self._declared(member)}" for member in self._members(thing))

    def _declared(self, thing: Named) -> str:
        line = _declared(thing)
        for expression in _expressions(thing):
            for name, private in self._private(expression):
                line = re.sub(rf"\b{name}\b", _instead(private) or name, line)
        return line

    def _members(self, thing: Named) -> Sequence[Named]:
        """Its own, and those that it has from classes that are not public."""
        found = dict(thing.members)
        for base in thing.mro() if isinstance(thing, griffe.Class) else ():
            if base.canonical_path not in self._shown and base.canonical_path.startswith(PACKAGES):
                found = {**base.members, **found}
        tests = thing.path.startswith("watchly_adapters.testing.")
        return [
            member
            for name, member in sorted(found.items(), key=lambda item: _rank(*item))
            if (not name.startswith("_") or name in _SPECIAL)
            and not member.is_class
            # The tests of a suite are run by pytest, and called by nobody.
            and not (tests and name.startswith(("test_", "pytestmark")))
        ]


def _named(module: Named, name: str) -> Named:
    """What `module` calls so; griffe does not see what a module of the same name hides from it."""
    thing: Named = module[name]
    return thing.members.get(name, thing) if thing.is_module else thing


def _typed(attribute: griffe.Attribute) -> bool:
    owner = attribute.parent
    if attribute.annotation is not None or not isinstance(owner, griffe.Class):
        return attribute.annotation is not None
    overridden = [base.members.get(attribute.name) for base in owner.mro()]
    return any(isinstance(each, griffe.Attribute) and each.annotation is not None for each in overridden) or (
        any(str(base).startswith("enum.") for base in owner.bases)
    )


def _final(thing: Named) -> Named:
    return thing.final_target if isinstance(thing, griffe.Alias) else thing


def _instead(private: Named) -> str | None:
    """What a stranger goes by in its place: the port that it satisfies, or what it is an alias of."""
    if private.docstring is not None and (found := _SATISFIES.match(private.docstring.value)):
        return found[1]
    if isinstance(private, griffe.Attribute) and (found := _ANNOTATED.match(str(private.value))):
        return found[1]
    return None


def _modules(module: Named) -> Iterator[Named]:
    yield module
    for member in module.members.values():
        if not member.is_alias and member.is_module:
            yield from _modules(member)


def _path(thing: Named) -> str:
    return thing.path


def _exports(module: Named) -> Sequence[str]:
    return [str(name) for name in module.exports or ()]


def _rank(name: str, member: Named) -> tuple[bool, int, str]:
    """Fields in their order, which is that of their arguments; then methods by their names."""
    return (member.is_function, 0 if member.is_function else member.lineno or 0, name)


def _is_type_variable(thing: Named) -> bool:
    return isinstance(thing, griffe.Attribute) and str(thing.value).startswith(("TypeVar(", "ParamSpec("))


def _expressions(thing: Named) -> Iterator[Expression]:
    if isinstance(thing, griffe.Function):
        yield thing.returns
        for parameter in thing.parameters:
            yield parameter.annotation
    elif isinstance(thing, griffe.Attribute):
        yield thing.annotation
        if "TypeAlias" in str(thing.annotation):
            yield thing.value


def _declared(thing: Named) -> str:
    if isinstance(thing, griffe.Class):
        bases = ", ".join(map(str, thing.bases))
        return f"class {thing.name}({bases})" if bases else f"class {thing.name}"
    if isinstance(thing, griffe.Function):
        marks = "".join(
            f"{label} " for label in ("classmethod", "staticmethod", "async") if label in thing.labels
        )
        raised = ", ".join(_raised(thing))
        return f"{marks}{thing.signature()}" + (f"  raises {raised}" if raised else "")
    if not isinstance(thing, griffe.Attribute):
        return thing.name
    if "property" in thing.labels:
        raised = ", ".join(_raised(thing))
        return f"property {thing.name}: {thing.annotation}" + (f"  raises {raised}" if raised else "")
    annotation = "" if thing.annotation is None else f": {thing.annotation}"
    # An attribute that is set when something is made has no default.
    value = (
        "" if thing.value is None or "instance-attribute" in thing.labels - _both(thing) else str(thing.value)
    )
    if not value:
        return f"{thing.name}{annotation}"
    return f"{thing.name}{annotation} = {value if len(value) <= _LONG else '...'}"


def _both(thing: griffe.Attribute) -> set[str]:
    """A field of a class with a default is an attribute of both."""
    return {"instance-attribute"} if "class-attribute" in thing.labels else set()


def _raised(thing: Named) -> Iterator[str]:
    if thing.docstring is not None:
        for section in griffe.parse_google(thing.docstring, warnings=False):
            if section.kind is griffe.DocstringSectionKind.raises:
                yield from (str(each.annotation) for each in section.value)


def text() -> str:
    """All of it."""
    return "\n".join((_HEAD.rstrip(), *Api().lines())) + "\n"


if __name__ == "__main__":
    TEXT.write_text(text())
