"""The store on Cloudinary while Cloudinary fails: what is asked again, until when, and what is left."""

import asyncio
import contextlib
import io
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pytest

from watchly_adapters.breakers import Breaker
from watchly_adapters.cloudinary import Account, CloudinaryImages
from watchly_adapters.testing import samples
from watchly_adapters.testing.cloudinary import CloudinaryEmulator, Fault, Reply, Request
from watchly_core.errors import ImageRejected, ImageTooLarge, ImageUnreadable, Misconfigured, Unavailable
from watchly_core.images import Image, StoredImage, new_key

pytestmark = pytest.mark.anyio

SMALL, LARGE = 1_000, 12_000_000
#: One large image is sent in so many chunks.
CHUNKS = 3
#: Longer than any call here may take, shorter than a call that waits for ever.
SOON = 20.0

#: What goes wrong before anything was done, and what was done but is not told.
NOT_DONE = [Fault.RATE_LIMITED, Fault.TOO_MANY, Fault.SERVER_ERROR, Fault.GARBAGE, Fault.REFUSED]
NOT_TOLD = [Fault.LYING, Fault.TRUNCATED, Fault.LOST]
#: What the Admin API is not asked again after: the hour's quota is used up.
LIMITED = {Fault.RATE_LIMITED, Fault.TOO_MANY}


@pytest.fixture
def emulator() -> Iterator[CloudinaryEmulator]:
    with CloudinaryEmulator() as emulator:
        emulator.faults.pause = 0.01
        yield emulator


def store_on(
    emulator: CloudinaryEmulator,
    *,
    timeout: float = 10.0,
    patience: float = 60.0,
    backoff: float = 0.001,
    breaker: Callable[[], Breaker] | None = None,
) -> CloudinaryImages:
    return CloudinaryImages(
        Account.from_url(emulator.url), timeout=timeout, patience=patience, backoff=backoff, breaker=breaker
    )


@pytest.fixture
def store(emulator: CloudinaryEmulator) -> CloudinaryImages:
    return store_on(emulator)


async def put(store: CloudinaryImages, size: int = SMALL, *, key: str | None = None) -> str:
    key, content = key or new_key(), samples.png(size)
    await store.put(key, io.BytesIO(content), Image(key, samples.WIDTH, samples.HEIGHT, "png", size))
    return key


#: One call of each sort.
Call: TypeAlias = Callable[[CloudinaryImages], Coroutine[object, object, object]]
CALLS: Sequence[Call] = (put, lambda store: store.stat(new_key()), lambda store: store.delete(new_key()))


def stored(size: int) -> StoredImage:
    return StoredImage(size, samples.WIDTH, samples.HEIGHT, "png")


