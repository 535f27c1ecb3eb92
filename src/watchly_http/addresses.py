"""The address that a request comes from, as attempts are counted by it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, TypeAlias

import structlog
from litestar.types import Scope

from watchly_http.requests import lines_of

_Address: TypeAlias = IPv4Address | IPv6Address
_Network: TypeAlias = IPv4Network | IPv6Network

_log = structlog.stdlib.get_logger("watchly.addresses")

#: What a provider gives to one customer at least (RFC 6177): the rest of an address is theirs to choose.
_OWN_BITS: Final = 64

#: The length of what proxies usually forward; more of it is not remembered.
_USUAL: Final = 100

# Some proxies name the port as well.
_WITH_PORT: Final = re.compile(r"\[(?P<six>[^]]*)\](?::[0-9]*)?|(?P<four>[0-9.]+):[0-9]*")


def client_address(scope: Scope, trusted_proxies: tuple[str, ...]) -> str:
    """The address of the client, by which it is counted: that of `address_of`."""
    if not trusted_proxies and lines_of(scope, "x-forwarded-for"):
        _warn_of_proxy()
    return address_of(scope, trusted_proxies)


def address_of(scope: Scope, trusted_proxies: tuple[str, ...]) -> str:
    """The address that a request comes from: an IPv6 one by its network; empty if nobody knows.

    `X-Forwarded-For` is believed as far as proxies that are trusted have written it, from its end on.
    """
    client = scope.get("client")
    if not client:
        return ""
    if not trusted_proxies:
        return _remembered(client[0], "", ())
    forwarded = ",".join(lines_of(scope, "x-forwarded-for"))
    find = _remembered if len(forwarded) <= _USUAL else _address
    return find(client[0], forwarded, trusted_proxies)


def _address(peer: str, forwarded: str, trusted_proxies: tuple[str, ...]) -> str:
    address = _parsed(peer)
    if address is None:
        return ""
    trusted = _networks(trusted_proxies)
    for text in reversed(forwarded.split(",")):
        if not any(address in network for network in trusted):
            break
        came_from = _parsed(text)
        if came_from is None:
            break  # the proxy does not know, or nobody forwarded it
        address = came_from
    return _counted(address)


#: Every request comes from somewhere, and most from where others came from.
_remembered: Final = lru_cache(1_024)(_address)


@cache
def _warn_of_proxy() -> None:
    """Say, once in each worker, that behind a proxy which is not named all the world is one address."""
    _log.warning(
        "a request came with X-Forwarded-For, in which nobody is believed: requests, and attempts to sign in,"
        " are counted by who connects; if that is a proxy, name it, for example by TRUSTED_PROXIES=127.0.0.1"
    )


@lru_cache(16)
def _networks(texts: tuple[str, ...]) -> Sequence[_Network]:
    return [ip_network(text) for text in texts]


def _parsed(text: str) -> _Address | None:
    """The address that a text is; an IPv4 one also where it is written as IPv6."""
    text = text.strip()
    if found := _WITH_PORT.fullmatch(text):
        text = found["six"] or found["four"] or ""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _counted(address: _Address) -> str:
    if isinstance(address, IPv4Address):
        return str(address)
    network = int(address) >> _OWN_BITS << _OWN_BITS
    return f"{IPv6Address(network)}/{_OWN_BITS}"
