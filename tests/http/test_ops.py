"""Documentation and the OpenAPI document, over REST."""

from __future__ import annotations

import re

import jsonschema_rs
import msgspec
import pytest
import schemathesis
from litestar.routes import HTTPRoute
from schemathesis.specs.openapi.definitions import OPENAPI_31
from tests.http.conftest import Client, Configure, problem_in

from watchly_http.problems import KINDS

pytestmark = pytest.mark.anyio


# ---- documentation ----


async def test_the_documentation_loads_nothing_from_elsewhere(fake_client: Client) -> None:
    page = await fake_client.get("/docs")

    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "//" not in page.text.replace("<!doctype html>", "")
    references = re.findall(r'(?:src|href|url)[=:]\s*"([^"]+)"', page.text)
    local = [reference for reference in references if not reference.startswith("data:")]
    assert len(local) >= 3
    for reference in local:
        assert reference.startswith("/")
        assert (await fake_client.get(reference)).status_code == 200


async def test_the_assets_of_the_documentation(fake_client: Client) -> None:
    style = await fake_client.get("/docs/assets/swagger-ui.css")
    script = await fake_client.get("/docs/assets/swagger-ui-bundle.js")

    assert style.headers["content-type"].startswith("text/css")
    assert re.match(r"(text|application)/(x-)?javascript", script.headers["content-type"])
    urls = [url.strip("\"'") for url in re.findall(r"url\(([^)]+)\)", style.text)]
    outside = [url for url in urls if not url.startswith("data:")]
    assert outside == []
    assert "@import" not in style.text
    assert len(script.content) > 100_000


async def test_the_assets_are_a_cage(fake_client: Client) -> None:
    paths = (
        "/docs/assets/../../../__init__.py",
        "/docs/assets/%2e%2e/__init__.py",
        "/docs/assets/..%2f__init__.py",
        "/docs/assets/..%5c__init__.py",
        "/docs/assets//etc/passwd",
        "/docs/assets/%2fetc%2fpasswd",
        "/docs/assets/%00",
        "/docs/assets/.",
        "/docs/assets/" + "x" * 5000,
        "/docs/assets/" + "x/" * 1000,
        "/docs/assets/%FF",
    )

    statuses = {path[:60]: (await fake_client.get(path)).status_code for path in paths}

    assert statuses == dict.fromkeys(statuses, 404)


# ---- OpenAPI ----


@pytest.fixture
async def document(fake_client: Client) -> dict[str, object]:
    response = await fake_client.get("/openapi.json")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    return msgspec.json.decode(response.content, type=dict[str, object])


Operations = list[tuple[str, str, dict[str, object]]]


@pytest.fixture
def operations(document: dict[str, object]) -> Operations:
    paths = msgspec.convert(document["paths"], dict[str, dict[str, dict[str, object]]])
    return [(path, method, one) for path, item in paths.items() for method, one in item.items()]


async def test_the_document_is_openapi_3_1(document: dict[str, object]) -> None:
    assert str(document["openapi"]).startswith("3.1.")
    jsonschema_rs.Draft202012Validator(OPENAPI_31).validate(document)
    schemathesis.openapi.from_dict(document).validate()


async def test_every_reference_leads_somewhere(document: dict[str, object]) -> None:
    text = msgspec.json.encode(document).decode()
    components = msgspec.convert(document["components"], dict[str, dict[str, object]])

    references = set(re.findall(r'"\$ref":"([^"]+)"', text))

    assert references
    assert references <= {
        f"#/components/{kind}/{name}" for kind in ("schemas", "examples") for name in components[kind]
    }


async def test_every_route_has_an_operation(fake_client: Client, operations: Operations) -> None:
    routes = {
        (route.path_format, method.lower())
        for route in fake_client.app.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        for method in handler.http_methods
        if method not in {"OPTIONS", "HEAD"} and not route.path.startswith(("/docs", "/openapi.json"))
    }

    assert {(path, method) for path, method, _ in operations} == routes


