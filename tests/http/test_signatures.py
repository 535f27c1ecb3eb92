"""That applications of tests are as others, though their signatures are read once for all of them."""

from __future__ import annotations

import pytest
from litestar import Litestar
from litestar._signature import SignatureModel
from litestar.routes import HTTPRoute
from litestar.utils.signature import ParsedSignature
from tests.http.conftest import Configure
from tests.http.signatures import MODEL, READ

from watchly_http.app import create_app


def signatures(app: Litestar) -> dict[str, tuple[object, ...]]:
    """What each handler takes: its parameters, the model that reads them, and the parts that it is given."""
    found: dict[str, tuple[object, ...]] = {}
    for route in app.routes:
        assert isinstance(route, HTTPRoute)
        for handler in route.route_handlers:
            model = handler.signature_model
            parts = {name: part.parsed_fn_signature for name, part in handler.resolve_dependencies().items()}
            found[f"{sorted(handler.http_methods)} {route.path}"] = (
                handler.parsed_fn_signature,
                (model.__name__, model.__module__, model.__struct_fields__, model.__annotations__),
                (model._dependency_name_set, model._fields, model._return_annotation),  # noqa: SLF001 - as above
                parts,
            )
    return found


@pytest.mark.parametrize("image_store", ["memory:", "cloudinary://key:secret@cloud"])
def test_a_signature_that_is_remembered_is_the_one_that_is_read(
    configure_fakes: Configure, monkeypatch: pytest.MonkeyPatch, image_store: str
) -> None:
    remembered = [signatures(create_app(configure_fakes(IMAGE_STORE_URL=image_store))) for _ in range(2)]
    monkeypatch.setattr(ParsedSignature, "from_fn", READ)
    monkeypatch.setattr(SignatureModel, "create", MODEL)
    read = signatures(create_app(configure_fakes(IMAGE_STORE_URL=image_store)))
    assert len(read) > 40
    assert remembered == [read, read]
