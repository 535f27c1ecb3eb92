"""The parts of the application that handlers ask for by name; `app.create_app` provides them.

They are protocols or classes of our own that Litestar need not check at every request.
"""

from typing import Annotated, TypeAlias

from litestar.params import Dependency

from watchly_adapters import container, settings
from watchly_core import catalogue, gallery, ports

_PROVIDED = Dependency(skip_validation=True)

Catalogue: TypeAlias = Annotated[catalogue.Catalogue, _PROVIDED]
Gallery: TypeAlias = Annotated[gallery.Gallery, _PROVIDED]
Settings: TypeAlias = Annotated[settings.Settings, _PROVIDED]
Database: TypeAlias = Annotated[container.Database, _PROVIDED]
ImageStore: TypeAlias = Annotated[ports.ImageStore, _PROVIDED]
ImageFiles: TypeAlias = Annotated[ports.ImageFiles, _PROVIDED]
OpenAPI: TypeAlias = Annotated[bytes, _PROVIDED]