async def test_the_names_of_operations_are_unique(operations: Operations) -> None:
    names = [str(operation["operationId"]) for _, _, operation in operations]

    assert sorted(names) == sorted(set(names))


Links = dict[str, dict[str, object]]


def links_in(document: dict[str, object]) -> dict[str, Links]:
    """The links of successful replies, by the id of their operation."""
    paths = msgspec.convert(document["paths"], dict[str, dict[str, dict[str, object]]])
    found: dict[str, Links] = {}
    for operation in (one for item in paths.values() for one in item.values()):
        for status, reply in msgspec.convert(operation["responses"], dict[str, dict[str, object]]).items():
            if "links" in reply:
                assert status.startswith("2")
                found[str(operation["operationId"])] = msgspec.convert(reply["links"], Links)
    return found


async def test_links_lead_to_operations_and_name_their_parameters(
    document: dict[str, object], operations: Operations
) -> None:
    named = {
        str(operation["operationId"]): {
            parameter["name"]
            for parameter in msgspec.convert(operation.get("parameters", []), list[dict[str, object]])
        }
        for _, _, operation in operations
    }
    links = links_in(document)

    assert {"addMovie", "addUser", "addApiKey", "issueImageTicket", "listMovies", "signIn"} <= set(links)
    assert {"getMovie", "replaceMovie", "reviseMovie", "removeMovie"} <= set(links["addMovie"])
    for link in (link for some in links.values() for link in some.values()):
        taken = msgspec.convert(link.get("parameters", {}), dict[str, str])
        assert set(taken) <= named[str(link["operationId"])], link


async def test_no_link_leads_to_another_service(configure_fakes: Configure) -> None:
    async with Client(configure_fakes(SERVICE="movies")) as client:
        links = links_in((await client.get("/openapi.json")).json())

    assert "reviseMovie" in links["addMovie"]
    assert not {"putMovieImage", "revertMovie"} & set(links["addMovie"])


async def test_every_operation_says_what_it_answers(operations: Operations) -> None:
    known = {str(kind.status) for kind in KINDS.values()}

    for path, method, operation in operations:
        where = f"{method} {path}"
        assert operation["summary"], where
        assert operation["description"], where
        responses = msgspec.convert(operation["responses"], dict[str, dict[str, object]])
        assert any(status.startswith("2") for status in responses), where
        for status, response in responses.items():
            assert response["description"], where
            headers = msgspec.convert(response.get("headers", {}), dict[str, object])
            assert "X-Request-ID" in headers, where
            if status >= "400":
                assert status in known, where
                content = msgspec.convert(response["content"], dict[str, object])
                assert "application/problem+json" in content, f"{where} {status}"
            if status in {"429", "503"}:
                assert "Retry-After" in headers, f"{where} {status}"
            if status == "405":
                assert "Allow" in headers, where


async def test_each_address_says_and_keeps_which_methods_it_takes(
    fake_client: Client, operations: Operations
) -> None:
    for path in {path for path, _, _ in operations}:
        taken = {method.upper() for other, method, _ in operations if other == path}
        address = re.sub(r"{\w+}", "1", path)
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - taken:
            refusal = await fake_client.request(method, address)
            problem_in(refusal, "method_not_allowed")
            allowed = set(refusal.headers["allow"].split(", "))
            assert allowed - {"HEAD", "OPTIONS"} == taken, f"{method} {path}"
    for path, method, operation in operations:
        assert "405" in msgspec.convert(operation["responses"], dict[str, object]), f"{method} {path}"


async def test_path_parameters_are_declared(operations: Operations) -> None:
    for path, method, operation in operations:
        declared = msgspec.convert(operation.get("parameters", []), list[dict[str, object]])
        in_path = {str(parameter["name"]) for parameter in declared if parameter["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", path)), f"{method} {path}"


async def test_the_document_is_the_same_for_every_process(configure_fakes: Configure) -> None:
    async with Client(configure_fakes()) as one, Client(configure_fakes()) as other:
        assert (await one.get("/openapi.json")).content == (await other.get("/openapi.json")).content
