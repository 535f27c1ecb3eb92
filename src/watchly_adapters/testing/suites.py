"""What all suites have in common: their tests are asynchronous."""

from __future__ import annotations

from typing import ClassVar

import pytest

__all__ = ["Suite"]


class Suite:
    """Runs on asyncio, by anyio's plugin for pytest."""

    pytestmark: ClassVar[pytest.MarkDecorator] = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend(self) -> str:
        """The suite runs on asyncio."""
        return "asyncio"
