"""The suite of readers of tokens, by the keys of a store and by published ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.publishers import publishing

from watchly_adapters.security import PublishedKeys, SealedTokens
from watchly_adapters.testing.stores import Store
from watchly_adapters.testing.token_readers import Signing, TokenReaderContract
from watchly_core.signing_keys import SigningKeys
from watchly_core.tokens import Claims


class TestBySealedKeys(TokenReaderContract):
    @pytest.fixture
    def signing(self, store: Store) -> Signing:
        keys = SigningKeys(store.people, store.transactions, SealedTokens("the secret of this test"))

        async def sign(claims: Claims) -> str:
            return (await keys.signer())(claims)

        return Signing(keys, sign)


class TestByPublishedKeys(TokenReaderContract):
    @pytest.fixture
    def signing(self) -> Iterator[Signing]:
        with publishing() as publisher:
            # What is promised is tried here, and not how soon.
            keys = PublishedKeys(publisher.url, timeout=30.0)
            yield Signing(keys, publisher.sign)
            keys.close()
