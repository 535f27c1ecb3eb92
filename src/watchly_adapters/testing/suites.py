"""What all suites have in common: their tests are asynchronous."""

from __future__ import annotations

import pytest


class Suite:
    """Runs on asyncio, by anyio's plugin for pytest."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend(self) -> str:
        """The suite runs on asyncio."""
        return "asyncio"
