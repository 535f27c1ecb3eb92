"""The REST API as a page: all that `/openapi.json` says, in the words of the document itself."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import Final, TypeAlias

import msgspec
from litestar.testing import TestClient

from watchly_adapters.container import Container
from watchly_adapters.settings import read_settings
from watchly_http.app import create_app

Json: TypeAlias = "Mapping[str, Json] | Sequence[Json] | str | int | float | bool | None"
Node: TypeAlias = Mapping[str, Json]

_METHODS: Final = ("get", "post", "put", "patch", "delete")
#: What a schema says beside its type, and how the page says it.
_LIMITS: Final = {
    "minLength": "{} characters at least",
    "maxLength": "{} characters at most",
    "minimum": "from {}",
    "maximum": "up to {}",
    "pattern": "matches `{}`",
    "contentMediaType": "`{}`",
}


def document() -> Node:
    """What a service whose parts are all fakes, and which asks who one is, says of itself."""
    with tempfile.TemporaryDirectory() as home:
        given = {"AUTH": "on", "SECRET_KEY": "0" * 64, "WATCHLY_HOME": home}
        stores = {"DATABASE_URL": "memory:", "IMAGE_STORE_URL": "memory:"}
        app = create_app(Container(settings=read_settings({**given, **stores})))
        # Its log goes where nobody looks, and what its client tells of the request nowhere.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()), TestClient(app) as client:
            return _node(msgspec.json.decode(client.get("/openapi.json").content))


def page(whole: Node) -> Iterator[str]:
    """The lines of the page, in Markdown: operations by their tags, then headers, then schemas."""
    headers: dict[str, Node] = {}
    for tag in _nodes(whole["tags"]):
        yield from (f"## {tag['name']}", "", str(tag["description"]), "")
        for path, item in _node(whole["paths"]).items():
            for method, operation in _node(item).items():
                if method in _METHODS and tag["name"] in _list(_node(operation)["tags"]):
                    yield from _operation(f"{method.upper()} {path}", _node(operation), headers)
    yield from ("## Headers of replies", "", *_table("header", "says", "for example"))
    for name, header in sorted(headers.items()):
        yield _row(f"`{name}`", header["description"], f"`{header['example']}`")
    yield from ("", "## Schemas", "")
    for name, schema in _node(_node(whole["components"])["schemas"]).items():
        yield from _schema(name, _node(schema))


def _operation(where: str, operation: Node, headers: dict[str, Node]) -> Iterator[str]:
    name = operation["operationId"]
    yield from (f"(operation-{name})=", "", f"### {where}", "", f"`{name}`: {operation['summary']}.", "")
    yield from (str(operation["description"]), "")
    security = _nodes(operation.get("security", []))
    needs = " or ".join(
        f"`{right}`" for way in security for rights in way.values() for right in _list(rights)
    )
    if security:
        yield from (f"Takes somebody who has signed in{needs and ' and may ' + needs}.", "")
    if parameters := _nodes(operation.get("parameters", [])):
        yield from _table("parameter", "in", "type", "is", "for example")
        for one in parameters:
            where_to = f"{one['in']}{', required' if one['required'] else ''}"
            shown = f"`{one['example']}`" if "example" in one else ""
            yield _row(
                f"`{one['name']}`", where_to, _type(_node(one["schema"])), one.get("description", ""), shown
            )
        yield ""
    if body := _node(operation.get("requestBody", {})):
        yield from (f"Body{'' if body.get('required') else ', which may be left out'}:", "")
        yield from (f"- {line}" for line in _contents(body))
        yield ""
    yield from _table("status", "is", "body", "headers")
    for status, reply in _node(operation["responses"]).items():
        said = _node(_node(reply).get("headers", {}))
        headers.update({header: _node(what) for header, what in said.items()})
        bodies = "<br>".join(_contents(_node(reply)))
        yield _row(status, _node(reply)["description"], bodies, ", ".join(f"`{header}`" for header in said))
    yield ""
    yield from _links(_node(operation["responses"]))


def _links(replies: Node) -> Iterator[str]:
    for status, reply in replies.items():
        for link in map(_node, _node(_node(reply).get("links", {})).values()):
            given = {**_node(link.get("parameters", {})), **_node(link.get("requestBody", {}))}
            by = ", ".join(f"`{name}` is `{value}`" for name, value in given.items())
            target = link["operationId"]
            yield f"- After {status}: [{target}](#operation-{target}){by and ', where ' + by}."
    yield ""


def _contents(message: Node) -> Iterator[str]:
    """What a message may hold: its types, their schemas, and examples."""
    for media, content in _node(message.get("content", {})).items():
        said = _node(content)
        text = f"`{media}`: {_type(_node(said.get('schema', {})))}"
        names = [
            f"[`{name}`](#problem-{name})"
            if "$ref" in _node(example)
            else f"`{_dump(_node(example)['value'])}`"
            for name, example in _node(said.get("examples", {})).items()
        ]
        if "example" in said:
            names = [f"`{_dump(said['example'])}`"]
        yield text + (f", for example {', '.join(names)}" if names else "")


def _schema(name: str, schema: Node) -> Iterator[str]:
    yield from (f"(schema-{name})=", "", f"### {name}", "", str(schema.get("description", "")), "")
    if members := _node(schema.get("properties", {})):
        required = _list(schema.get("required", []))
        yield from _table("member", "type", "")
        for member, said in members.items():
            needed = "" if member in required else "may be absent"
            yield _row(
                f"`{member}`",
                _type(_node(said)),
                "; ".join(filter(None, (needed, str(_node(said).get("description", ""))))),
            )
    else:
        yield _type(schema)
    yield ""
    for example in _list(schema.get("examples", [])):
        yield from ("```json", json.dumps(example, indent=2, ensure_ascii=False), "```", "")


def _type(schema: Node) -> str:
    """A schema in a line: a link where it has a name."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return f"[{name}](#schema-{name})"
    if "anyOf" in schema:
        return " or ".join(map(_type, _nodes(schema["anyOf"])))
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{_dump(value)}`" for value in _list(schema.get("enum", [schema.get("const")])))
    of = schema.get("items", schema.get("additionalProperties"))
    kind = str(schema.get("format") or schema.get("type", "anything"))
    limits = [said.format(schema[limit]) for limit, said in _LIMITS.items() if limit in schema]
    return ", ".join([kind + (f" of {_type(_node(of))}" if isinstance(of, Mapping) else ""), *limits])


def _table(*columns: str) -> tuple[str, str]:
    return _row(*columns), "|---" * len(columns) + "|"


def _row(*cells: Json) -> str:
    return "| " + " | ".join(" ".join(str(cell).split()).replace("|", "\\|") for cell in cells) + " |"


def _dump(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _node(value: Json) -> Node:
    if not isinstance(value, Mapping):
        raise TypeError(f"{value} should have members")
    return value


def _list(value: Json) -> Sequence[Json]:
    if not isinstance(value, Sequence):
        raise TypeError(f"{value} should be a list")
    return value


def _nodes(value: Json) -> Sequence[Node]:
    return [_node(one) for one in _list(value)]
