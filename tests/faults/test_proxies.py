"""The proxy that makes trouble: each toxic does what it says, on connections that are open, until it goes."""

from __future__ import annotations

import select
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

import pytest
from tests.proxies import (
    Active,
    Bandwidth,
    Latency,
    LimitData,
    LoseReply,
    Proxy,
    ResetPeer,
    SlowClose,
    Timeout,
    Toxic,
)
from tests.services import wait_until

#: Milliseconds that nobody waits for.
LONG = 600_000
PATIENCE = 30


class Echo(socketserver.BaseRequestHandler):
    """Sends back whatever comes, and ends behind a dot."""

    heard: ClassVar[list[bytes]] = []

    def handle(self) -> None:
        link: socket.socket = self.request
        while data := link.recv(65_536):
            self.heard.append(data)
            link.sendall(data)
            if data.endswith(b"."):
                return


class Quiet(socketserver.ThreadingMixIn):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that was reset is what is wanted."""


class Threads(Quiet, socketserver.TCPServer):
    pass


class UnixThreads(Quiet, socketserver.UnixStreamServer):
    pass


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    with server:
        thread = threading.Thread(target=lambda: server.serve_forever(0.01))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, int]]:
    echo = Threads(("127.0.0.1", 0), Echo)
    with serving(echo):
        yield "127.0.0.1", echo.socket.getsockname()[1]


@pytest.fixture
def proxy(server: tuple[str, int]) -> Iterator[Proxy]:
    Echo.heard.clear()
    with Proxy(server, seed=7) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with connect(proxy) as link:
        assert ask(link, b"first") == b"first"
        yield link


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), PATIENCE)


def ask(link: socket.socket, data: bytes) -> bytes:
    link.sendall(data)
    return receive(link, len(data))


def receive(link: socket.socket, size: int) -> bytes:
    """So many bytes, or all up to the end."""
    got = b""
    while len(got) < size and (more := link.recv(size - len(got))):
        got += more
    return got


def assert_nothing(link: socket.socket) -> None:
    """Nothing has come, not even the end."""
    assert select.select([link], [], [], 0)[0] == []


def met(active: Active) -> None:
    wait_until(lambda: active.hits > 0, "the toxic was met")


@pytest.mark.parametrize("toxic", [Latency(LONG), Latency(LONG, jitter=5), Bandwidth(0.000_01), Timeout()])
def test_what_is_held_back_comes_when_the_toxic_is_gone(
    proxy: Proxy, client: socket.socket, toxic: Toxic
) -> None:
    with proxy.toxic(toxic) as active:
        client.sendall(b"second")
        met(active)
        assert_nothing(client)
    assert receive(client, 6) == b"second"
    assert ask(client, b"third") == b"third"


@pytest.mark.parametrize("toxic", [Latency(5, jitter=5), Bandwidth(1_000), SlowClose(5)])
def test_a_little_changes_nothing_but_the_time(proxy: Proxy, client: socket.socket, toxic: Toxic) -> None:
    data = bytes(range(256)) * 500
    with proxy.toxic(toxic) as active:
        assert ask(client, data) == data
        assert active.hits > 0


def test_one_way_is_left_alone(proxy: Proxy, client: socket.socket) -> None:
    with proxy.toxic(Timeout(stream="upstream")) as active:
        client.sendall(b"second")
        met(active)
        assert Echo.heard == [b"first"]
    assert receive(client, 6) == b"second"
    with proxy.toxic(Timeout()) as active:
        client.sendall(b"third")
        met(active)
        assert Echo.heard == [b"first", b"second", b"third"]


def test_what_times_out_is_closed(proxy: Proxy, client: socket.socket) -> None:
    with proxy.toxic(Timeout(1)):
        assert ask(client, b"second") == b""
        with connect(proxy) as other:
            assert ask(other, b"second") == b""
    with connect(proxy) as other:
        assert ask(other, b"third") == b"third"


def test_a_peer_resets(proxy: Proxy, client: socket.socket) -> None:
    with proxy.toxic(ResetPeer()), pytest.raises(ConnectionResetError):
        ask(client, b"second")
    assert Echo.heard == [b"first", b"second"]


def test_so_much_and_no_more(proxy: Proxy, client: socket.socket) -> None:
    with proxy.toxic(LimitData(10)):
        assert ask(client, b"four") == b"four"
        assert ask(client, b"and ten of these") == b"and te"
        assert client.recv(1) == b""


def test_the_end_comes_late(proxy: Proxy, client: socket.socket) -> None:
    with proxy.toxic(SlowClose(LONG)) as active:
        assert ask(client, b"second.") == b"second."
        wait_until(lambda: active.hits > 1, "the server has closed")
        assert_nothing(client)
    assert client.recv(1) == b""


def test_down_it_refuses_and_up_it_is_where_it_was(proxy: Proxy, client: socket.socket) -> None:
    proxy.down()
    assert proxy.links == 0
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    with suppress(ConnectionResetError):
        assert client.recv(1) == b""
    proxy.up()
    with connect(proxy) as other:
        assert ask(other, b"again") == b"again"


def test_a_cut_is_for_those_that_are_open(proxy: Proxy, client: socket.socket) -> None:
    proxy.cut(reset=True)
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with connect(proxy) as other:
        assert ask(other, b"again") == b"again"


def test_a_reply_is_lost_to_what_arrived(proxy: Proxy, client: socket.socket) -> None:
    with proxy.toxic(LoseReply(b"COMMIT")):
        assert ask(client, b"begin, COM") == b"begin, COM"
        with pytest.raises(ConnectionResetError):
            ask(client, b"MIT")
        assert b"".join(Echo.heard) == b"firstbegin, COMMIT"


def test_several_do_what_each_of_them_does(proxy: Proxy, client: socket.socket) -> None:
    with proxy.toxic(LimitData(3)), proxy.toxic(Timeout()) as active:
        client.sendall(b"second")
        met(active)
        assert_nothing(client)
        proxy.remove(active)
        assert receive(client, 9) == b"sec"


def befallen(server: tuple[str, int], seed: int) -> list[bool]:
    """Which of some connections one toxic befalls of two."""
    with Proxy(server, seed=seed) as proxy, proxy.toxic(LimitData(1, toxicity=0.5)):
        links = []
        for _ in range(20):
            with connect(proxy) as link:
                links.append(ask(link, b"all") != b"all")
        return links


def test_chance_is_repeated_with_its_seed(server: tuple[str, int]) -> None:
    found = befallen(server, 3)
    assert 0 < sum(found) < len(found)
    assert befallen(server, 3) == found
    assert befallen(server, 4) != found


def test_it_leads_to_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "echo"
    with serving(UnixThreads(str(path), Echo)), Proxy(path) as proxy, connect(proxy) as link:
        assert ask(link, b"hello") == b"hello"


def test_nobody_at_the_other_end_is_a_reset(tmp_path: Path) -> None:
    with Proxy(tmp_path / "nobody") as proxy, pytest.raises(ConnectionResetError), connect(proxy) as link:
        ask(link, b"hello")