def uploads(emulator: CloudinaryEmulator) -> int:
    return sum(request.endswith("/upload") for request in emulator.requests)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread brings about."""
    async with asyncio.timeout(SOON):
        while not condition():  # noqa: ASYNC110 - a thread cannot set an asyncio.Event
            await asyncio.sleep(0.005)


# Asking again


@pytest.mark.parametrize("fault", NOT_DONE + NOT_TOLD)
@pytest.mark.parametrize("times", [1, 2])
async def test_a_fault_that_passes_is_not_noticed(
    emulator: CloudinaryEmulator, store: CloudinaryImages, fault: Fault, times: int
) -> None:
    emulator.faults.script(*[fault.on("upload")] * times)
    key = await put(store)
    assert uploads(emulator) == 1 + times
    if fault not in LIMITED:
        emulator.faults.script(*[fault.on("resource")] * times)
        assert await store.stat(key) == stored(SMALL)
    emulator.faults.script(*[fault.on("destroy")] * times)
    await store.delete(key)
    assert emulator.assets == {}
    assert emulator.faults.made == {fault: (2 if fault in LIMITED else 3) * times}


@pytest.mark.parametrize("fault", NOT_DONE + NOT_TOLD)
async def test_a_fault_that_stays_is_unavailable_after_three_attempts(
    emulator: CloudinaryEmulator, store: CloudinaryImages, fault: Fault
) -> None:
    key = await put(store)
    emulator.faults.at_random(1.0, 1, [fault])
    for call, attempts in (
        (put, 3),
        (lambda store: store.stat(key), 1 if fault in LIMITED else 3),
        (lambda store: store.delete(key), 3),
    ):
        emulator.requests.clear()
        with pytest.raises(Unavailable) as raised:
            await call(store)
        assert len(emulator.requests) == attempts
        assert raised.value.dependency == "image_store"


@pytest.mark.parametrize("fault", NOT_DONE + NOT_TOLD)
@pytest.mark.parametrize("chunk", range(CHUNKS))
async def test_an_upload_survives_a_fault_at_any_chunk(
    emulator: CloudinaryEmulator, store: CloudinaryImages, fault: Fault, chunk: int
) -> None:
    """A chunk is taken no second time: if it was and that is not told, the upload begins anew."""
    taken: list[tuple[str, str]] = []

    def answer(request: Request) -> Reply:
        reply = emulator.account(request)
        if reply.status == 200:
            taken.append((request.headers["x-unique-upload-id"], request.headers["content-range"]))
        if len(taken) == chunk and not emulator.faults.made:
            emulator.faults.script(fault.on("upload"))
        return reply

    emulator.answer = answer
    if chunk == 0:
        emulator.faults.script(fault.on("upload"))
    key = await put(store, LARGE)
    emulator.answer = emulator.account
    assert emulator.faults.made == {fault: 1}
    assert await store.stat(key) == stored(LARGE)
    assert list(emulator.assets) == [f"watchly/{key}"]
    # What is said of a chunk before the last one is of no use, so that a lie does no harm.
    is_lost = fault in {Fault.TRUNCATED, Fault.LOST} or (fault is Fault.LYING and chunk == CHUNKS - 1)
    assert len({upload for upload, _ in taken}) == (2 if is_lost else 1)
    assert len(taken) == len(set(taken)) == CHUNKS + (chunk + 1 if is_lost else 0)


async def test_an_upload_begins_anew_only_once(emulator: CloudinaryEmulator, store: CloudinaryImages) -> None:
    emulator.faults.at_random(1.0, 1, [Fault.LOST], ["upload"])
    ids: set[str] = set()

    def answer(request: Request) -> Reply:
        ids.add(request.headers["x-unique-upload-id"])
        return emulator.account(request)

    emulator.answer = answer
    # Nothing is wrong with the image: what is refused is a part that was sent twice.
    with pytest.raises(Unavailable):
        await put(store, LARGE)
    assert len(ids) == 2
    assert emulator.assets == {}


@pytest.mark.parametrize(
    ("status", "message", "meaning"),
    [
        (400, b"Invalid image file", ImageUnreadable),
        (400, b"File size too large. Got 2. Maximum is 1.", ImageTooLarge),
        (400, b"Image file format png not allowed", ImageRejected),
        (401, b"Invalid Signature", Misconfigured),
        (403, b"Account is disabled", Misconfigured),
    ],
)
async def test_a_refusal_is_final(
    emulator: CloudinaryEmulator,
    store: CloudinaryImages,
    status: int,
    message: bytes,
    meaning: type[Exception],
) -> None:
    emulator.answer = lambda _: Reply(status, b'{"error": {"message": "%s"}}' % message)
    for size in (SMALL, LARGE):
        emulator.requests.clear()
        with pytest.raises(meaning):
            await put(store, size)
        assert len(emulator.requests) == 1
    assert not store.interrupted


async def test_faults_at_random_leave_what_was_said(emulator: CloudinaryEmulator) -> None:
    """Whatever a call says that it did is so, and a call that failed can be made again."""
    emulator.faults.at_random(0.3, 4, NOT_DONE + NOT_TOLD)
    patient = store_on(emulator, breaker=partial(Breaker, "image_store", failures=1_000))

    async def travel(number: int) -> None:
        key, size = new_key(), LARGE if number % 8 == 0 else SMALL + number
        for step in (lambda: put(patient, size, key=key), lambda: patient.delete(key)):
            for _ in range(20):
                with contextlib.suppress(Unavailable, ImageRejected):
                    await step()
                    break
            else:
                raise AssertionError("it failed every time")
            if number % 2:
                break

    await asyncio.gather(*(travel(number) for number in range(40)))
    emulator.faults.clear()
    assert sum(emulator.faults.made.values()) > 20
    sizes = sorted(asset.size for asset in emulator.assets.values())
    assert sizes == [SMALL + number for number in range(1, 40, 2)]


# Until when


@pytest.mark.parametrize("fault", [Fault.TIMEOUT, Fault.TRICKLE])
async def test_an_answer_that_does_not_come_is_not_waited_for(
    emulator: CloudinaryEmulator, fault: Fault
) -> None:
    """Not even if a byte of it comes before each timeout."""
    store = store_on(emulator, timeout=0.2)
    emulator.faults.at_random(1.0, 1, [fault])
    for call in CALLS:
        start = time.monotonic()
        with pytest.raises(Unavailable):
            await call(store)
        assert time.monotonic() - start < 3 * 0.2 + 2


class Dripping:
    """A server that answers a byte at a time, beginning with the head, the body, or by reading no request."""

    def __init__(self, phase: str) -> None:
        self._phase = phase
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=16)
        self.prefix = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._closed = threading.Event()
        self._threads = ThreadPoolExecutor(8)
        self._threads.submit(self._serve)

    def close(self) -> None:
        self._closed.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads.shutdown()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while not self._closed.is_set():
                connection, _ = self._listener.accept()
                self._threads.submit(self._drip, connection)

    def _drip(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            if self._phase == "body":
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while not self._closed.wait(0.02):
                if self._phase == "request":
                    connection.recv(10)
                else:
                    connection.sendall(b"H")


@pytest.mark.parametrize("phase", ["head", "body", "request"])
async def test_a_server_that_goes_on_slowly_is_cut_off(phase: str) -> None:
    server = Dripping(phase)
    try:
        store = CloudinaryImages(Account("films", "123", "secret", server.prefix), timeout=0.2, backoff=0.001)
        start = time.monotonic()
        with pytest.raises(Unavailable):
            await put(store, 5_000_000 if phase == "request" else SMALL, key="0" * 32)
        # Sending takes its time beside the timeouts, at 50 kB/s; but sockets do not wait for it.
        assert time.monotonic() - start < 3 * 0.2 + 4
    finally:
        server.close()


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_a_server_that_is_not_there_is_unavailable_at_once(size: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        prefix = f"http://127.0.0.1:{taken.getsockname()[1]}"
        store = CloudinaryImages(Account("films", "123", "secret", prefix), backoff=0.001)
        async with asyncio.timeout(SOON):
            with pytest.raises(Unavailable):
                await put(store, size)


async def test_a_caller_who_leaves_ends_the_asking(emulator: CloudinaryEmulator) -> None:
    """Also one who leaves while an upload waits before it asks again."""
    store = store_on(emulator, backoff=1_000.0)
    emulator.faults.at_random(1.0, 1, [Fault.SERVER_ERROR])
    source = io.BytesIO(samples.png(SMALL))
    key = new_key()
    upload = asyncio.ensure_future(store.put(key, source, Image(key, 1, 1, "png", SMALL)))
    look_up = asyncio.ensure_future(store.stat(new_key()))
    await until(lambda: len(emulator.requests) == 2)
    start = time.monotonic()
    upload.cancel()
    look_up.cancel()
    await asyncio.wait({upload, look_up})
    assert time.monotonic() - start < 5
    source.close()
    assert upload.cancelled()
    assert look_up.cancelled()
    assert len(emulator.requests) <= 3


# Turns


@contextlib.asynccontextmanager
async def held(emulator: CloudinaryEmulator) -> AsyncIterator[Callable[[], int]]:
    """All requests wait inside the block; how many do."""
    go_on, waiting, lock = threading.Event(), 0, threading.Lock()

    def answer(request: Request) -> Reply:
        nonlocal waiting
        with lock:
            waiting += 1
        go_on.wait(SOON)
        return emulator.account(request)

    emulator.answer = answer
    try:
        yield lambda: waiting
    finally:
        emulator.answer = emulator.account
        go_on.set()


async def test_four_uploads_are_under_way_at_a_time(
    emulator: CloudinaryEmulator, store: CloudinaryImages
) -> None:
    """And four other calls, which do not wait for them."""
    async with held(emulator) as waiting:
        uploads = [asyncio.ensure_future(put(store)) for _ in range(9)]
        await until(lambda: waiting() == 4)
        others = [asyncio.ensure_future(store.stat(new_key())) for _ in range(9)]
        await until(lambda: waiting() == 8)
        done, _ = await asyncio.wait({*uploads, *others}, timeout=0.1)
        assert (len(done), waiting()) == (0, 8)
    await asyncio.gather(*uploads, *others)
    assert len(emulator.assets) == 9


@pytest.mark.parametrize(
    "call", [put, lambda store: store.stat(new_key()), lambda store: store.delete(new_key())]
)
async def test_who_gets_no_turn_is_told_to_come_back(
    emulator: CloudinaryEmulator, call: Callable[[CloudinaryImages], Coroutine[object, object, object]]
) -> None:
    store = store_on(emulator, patience=0.3)
    async with held(emulator) as waiting:
        first = [asyncio.ensure_future(call(store)) for _ in range(4)]
        await until(lambda: waiting() == 4)
        with pytest.raises(Unavailable) as raised:
            await call(store)
        assert raised.value.retry_after == 5
        # Those whose turn it was are not hurried by it.
        assert not [task for task in first if task.done()]
    await asyncio.gather(*first)
    assert len(emulator.requests) == 4
    assert not store.interrupted


# Interruptions


def interrupted_after(failures: int, now: list[float]) -> Callable[[], Breaker]:
    """Breakers whose clock shows `now`."""
    return lambda: Breaker("image_store", failures, 30.0, lambda: now[0])


async def test_a_store_that_fails_again_and_again_is_left_alone_for_a_while(
    emulator: CloudinaryEmulator,
) -> None:
    now = [1_000.0]
    store = store_on(emulator, breaker=interrupted_after(5, now))
    key = await put(store)
    emulator.faults.down()
    for call in (store.stat, store.delete):
        for _ in range(5):
            with pytest.raises(Unavailable):
                await call(key)
        assert store.interrupted
    emulator.requests.clear()
    for call_of_a_sort in CALLS:
        with pytest.raises(Unavailable) as raised:
            await call_of_a_sort(store)
        assert raised.value.retry_after == 30
    assert not emulator.requests

    now[0] += 30
    with pytest.raises(Unavailable):
        await store.stat(key)
    assert store.interrupted
    assert emulator.requests

    emulator.faults.up()
    now[0] += 30
    assert await store.stat(key) == stored(SMALL)
    await store.delete(key)


async def test_an_hour_without_look_ups_is_one_with_uploads_and_deletions() -> None:
    """The Admin API has a quota, the Upload API has none."""
    with CloudinaryEmulator(hourly_lookups=2) as emulator:
        store = store_on(emulator)
        key = await put(store)
        for _ in range(2):
            assert await store.stat(key) == stored(SMALL)
        emulator.requests.clear()
        for _ in range(5):
            assert not store.interrupted
            with pytest.raises(Unavailable):
                await store.stat(key)
        assert store.interrupted
        assert len(emulator.requests) == 5
        with pytest.raises(Unavailable) as raised:
            await store.stat(key)
        assert 0 < raised.value.retry_after <= 30
        assert len(emulator.requests) == 5
        await put(store)
        await store.delete(key)
        assert len(emulator.assets) == 1


async def test_uploads_that_fail_leave_look_ups_alone(emulator: CloudinaryEmulator) -> None:
    store = store_on(emulator, breaker=interrupted_after(1, [0.0]))
    key = await put(store)
    emulator.faults.at_random(1.0, 1, [Fault.SERVER_ERROR], ["destroy"])
    with pytest.raises(Unavailable):
        await store.delete(key)
    assert store.interrupted
    assert await store.stat(key) == stored(SMALL)


def http_date(seconds: float) -> str:
    """The moment in so many seconds, as a header says it."""
    return formatdate(time.time() + seconds, usegmt=True)


@pytest.mark.parametrize(
    ("reset", "expected"),
    [
        (lambda: http_date(600), range(590, 602)),
        (lambda: http_date(100_000), [3_600]),
        (lambda: http_date(-5), [1]),
        (lambda: None, [10]),
        (lambda: "", [10]),
        (lambda: "soon", [10]),
        (lambda: "Sun, 99 Nov 99999 99:99:99 GMT", [10]),
    ],
)
async def test_who_may_look_nothing_up_is_told_from_when_on(
    emulator: CloudinaryEmulator,
    store: CloudinaryImages,
    reset: Callable[[], str | None],
    expected: Collection[int],
) -> None:
    said = reset()
    headers = {} if said is None else {"X-FeatureRateLimit-Reset": said}
    emulator.answer = lambda _: Reply(420, b'{"error": {"message": "Rate Limit"}}', headers=headers)
    with pytest.raises(Unavailable) as raised:
        await store.stat(new_key())
    assert raised.value.retry_after in expected
    assert len(emulator.requests) == 1


async def test_what_was_not_asked_does_not_end_an_interruption(emulator: CloudinaryEmulator) -> None:
    """An image above the limit is refused here: that says nothing about Cloudinary."""
    now = [1_000.0]
    store = CloudinaryImages(
        Account.from_url(emulator.url),
        max_bytes=5_000,
        backoff=0.001,
        breaker=interrupted_after(2, now),
    )
    emulator.faults.down()
    for _ in range(2):
        with pytest.raises(Unavailable):
            await store.delete(new_key())
    now[0] += 30
    with pytest.raises(ImageTooLarge):
        await put(store, 5_001)
    with pytest.raises(Unavailable):
        await store.delete(new_key())
    assert store.interrupted
    # What needs no asking goes on.
    assert store.url("0" * 32).startswith(emulator.upload_prefix)


# The end


def begun(call: Coroutine[object, object, object]) -> asyncio.Task[object]:
    return asyncio.create_task(call)


async def ends_by_closing(store: CloudinaryImages, calls: Sequence[asyncio.Task[object]]) -> None:
    """Close the store, and see the calls end by it, soon and as others that fail."""
    start = time.monotonic()
    store.close()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert time.monotonic() - start < 5
    for result in results:
        assert isinstance(result, Unavailable)
        assert "closed" in str(result)


async def test_who_waits_for_an_answer_is_told_when_the_store_is_closed(emulator: CloudinaryEmulator) -> None:
    """And so is who waits for a turn, or for asking again."""
    never = partial(Breaker, "image_store", failures=1_000)
    store = store_on(emulator, timeout=600, patience=600, backoff=10_000, breaker=never)
    emulator.faults.script(Fault.SERVER_ERROR.on("resource"), *[Fault.TIMEOUT] * 20)
    calls = [begun(put(store, LARGE))]
    calls += [begun(call(store)) for _ in range(5) for call in CALLS]
    await until(lambda: len(emulator.requests) >= 8)
    assert not any(call.done() for call in calls)
    await ends_by_closing(store, calls)


async def test_a_closed_store_asks_nothing(emulator: CloudinaryEmulator, store: CloudinaryImages) -> None:
    key = await put(store)
    emulator.requests.clear()
    for _ in range(2):
        store.close()
    await ends_by_closing(store, [begun(call(store)) for call in CALLS])
    assert not emulator.requests
    assert store.url(key).startswith(emulator.upload_prefix)


class Deaf:
    """A port where connections are made, or if `full` are not even made, and where nobody answers."""

    def __init__(self, *, full: bool) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=0 if full else 16)
        self.port = self._listener.getsockname()[1]
        self._clients = [socket.socket() for _ in range(8 if full else 0)]
        for client in self._clients:
            client.settimeout(0)
            client.connect_ex(("127.0.0.1", self.port))

    def connections(self, state: str) -> int:
        """How many connections to the port are in a state, by its number in the kernel."""
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        ours = (line.split()[2:4] for line in lines)
        return sum(there.endswith(f":{self.port:04X}") and now == state for there, now in ours)

    def close(self) -> None:
        for each in (self._listener, *self._clients):
            each.close()


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="it tells how far connections are")
@pytest.mark.parametrize(
    ("scheme", "full", "state"),
    [
        pytest.param("http", True, "02", id="connecting"),
        pytest.param("https", False, "01", id="in the handshake"),
        pytest.param("http", False, "01", id="without an answer"),
    ],
)
async def test_a_request_can_be_cut_wherever_it_stands(scheme: str, full: bool, state: str) -> None:
    deaf = Deaf(full=full)
    try:
        account = Account("films", "123", "secret", f"{scheme}://127.0.0.1:{deaf.port}")
        before = deaf.connections(state)
        store = CloudinaryImages(account, timeout=600, backoff=0.001)
        call = begun(store.delete(new_key()))
        await until(lambda: deaf.connections(state) > before)
        await ends_by_closing(store, [call])
    finally:
        deaf.close()


HANGING = """
import asyncio, sys, time
from watchly_adapters.cloudinary import CloudinaryImages

async def main():
    store = CloudinaryImages.from_url(sys.argv[1])
    call = asyncio.ensure_future(store.delete("0" * 32))
    await asyncio.to_thread(sys.stdin.readline)
    call.cancel()
    store.close()

asyncio.run(main())
"""


async def test_a_process_whose_request_hangs_can_leave(emulator: CloudinaryEmulator) -> None:
    """Python ends when its threads have: nothing that a caller left behind may keep one."""
    emulator.faults.script(Fault.TIMEOUT)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HANGING, emulator.url, stdin=asyncio.subprocess.PIPE
    )
    await until(lambda: len(emulator.requests) == 1)
    async with asyncio.timeout(SOON):
        await process.communicate(b"\n")
    assert process.returncode == 0
