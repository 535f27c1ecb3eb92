"""The adapters of Valkey on a real server that is killed, frozen, full, or holds what nobody put there."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from tests.valkeys import ValkeyServer

from watchly_adapters.valkey import ValkeyCache, ValkeyRateLimiter
from watchly_core.errors import Misconfigured, Unavailable
from watchly_core.rates import Rate

pytestmark = pytest.mark.anyio

LONG = timedelta(hours=1)
#: Seconds that a request may lose, all in all.
MOST = 0.05
DEADLINE = 30.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyServer]:
    with ValkeyServer(tmp_path) as server:
        yield server


@asynccontextmanager
async def opened(url: str, *, pause: float = 0.0, seconds: float = 0.02) -> AsyncIterator[ValkeyCache]:
    cache = ValkeyCache(url, timeout=seconds, pause=pause)
    yield cache
    await cache.close()


async def refused(cache: ValkeyCache) -> float:
    """How long it took to refuse."""
    began = time.perf_counter()
    with pytest.raises(Unavailable) as raised:
        await cache.get("key")
    assert raised.value.dependency == "cache"
    return time.perf_counter() - began


async def answered(cache: ValkeyCache, key: str = "key") -> bytes | None:
    """What it says as soon as it says anything."""
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                return await cache.get(key)
            except Unavailable:
                await asyncio.sleep(0.005)


async def test_one_that_is_killed_is_missed_at_once_and_found_again(server: ValkeyServer) -> None:
    async with opened(server.url) as cache:
        await cache.put("key", b"value", LONG)
        server.stop()
        took = [await refused(cache) for _ in range(10)]
        assert median(took) < MOST
        server.start()
        assert await answered(cache) is None
        await cache.put("key", b"again", LONG)
        assert await cache.get("key") == b"again"


async def test_one_that_restarts_unnoticed_costs_one_answer(server: ValkeyServer) -> None:
    async with opened(server.url, seconds=DEADLINE, pause=3_600.0) as cache:
        await asyncio.gather(*(cache.put(str(number), b"", LONG) for number in range(20)))
        server.stop()
        server.start()
        # All connections are dead, and with the first of them the others are given up.
        await refused(cache)
        assert await asyncio.gather(*(cache.get(str(number)) for number in range(20))) == [None] * 20


async def test_one_that_hangs_costs_no_more_than_a_moment(server: ValkeyServer) -> None:
    async with opened(server.url) as cache:
        await cache.put("key", b"value", LONG)
        server.freeze()
        assert median([await refused(cache) for _ in range(10)]) < MOST
        many = await asyncio.gather(*(refused(cache) for _ in range(50)))
        assert median(many) < 2 * MOST
        server.thaw()
        assert await answered(cache) == b"value"
        # Late answers to what was given up are nobody's.
        for number in range(20):
            await cache.put(str(number), str(number).encode(), LONG)
        assert [await cache.get(str(number)) for number in range(20)] == [
            str(number).encode() for number in range(20)
        ]


async def test_one_that_fails_is_left_alone_for_a_while(server: ValkeyServer) -> None:
    async with opened(server.url, pause=3_600.0) as cache:
        await cache.put("key", b"value", LONG)
        server.stop()
        for _ in range(3):
            await refused(cache)
        assert cache.interrupted
        server.start()
        assert median([await refused(cache) for _ in range(10)]) < 0.005
        with pytest.raises(Unavailable, match="left alone"):
            await cache.put("key", b"value", LONG)


async def test_where_nobody_listens_the_cache_is_down(tmp_path: Path) -> None:
    async with opened(ValkeyServer(tmp_path).url) as cache:
        await refused(cache)


async def test_a_key_that_holds_something_else_holds_nothing(server: ValkeyServer) -> None:
    with server.client() as client:
        client.lpush("key", "one", "two")
    async with opened(server.url, seconds=DEADLINE) as cache:
        for _ in range(5):
            assert await cache.get("key") is None
        await cache.put("key", b"value", LONG)
        assert await cache.get("key") == b"value"
        assert not cache.interrupted


async def test_a_password_is_asked_for_and_not_told(tmp_path: Path) -> None:
    with ValkeyServer(tmp_path, "--user", "films", "on", ">s3cret", "~*", "+@all") as server:
        url = server.url.replace("://", "://films:s3cret@")
        async with opened(url, seconds=DEADLINE) as cache:
            await cache.put("key", b"value", LONG)
            assert await cache.get("key") == b"value"
        async with opened(url.replace("s3cret", "wr0ng"), seconds=DEADLINE) as cache:
            with pytest.raises(Unavailable) as raised:
                await cache.get("key")
            assert "wr0ng" not in str(raised.value)


async def test_a_server_that_is_full_takes_nothing_and_still_gives(tmp_path: Path) -> None:
    with ValkeyServer(tmp_path, "--maxmemory", "4mb", "--maxmemory-policy", "noeviction") as server:
        async with opened(server.url, seconds=DEADLINE) as cache:
            await cache.put("key", b"value", LONG)
            values = (cache.put(str(number), b"x" * 1_000_000, LONG) for number in range(20))
            took = await asyncio.gather(*values, return_exceptions=True)
            assert any(isinstance(outcome, Unavailable) for outcome in took)
            assert await cache.get("key") == b"value"


@pytest.mark.parametrize(
    "nonsense",
    [
        *(b"$abc\r\n", b":abc\r\n", b"$-5\r\n", b":5\r\n", b"*1\r\n$3\r\nabc\r\n", b"\xff\xfe\r\n"),
        *(
            b"*1\r\n" * 5_000,
            b"*" + b"9" * 5_000 + b"\r\n",
            b"x" * 100_000,
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
        ),
    ],
    ids=lambda nonsense: repr(nonsense[:12]),
)
async def test_what_answers_nonsense_is_down(nonsense: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while await reader.read(65_536):
                writer.write(nonsense)
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with opened(f"valkey://127.0.0.1:{port}", seconds=DEADLINE) as cache:
            for _ in range(2):
                await refused(cache)


@asynccontextmanager
async def over_tls(server: ValkeyServer, folder: Path, name: str) -> AsyncIterator[tuple[str, Path]]:
    """The same server over TLS, with a certificate for `name`: its URL, and a file of who is trusted."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "films")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - LONG)
        .not_valid_after(now + LONG)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    written = certificate.public_bytes(Encoding.PEM)
    (folder / "pair").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + written
    )
    # As many as a system trusts.
    usual = ssl.create_default_context().get_ca_certs(binary_form=True)
    trusted = [ssl.DER_cert_to_PEM_cert(authority) for authority in usual]
    (folder / "trusted").write_text("".join([*trusted, written.decode()]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "pair")
    port = int(server.url.rpartition(":")[2])

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await reader.read(65_536):
                writer.write(piece)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        their_reader, their_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pass_on(reader, their_writer), pass_on(their_reader, writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as front:
        yield f"valkeys://localhost:{front.sockets[0].getsockname()[1]}", folder / "trusted"


async def test_tls_is_quick_enough_for_the_time_that_an_answer_has(
    server: ValkeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with over_tls(server, tmp_path, "localhost") as (url, trusted):
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        async with opened(url) as cache:
            assert await answered(cache) is None


async def test_a_certificate_for_another_name_is_none(
    server: ValkeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with over_tls(server, tmp_path, "elsewhere") as (url, trusted):
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        async with opened(url, seconds=DEADLINE) as cache:
            with pytest.raises(Unavailable, match="certificate"):
                await cache.get("key")


async def test_what_is_no_url_is_a_mistake() -> None:
    with pytest.raises(Misconfigured, match="VALKEY_URL"):
        ValkeyCache("http://127.0.0.1")


# ---- counts of requests ----

FIVE = Rate(5, LONG)


@asynccontextmanager
async def counting(server: ValkeyServer, processes: int = 1) -> AsyncIterator[list[ValkeyRateLimiter]]:
    limiters = [ValkeyRateLimiter(server.url, timeout=DEADLINE, pause=0.0) for _ in range(processes)]
    yield limiters
    for limiter in limiters:
        await limiter.close()


async def test_all_processes_count_together(server: ValkeyServer) -> None:
    async with counting(server, 8) as limiters:
        taken = await asyncio.gather(*(limiter.take("key", FIVE) for limiter in limiters * 25))
        assert sorted(allowance.left for allowance in taken if allowance.granted) == [0, 1, 2, 3, 4]


async def test_a_count_is_one_question(server: ValkeyServer) -> None:
    async with counting(server) as (limiter,):
        await limiter.take("key", FIVE)  # it has connected
        with server.client() as client:
            client.config_resetstat()
            for _ in range(10):
                await limiter.take("key", FIVE)
            asked = client.info("commandstats")
        assert asked["cmdstat_eval"]["calls"] == 10
        assert set(asked) - {"cmdstat_config|resetstat"} == {"cmdstat_eval", "cmdstat_incr", "cmdstat_pttl"}


async def test_counts_are_forgotten_when_their_window_ends(server: ValkeyServer) -> None:
    async with counting(server) as (limiter,):
        for _ in range(7):
            await limiter.take("key", Rate(5, timedelta(minutes=1)))
        with server.client() as client:
            assert client.keys() == [b"watchly:rate:5/60000:key"]
            assert 0 < client.pttl("watchly:rate:5/60000:key") <= 60_000


async def test_a_server_that_was_flushed_counts_anew(server: ValkeyServer) -> None:
    async with counting(server) as (limiter,):
        for _ in range(2):
            assert [(await limiter.take("key", FIVE)).granted for _ in range(6)] == [True] * 5 + [False]
            with server.client() as client:
                client.flushall()


@pytest.mark.parametrize("oddity", ["no end", "a far end", "text", "list"])
async def test_what_is_no_count_becomes_one(oddity: str, server: ValkeyServer) -> None:
    key = "watchly:rate:5/3600000:key"
    with server.client() as client:
        if oddity == "list":
            client.rpush(key, "one")
        else:
            # As a clock leaves it that was set back, or somebody else.
            far = 999_999_999 if oddity == "a far end" else None
            client.set(key, "x" if oddity == "text" else 1, px=far)
    async with counting(server) as (limiter,):
        taken = [await limiter.take("key", FIVE) for _ in range(6)]
        assert sum(allowance.granted for allowance in taken) == (4 if "end" in oddity else 5)
        assert all(0 < allowance.ends_in <= 3_600 for allowance in taken)


async def test_one_that_does_not_count_is_missed_at_once_and_found_again(server: ValkeyServer) -> None:
    limiter = ValkeyRateLimiter(server.url, pause=0.0)
    for stop, start in ((server.freeze, server.thaw), (server.stop, server.start)):
        took = []
        stop()
        for _ in range(10):
            began = time.perf_counter()
            with pytest.raises(Unavailable) as raised:
                await limiter.take("key", FIVE)
            took.append(time.perf_counter() - began)
            assert raised.value.dependency == "rate_limit"
        assert median(took) < MOST
        start()
        async with asyncio.timeout(DEADLINE):
            while True:
                with suppress(Unavailable):
                    await limiter.take("key", FIVE)
                    break
                await asyncio.sleep(0.005)
    await limiter.close()


async def test_one_that_does_not_count_is_left_alone_for_a_while(server: ValkeyServer) -> None:
    limiter = ValkeyRateLimiter(server.url, pause=3_600.0)
    server.stop()
    for _ in range(3):
        with pytest.raises(Unavailable):
            await limiter.take("key", FIVE)
    assert limiter.interrupted
    server.start()
    with pytest.raises(Unavailable, match="left alone"):
        await limiter.take("key", FIVE)
    await limiter.close()


async def test_what_answers_no_count_is_down() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while await reader.read(65_536):
                writer.write(b"+OK\r\n")
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as nonsense:
        port = nonsense.sockets[0].getsockname()[1]
        limiter = ValkeyRateLimiter(f"valkey://127.0.0.1:{port}", timeout=DEADLINE)
        with pytest.raises(Unavailable):
            await limiter.take("key", FIVE)
        await limiter.close()
