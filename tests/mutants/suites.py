"""Which tests have to catch the faults of each folder: the shipped suites, on the adapter at fault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]

#: Faults that each folder has at least.
LEAST: Final = 10

_STORES: Final = "tests/contracts/test_stores.py"
_IMAGES: Final = "tests/contracts/test_image_stores.py"
_SECURITY: Final = "tests/contracts/test_security.py"

#: The stores of a database, by their ports, and the beginnings of the names of their suites.
_OF_STORES: Final[Mapping[str, Sequence[str]]] = {
    "queries": ("Lists", "Searches", "Movies"),
    "movies": ("Movies",),
    "events": ("Events",),
    "image_ledger": ("Images",),
    "receipts": ("Receipts",),
    "relays": ("Relays",),
    "backlogs": ("Backlogs",),
    "people": ("Users", "Sessions", "ApiKeys", "SigningKeys"),
    "users": ("Users",),
    "sessions": ("Sessions",),
    "api_keys": ("ApiKeys",),
    "signing_keys": ("SigningKeys",),
    "throttles": ("Throttles",),
    # With them what is smaller: positions, the signal of changes, and `hurry`.
    "transactions": ("Transactions", "Positions", "Receipts", "Events"),
}

#: Folder by folder, what pytest is asked to run.
SUITES: Final[Mapping[str, Sequence[str]]] = {
    **{
        f"{adapter}/{port}": [f"{_STORES}::Test{suite}In{adapter.capitalize()}" for suite in suites]
        for adapter in ("memory", "postgres")
        for port, suites in _OF_STORES.items()
    },
    "cached/queries": [f"{_STORES}::Test{suite}Cached" for suite in ("Positions", "Lists", "Movies")],
    "replicas/queries": [
        "tests/adapters/test_replicas.py::TestPositions",
        "tests/adapters/test_replicas.py::TestPositionsOfALateOne",
    ],
    "memory/images": [f"{_IMAGES}::TestImagesInMemory"],
    "memory/uploads": [f"{_IMAGES}::TestUploadsToMemory"],
    "filesystem/images": [f"{_IMAGES}::TestImagesInADirectory"],
    "filesystem/uploads": [f"{_IMAGES}::TestUploadsToADirectory"],
    "cloudinary/images": [
        f"{_IMAGES}::TestImagesInCloudinary",
        f"{_IMAGES}::TestImagesInACloudinaryWithALimit",
    ],
    "memory/cache": ["tests/contracts/test_caches.py::TestInMemory"],
    "valkey/cache": ["tests/contracts/test_caches.py::TestInValkey"],
    "memory/rates": ["tests/contracts/test_rate_limiters.py::TestInMemory"],
    "valkey/rates": ["tests/contracts/test_rate_limiters.py::TestInValkey"],
    "pillow/inspector": ["tests/contracts/test_inspectors.py::TestPillowInspector"],
    "headers/inspector": ["tests/contracts/test_inspectors.py::TestHeaderInspector"],
    "argon2/passwords": [f"{_SECURITY}::TestArgon2", f"{_SECURITY}::TestArgon2OnceThroughItsMemory"],
    "sealed/tokens": [f"{_SECURITY}::TestSealedTokens"],
    "published/token_reader": ["tests/contracts/test_token_readers.py::TestByPublishedKeys"],
    "nats/publisher": ["tests/contracts/test_publishers.py::TestNats"],
    "webhooks/publisher": ["tests/contracts/test_publishers.py::TestWebhooks"],
}


def patches(folder: str) -> Sequence[Path]:
    """The faults of a folder, in their order."""
    return sorted((HERE / folder).glob("*.patch"))
