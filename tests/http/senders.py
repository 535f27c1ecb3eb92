"""The people who send made requests: of every role, with tokens and keys, and those whom nobody lets in."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final, NamedTuple

import httpx

PASSWORD: Final = "a curious incident"  # noqa: S105 - of nobody

#: Who sends requests, and how often of twenty.
_SENDERS: Final[Mapping[str, int]] = {
    "operator's token": 2,
    "admin's token": 6,
    "admin's key": 3,
    "editor's token": 4,
    "viewer's token": 2,
    "nobody": 2,
    "bad token": 1,
}
_BAD: Final = ("x", "", "eyJhbGciOiJub25lIn0.e30.", f"watchly_{'0' * 12}_{'A' * 43}", "\xff")


class Sender(NamedTuple):
    """Somebody who can be asked for what they bear: an account, what it bears, and its id."""

    bearer: str
    email: str = ""


class People:
    """The people who send requests, made by the API itself; who was let in no more is made anew.

    Args:
        client: sends requests to the service.
        operator: a token of the service itself.
        chance: all chance.
    """

    def __init__(self, client: httpx.Client, operator: str, chance: random.Random) -> None:
        self._client, self._operator, self._chance = client, operator, chance
        self._kept: dict[str, Sender] = {"operator's token": Sender(operator)}

    def anybody(self) -> str:
        """The name of one of them."""
        return self._chance.choices([*_SENDERS], [*_SENDERS.values()])[0]

    def __getitem__(self, name: str) -> Sender | None:
        """One of them; None for nobody."""
        if name == "nobody":
            return None
        if name == "bad token":
            return Sender(self._chance.choice(_BAD))
        if name not in self._kept:
            role, _, kind = name.partition("'s ")
            made = self.newcomer(role)
            self._kept[name] = self._key_of(made, role) if kind == "key" else made
        return self._kept[name]

    def forget(self, name: str) -> None:
        """Make somebody else of them the next time."""
        if name != "operator's token":
            self._kept.pop(name, None)

    def newcomer(self, role: str) -> Sender:
        """Somebody with a new account, who has just signed in."""
        email = f"{role}-{self._chance.randrange(10**12)}@films.example"
        given = {"email": email, "password": PASSWORD}
        self._ask("/api/users", {**given, "role": role}, self._operator)
        return Sender(self._ask("/api/auth/login", given)["access_token"], email)

    def _key_of(self, owner: Sender, role: str) -> Sender:
        return Sender(self._ask("/api/api-keys", {"name": "key", "role": role}, owner.bearer)["secret"])

    def _ask(self, path: str, body: object, bearer: str | None = None) -> dict[str, str]:
        headers = {"X-Forwarded-For": address(self._chance)}
        if bearer is not None:
            headers["Authorization"] = f"Bearer {bearer}"
        reply = self._client.post(path, json=body, headers=headers)
        # Not the client's own error, which does not go from one process to another.
        assert reply.is_success, f"{path}: {reply.status_code} {reply.text}"
        told: dict[str, str] = reply.json()
        return told


def address(chance: random.Random) -> str:
    """An address from whose network, by which it is counted, nobody else comes."""
    return f"2001:db8:{chance.randrange(65_536):x}:{chance.randrange(65_536):x}::1"
