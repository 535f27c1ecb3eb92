"""What the site makes from the code says all of it; its build sees whether links and names lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import grimp
import msgspec
import pytest
from docs.extensions import drawings, http, imports
from docs.extensions.pages import ROOT, made, pointed

from watchly_http.problems import KINDS


def edges(svg: str) -> set[tuple[str, str]]:
    """Who uses whom in a drawing."""
    return {(user, used) for user, used in re.findall(r'data-edge="(\S+) (\S+)"', svg)}


def boxes(svg: str) -> dict[str, float]:
    """How far below each box of a drawing is."""
    found = re.findall(r'data-node="(\S+)"><rect x="\S+" y="(\d+)"', svg)
    return {name: float(y) for name, y in found}


@pytest.fixture(scope="module")
def document() -> http.Node:
    return http.document()


@pytest.fixture(scope="module")
def page(document: http.Node) -> str:
    return "\n".join(http.page(document))


def test_what_is_drawn_of_the_core_are_the_imports_that_are_there() -> None:
    graph = grimp.build_graph("watchly_core", exclude_type_checking_imports=True, cache_dir=None)
    imported = {
        (module.split(".")[1], other.split(".")[1])
        for module in graph.modules - {"watchly_core"}
        for other in graph.find_modules_directly_imported_by(module) - {"watchly_core"}
    }
    assert edges(imports.draw_core()) == {(user, used) for user, used in imported if user != used}
    some = {"catalogue", "writes", "merging", "movies", "ports"}
    assert edges(imports.draw_some(*some)) == {
        (user, used) for user, used in imported if {user, used} <= some and user != used
    }


def test_packages_are_drawn_above_what_they_use() -> None:
    svg = imports.draw_packages()
    where = boxes(svg)
    assert edges(svg) == {(user, used) for user, others in imports.packages().items() for used in others}
    assert where["watchly_http"] < where["watchly_adapters"] < where["watchly_core"]
    assert imports.libraries()["watchly_core"] == {"msgspec"}


def test_an_adapter_has_the_ports_that_the_type_checkers_hold_it_to() -> None:
    ports = imports.ports()
    assert ports["nats"] == {"Publisher"}
    assert {"MovieQueries", "EventLog"} <= ports["memory"] & ports["postgres"]
    assert "Transactions" in ports["postgres"]
    assert edges(imports.draw_ports()) == {
        (part, port) for part, all_ports in ports.items() for port in all_ports
    }


def test_boxes_of_a_row_do_not_overlap() -> None:
    svg = drawings.layers(
        {"top": {"left", "right", "deep"}, "left": {"deep"}, "right": {"deep"}}, "a diamond"
    )
    places = re.findall(r'<rect x="(-?\d+)" y="(\d+)" width="(\d+)"', svg)
    rows: dict[str, list[tuple[int, int]]] = {}
    for x, y, width in places:
        rows.setdefault(y, []).append((int(x), int(x) + int(width)))
    assert [len(row) for _, row in sorted(rows.items(), key=lambda item: int(item[0]))] == [1, 2, 1]
    (left, right) = sorted(next(row for row in rows.values() if len(row) == 2))
    assert left[1] < right[0]


def test_who_uses_each_other_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="in a circle: one, two"):
        drawings.layers({"one": {"two"}, "two": {"one"}}, "a circle")


def test_the_page_of_http_has_all_that_the_document_says(document: http.Node, page: str) -> None:
    operations = page.split("(operation-")
    paths = msgspec.convert(document["paths"], dict[str, dict[str, dict[str, object]]])
    missing = []
    for path, item in paths.items():
        for method, operation in item.items():
            name = operation["operationId"]
            (section,) = [text for text in operations if text.startswith(f"{name})=")]
            replies = msgspec.convert(operation["responses"], dict[str, dict[str, dict[str, object] | str]])
            parameters = msgspec.convert(operation.get("parameters", []), list[dict[str, object]])
            said = [
                f"### {method.upper()} {path}\n",
                f"{operation['summary']}.",
                str(operation["description"]),
            ]
            said += [f"| `{parameter['name']}` | {parameter['in']}" for parameter in parameters]
            said += [f"| {status} |" for status in replies]
            said += [f"`{header}`" for reply in replies.values() for header in reply.get("headers", {})]
            said += [
                f"After {status}: [{link}]"
                for status, reply in replies.items()
                for link in reply.get("links", {})
            ]
            said += [f"`{media}`" for reply in replies.values() for media in reply.get("content", {})]
            missing += [(name, text) for text in said if text not in section]
    assert not missing


def test_the_page_of_http_has_every_schema_with_its_members(document: http.Node, page: str) -> None:
    components = msgspec.convert(document["components"], dict[str, dict[str, dict[str, object]]])
    for name, schema in components["schemas"].items():
        section = page.split(f"(schema-{name})=")[1].split("(schema-", maxsplit=1)[0]
        members = msgspec.convert(schema.get("properties", {}), dict[str, object])
        assert all(f"| `{member}` |" in section for member in members), name


def test_every_problem_is_on_the_page_of_errors() -> None:
    text = made((ROOT / "docs/reference/errors.md").read_text(encoding="utf-8"))
    assert [code for code in KINDS if f"\n### {code}\n" not in text] == []
    assert "\n```text\nWatchlyError\n├── Invalid " in text
    assert "\n└── Misconfigured " in text


def test_every_command_is_on_the_page_of_the_command_line() -> None:
    text = made((ROOT / "docs/reference/command-line.md").read_text(encoding="utf-8"))
    for command in ("watchly serve", "watchly import", "watchly user", "watchly restore"):
        assert f"\n## {command}\n" in text
        assert f"Usage: {command} [OPTIONS]" in text


def test_all_that_is_public_is_on_a_page() -> None:
    pages = (ROOT / "docs/reference/python").glob("*.md")
    shown = "".join(made(page.read_text(encoding="utf-8")) for page in pages)
    api = (ROOT / "docs/reference/api.txt").read_text(encoding="utf-8")
    modules = re.findall(r"^(watchly_\S+)$", api, flags=re.MULTILINE)
    assert [module for module in modules if f"automodule:: {module}\n" not in shown] == []


def test_every_decision_is_in_the_list_of_them() -> None:
    folder = ROOT / "docs/decisions"
    text = (folder / "index.md").read_text(encoding="utf-8")
    for page in sorted(folder.glob("0*.md")):
        title = page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        assert f"[{title}]({page.name})" in text


def test_a_link_to_a_folder_leads_to_its_readme(tmp_path: Path) -> None:
    (tmp_path / "told").mkdir()
    (tmp_path / "told/README.md").touch()
    (tmp_path / "silent").mkdir()
    text = "[one](told/), [two](silent), [three](other.md)"
    assert pointed(text, tmp_path) == "[one](told/README.md), two, [three](other.md)"
