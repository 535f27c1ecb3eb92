"""Hashing passwords by Argon2, and signing tokens by keys that a secret seals."""

from __future__ import annotations

from watchly_adapters.security.passwords import Argon2Hasher
from watchly_adapters.security.tokens import SealedTokens

__all__ = ["Argon2Hasher", "SealedTokens"]
