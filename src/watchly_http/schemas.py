"""The schemas of the OpenAPI document, as code generators want them.

What clients send and what they get are structs of ours; msgspec says what their JSON is. Here it is said as
generators take it: a member that a reply always has is required, no member has a default, for generators
take those with one for present, and each choice of words has a name and a type.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from inspect import cleandoc
from typing import Final, TypeAlias, get_args, get_type_hints

import msgspec

from watchly_http.forms import FORM

Json: TypeAlias = dict[str, object]
Kind: TypeAlias = type[object]

#: Bodies that are no text, in the words of OpenAPI 3.0: 3.1 has none, and generators know these.
_BINARY: Final[Mapping[str, object]] = {"type": "string", "format": "binary"}
_PLACE: Final = "#/components/schemas/"
_ENDLESS: Final = "text/event-stream"


class Schemas:
    """The schemas of some types.

    Args:
        sent: the types of bodies of requests, by their media types.
        got: those of replies.
        others: those of parameters.
        examples: values of some of them, or of what they hold, to be shown.

    Attributes:
        components: the schemas that have names, in the order of these.
    """

    def __init__(
        self,
        sent: Iterable[tuple[str, Kind]],
        got: Iterable[Kind],
        others: Iterable[Kind],
        examples: Iterable[msgspec.Struct],
    ) -> None:
        bodies, replies = list(sent), list(got)
        kinds = tuple(dict.fromkeys((*(kind for _, kind in bodies), *replies, *others)))
        refs, components = msgspec.json.schema_components(kinds, ref_template=f"{_PLACE}{{name}}")
        self._refs = dict(zip(kinds, refs, strict=True))
        for struct in {struct for kind in replies for struct in _structs(kind)}:
            if not struct.__struct_config__.omit_defaults:
                _require_all(components[struct.__name__])
        shown = {type(example).__name__: example for example in examples}
        named: dict[str, Json] = {}
        for name, schema in components.items():
            _drop_defaults(schema)
            named[name] = _plain(schema, named)
            if name in shown:
                named[name]["examples"] = [msgspec.to_builtins(shown[name], str_keys=True)]
        for form in {struct.__name__ for media, kind in bodies if media == FORM for struct in _structs(kind)}:
            _drop_nulls(named[form])
        # In an order that does not change from process to process.
        self.components: dict[str, Json] = dict(sorted(named.items()))

    def of(self, kind: Kind) -> Json:
        """The schema of a parameter, or of JSON."""
        return dict(self._refs[kind])

    def content(self, kind: Kind, media_type: str) -> Json:
        """The schema of a body; that of raw bytes follows from their media type."""
        if kind is not bytes:
            return self.of(kind)
        if media_type == _ENDLESS:
            return {}  # OpenAPI 3.1 cannot say what the events of a stream are, and it is no text that ends
        return {"type": "string"} if media_type.startswith("text/") else dict(_BINARY)


def _structs(kind: object) -> Iterator[type[msgspec.Struct]]:
    """The struct that a type is, and all that are part of it."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind
        parts = tuple(get_type_hints(kind).values())
    else:
        parts = get_args(kind)
    for part in parts:
        yield from _structs(part)


def _members(schema: Json) -> dict[str, Json]:
    return msgspec.convert(schema.get("properties", {}), dict[str, Json])


def _require_all(schema: Json) -> None:
    """Those that have a default are there as well; what may be UNSET has none."""
    members = _members(schema)
    required = msgspec.convert(schema.get("required", []), list[str])
    schema["required"] = [name for name in members if name in required or "default" in members[name]]


def _drop_defaults(schema: Json) -> None:
    if "properties" in schema:
        schema["properties"] = {
            name: {key: value for key, value in member.items() if key != "default"}
            for name, member in _members(schema).items()
        }


def _drop_nulls(schema: Json) -> None:
    """Parts of a form are texts: one that is null is left out."""
    members = _members(schema)
    for name, member in members.items():
        choices = msgspec.convert(member.get("anyOf", []), list[Json])
        kept = [choice for choice in choices if choice != {"type": "null"}]
        if choices and len(kept) == 1:
            members[name] = kept[0]
    schema["properties"] = members


def _plain(schema: Json, named: dict[str, Json], *, top: bool = True) -> Json:
    """The schema, and those in it, with what generators ask for; those with a title go to `named`."""
    made: Json = {}
    for key, value in schema.items():
        if key == "properties":
            members = msgspec.convert(value, dict[str, Json])
            made[key] = {name: _plain(member, named, top=False) for name, member in members.items()}
        elif isinstance(value, dict):
            made[key] = _plain(value, named, top=False)
        elif key == "anyOf":
            choices = msgspec.convert(value, list[Json])
            made[key] = [_plain(choice, named, top=False) for choice in choices]
        else:
            made[key] = value
    if isinstance(text := made.get("description"), str):
        made["description"] = cleandoc(text)
    if isinstance(words := made.get("enum"), list) and all(isinstance(word, str) for word in words):
        made["type"] = "string"
        if len(words) == 1:
            made["const"] = words[0]
            del made["enum"]
    if not top and isinstance(title := made.get("title"), str):
        named[title] = made
        return {"$ref": f"{_PLACE}{title}"}
    return made
