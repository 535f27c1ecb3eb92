"""Hashing passwords by Argon2; signing tokens by keys that a secret seals, reading them by published ones.

Each is loaded when it is first asked for: who needs one of their libraries seldom needs those of both.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from watchly_adapters.security.passwords import Argon2Hasher
    from watchly_adapters.security.published import PublishedKeys
    from watchly_adapters.security.tokens import SealedTokens

__all__ = ["Argon2Hasher", "PublishedKeys", "SealedTokens"]

#: Where each name comes from.
_MODULES: Final = {"Argon2Hasher": "passwords", "PublishedKeys": "published", "SealedTokens": "tokens"}

# Type checkers go by what is imported above, and tell of a name that is not there.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Load the module of `name` (PEP 562)."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
