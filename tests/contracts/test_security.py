"""The suites of what hashes passwords and signs tokens."""

from __future__ import annotations

import pytest

from watchly_adapters.security import Argon2Hasher, SealedTokens
from watchly_adapters.testing.passwords import Hashers, PasswordHasherContract
from watchly_adapters.testing.tokens import Make, TokensContract


class TestArgon2(PasswordHasherContract):
    @pytest.fixture
    def hashers(self) -> Hashers:
        hasher = Argon2Hasher(memory_kib=1_024, time_cost=2, limit=1, waiting=7)
        return Hashers(hasher, Argon2Hasher(memory_kib=1_023, time_cost=2), 8)


class TestArgon2OnceThroughItsMemory(PasswordHasherContract):
    """Against hashes that took as much memory, and went through it once."""

    @pytest.fixture
    def hashers(self) -> Hashers:
        hasher = Argon2Hasher(memory_kib=1_024, time_cost=2, limit=2, waiting=2)
        return Hashers(hasher, Argon2Hasher(memory_kib=1_024, time_cost=1), 4)


class TestSealedTokens(TokensContract):
    @pytest.fixture
    def make(self) -> Make:
        return SealedTokens
