"""Which address a request is counted by."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from litestar.testing import RequestFactory

from watchly_http.addresses import client_address

PROXY = "10.0.0.1"
#: Made once: for each request that it makes, the factory makes an application.
SCOPE = RequestFactory().get("/").scope
TRUSTED = ("10.0.0.0/8", "2001:db8:ffff::/48", "127.0.0.1/32")


def address(peer: str | None, lines: Sequence[str] = (), trusted: tuple[str, ...] = TRUSTED) -> str:
    scope = SCOPE.copy()
    scope["client"] = None if peer is None else (peer, 40_000)
    scope["headers"] = [(b"x-forwarded-for", line.encode("latin-1")) for line in lines]
    return client_address(scope, trusted)


@pytest.mark.parametrize(
    ("peer", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_an_address_is_that_of_the_peer(peer: str | None, counted: str) -> None:
    assert address(peer) == counted


@pytest.mark.parametrize(
    ("lines", "counted"),
    [
        (["192.0.2.1"], "192.0.2.1"),
        (["192.0.2.1:4711"], "192.0.2.1"),
        (["2001:db8::1"], "2001:db8::/64"),
        (["[2001:db8::1]:4711"], "2001:db8::/64"),
        (["[2001:db8::1]"], "2001:db8::/64"),
        (["::ffff:192.0.2.1"], "192.0.2.1"),
        # What stands before the first that is not trusted was written by whoever likes to.
        (["198.51.100.7, 192.0.2.1"], "192.0.2.1"),
        (["198.51.100.7,192.0.2.1 , 10.1.2.3"], "192.0.2.1"),
        (["192.0.2.1, ::ffff:10.1.2.3, 2001:db8:ffff::7"], "192.0.2.1"),
        (["198.51.100.7", "192.0.2.1"], "192.0.2.1"),
        (["192.0.2.1", "10.1.2.3"], "192.0.2.1"),
        (["10.1.2.3, 10.1.2.4"], "10.1.2.3"),
        # A proxy that does not know is as far as one can see.
        (["192.0.2.1, unknown"], PROXY),
        (["192.0.2.1, unknown, 10.1.2.3"], "10.1.2.3"),
        (["192.0.2.1,"], PROXY),
        ([""], PROXY),
        ([], PROXY),
        (["\xff\x00" * 100], PROXY),
        (["192.0.2.1:" + "9" * 50_000], "192.0.2.1"),
        (["[:" + ":" * 50_000], PROXY),
        (["256.0.0.1"], PROXY),
        (["192.0.2.01"], PROXY),
        (["\xb2.0.0.1"], PROXY),
    ],
)
def test_behind_trusted_proxies_it_is_the_last_that_is_none_of_them(
    lines: Sequence[str], counted: str
) -> None:
    assert address(PROXY, lines) == counted


@pytest.mark.parametrize(
    ("peer", "trusted"), [("192.0.2.9", TRUSTED), (PROXY, ()), (PROXY, ("192.0.2.0/24",))]
)
def test_nobody_else_is_believed(peer: str, trusted: tuple[str, ...]) -> None:
    assert address(peer, ["198.51.100.7"], trusted) == peer


@settings(deadline=None)
@given(st.text(st.characters(max_codepoint=255)), st.lists(st.text("0123456789abcdef:.,[]% x"), max_size=4))
def test_nothing_that_is_sent_makes_it_fail(peer: str, lines: list[str]) -> None:
    assert isinstance(address(peer, lines), str)
    assert address(PROXY, lines)


@settings(deadline=None)
@given(st.ip_addresses(v=6))
def test_whoever_has_a_network_is_counted_once(sent: object) -> None:
    counted = address(PROXY, [str(sent)])
    assert counted == address(PROXY, [f"[{sent}]:1"])
    assert "/64" in counted or "." in counted
