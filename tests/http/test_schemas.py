"""What the OpenAPI document says to generators of clients; some are run by `test_generated_clients`."""

from __future__ import annotations

from collections.abc import Iterator

import jsonschema_rs
import msgspec
import pytest
from tests.http.conftest import Client

pytestmark = pytest.mark.anyio

Json = dict[str, object]


@pytest.fixture
async def document(fake_client: Client) -> Json:
    return msgspec.json.decode((await fake_client.get("/openapi.json")).content, type=Json)


@pytest.fixture
def schemas(document: Json) -> dict[str, Json]:
    return msgspec.convert(document["components"], dict[str, dict[str, Json]])["schemas"]


def parts(value: object) -> Iterator[Json]:
    """All objects in some JSON."""
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from parts(part)


def content(document: Json, method: str, path: str, status: str | None = None) -> dict[str, Json]:
    """The media types of a request, or of a reply."""
    operation = msgspec.convert(document["paths"], dict[str, dict[str, Json]])[path][method]
    replies = msgspec.convert(operation["responses"], Json)
    body = operation["requestBody"] if status is None else replies[status]
    return msgspec.convert(msgspec.convert(body, Json)["content"], dict[str, Json])


async def test_no_member_has_a_default(schemas: dict[str, Json]) -> None:
    # Generators take one that has a default for present: it would have to be sent.
    assert [part for part in parts(schemas) if "default" in part] == []
    assert schemas["MovieDraft"]["required"] == ["title"]


async def test_what_replies_always_have_is_required(schemas: dict[str, Json]) -> None:
    def optional(name: str) -> set[str]:
        members = msgspec.convert(schemas[name]["properties"], Json)
        return set(members) - set(msgspec.convert(schemas[name]["required"], list[str]))

    assert optional("Image") == optional("ImportProblem") == optional("ImportReport") == set()
    assert optional("Page") == {"total"}
    assert optional("TokenPair") == {"refresh_token"}
    assert optional("Problem") == {"errors"}
    assert optional("Fault") == {"pointer", "parameter"}


async def test_choices_of_words_have_names_and_types(schemas: dict[str, Json]) -> None:
    named = {name for name, schema in schemas.items() if "enum" in schema}
    choices = [part for part in parts(schemas) if isinstance(part.get("enum"), list)]

    assert named >= {"ChangeKind", "Condition", "OnError", "Role"}
    assert all(choice["type"] == "string" for choice in choices)
    assert len(choices) == len(named)


async def test_times_are_said_to_be_times(schemas: dict[str, Json]) -> None:
    for name, member in (("Change", "at"), ("Ticket", "expires_at"), ("User", "created_at")):
        members = msgspec.convert(schemas[name]["properties"], dict[str, Json])
        assert members[member] == {"type": "string", "format": "date-time"}


async def test_files_are_binary_and_texts_are_text(document: Json, schemas: dict[str, Json]) -> None:
    binary, image = {"type": "string", "format": "binary"}, "/api/movies/{movie_id}/image"

    upload = content(document, "put", image)
    assert next(iter(upload)) == "multipart/form-data"
    assert upload["image/png"]["schema"] == binary
    for form in ("ImageForm", "MovieForm"):
        members = msgspec.convert(schemas[form]["properties"], dict[str, Json])
        assert members["image"] == {**binary, "contentMediaType": "image/*"}
        assert [part for part in parts(members) if part.get("type") == "null"] == []
    for exchange in (
        content(document, "post", "/api/movies/import"),
        content(document, "get", "/api/movies/export", "200"),
    ):
        assert exchange["application/x-ndjson"]["schema"] == binary
        assert exchange["text/csv"]["schema"] == {"type": "string"}
        assert all("example" in media_type for media_type in exchange.values())
    assert content(document, "get", "/api/changes/stream", "200")["text/event-stream"]["schema"] == {}


async def test_a_status_that_can_be_either_of_two_bodies_says_so(document: Json) -> None:
    problem = content(document, "post", "/api/movies/import", "422")["application/problem+json"]

    assert problem["schema"] == {
        "anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in ("ImportProblem", "Problem")]
    }
    assert set(msgspec.convert(problem["examples"], Json)) == {"key_reused"}


async def test_examples_are_what_their_schemas_say(document: Json, schemas: dict[str, Json]) -> None:
    components = msgspec.convert(document["components"], Json)

    def check(name: str, example: object) -> None:
        schema = {"$ref": f"#/components/schemas/{name}", "components": components}
        jsonschema_rs.Draft202012Validator(schema, validate_formats=True).validate(example)

    for name, schema in schemas.items():
        for example in msgspec.convert(schema.get("examples", []), list[object]):
            check(name, example)
    problems = msgspec.convert(components["examples"], dict[str, Json])
    for code, example in problems.items():
        check("Problem", example["value"])
        assert msgspec.convert(example["value"], Json)["code"] == code
    shown = {name for name, schema in schemas.items() if "examples" in schema}
    objects = {name for name, schema in schemas.items() if "properties" in schema}
    # Those that hold them show them; and files are not shown.
    inside = {"GenreCount", "ImageForm", "Rejection", "ShownKey"}
    assert objects - shown == inside


async def test_each_tag_says_what_it_is_about(document: Json) -> None:
    tags = msgspec.convert(document["tags"], list[dict[str, str]])

    assert [tag["name"] for tag in tags] == ["Changes", "Images", "Movies", "Operations", "People"]
    assert all(tag["description"] for tag in tags)
