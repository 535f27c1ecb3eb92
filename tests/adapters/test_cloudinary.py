"""What only the store on Cloudinary promises: whose settings count, what errors mean, memory, secrets."""

import asyncio
import io
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest

from watchly_adapters.breakers import Breaker
from watchly_adapters.cloudinary import Account, CloudinaryImages
from watchly_adapters.testing import samples
from watchly_adapters.testing.cloudinary import CloudinaryEmulator, Fault, Reply, Request
from watchly_core.errors import (
    ImageRejected,
    ImageTooLarge,
    ImageUnreadable,
    Misconfigured,
    Unavailable,
    WatchlyError,
)
from watchly_core.images import VARIANTS, Image, StoredImage, new_key

pytestmark = pytest.mark.anyio

SECRET = "another-Secret_of-27-chars"  # noqa: S105 - it opens nothing
PNG = samples.png(1_000)


@pytest.fixture
def emulator() -> Iterator[CloudinaryEmulator]:
    with CloudinaryEmulator() as emulator:
        yield emulator


@pytest.fixture
def store(emulator: CloudinaryEmulator) -> CloudinaryImages:
    return hasty(Account.from_url(emulator.url))


def hasty(account: Account, *, timeout: float = 30.0) -> CloudinaryImages:
    """A store that hardly waits before it asks again, and is never interrupted."""
    return CloudinaryImages(
        account, timeout=timeout, backoff=0.001, breaker=partial(Breaker, "image_store", failures=1_000)
    )


def stored(content: bytes = PNG) -> StoredImage:
    return StoredImage(len(content), samples.WIDTH, samples.HEIGHT, "png")


def pictured(key: str, content: bytes = PNG) -> Image:
    return Image(key, samples.WIDTH, samples.HEIGHT, "png", len(content))


async def put(store: CloudinaryImages, content: bytes = PNG) -> str:
    key = new_key()
    await store.put(key, io.BytesIO(content), pictured(key, content))
    return key


async def outcomes(store: CloudinaryImages) -> list[WatchlyError | None]:
    """How each call ends."""
    found: list[WatchlyError | None] = []
    for call in (
        put(store),
        put(store, samples.png(6_000_000)),
        store.delete(new_key()),
        store.stat(new_key()),
    ):
        try:
            await call
            found.append(None)
        except WatchlyError as error:
            found.append(error)
    return found


def everything_said(error: BaseException | None) -> str:
    """The messages of an error and of all those before it."""
    words = ""
    while error is not None:
        words += f"{error!r} {error}\n"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return words


# The arguments


def test_a_url_gives_the_account_and_the_address() -> None:
    store = CloudinaryImages.from_url("cloudinary://123:a%2Fb@Cloud-9")
    key = new_key()
    assert store.url(key) == f"https://res.cloudinary.com/Cloud-9/image/upload/v1/watchly/{key}"
    assert store.max_bytes is None
    private = CloudinaryImages.from_url("cloudinary://123:abc@cloud/images.films.example", folder="")
    assert private.url(key) == f"https://images.films.example/image/upload/{key}"
    assert private.url(key, "card").startswith("https://images.films.example/image/upload/c_limit,")


def test_variants_are_made_by_the_cdn() -> None:
    store, key = CloudinaryImages.from_url("cloudinary://123:abc@films"), new_key()
    address = "https://res.cloudinary.com/films/image/upload"
    assert {name: store.url(key, name) for name in VARIANTS} == {
        "thumbnail": f"{address}/c_fill,h_450,w_300/f_auto/q_auto/v1/watchly/{key}",
        "card": f"{address}/c_limit,h_900,w_600/f_auto/q_auto/v1/watchly/{key}",
    }
    for name in ("", "poster", "thumbnail.webp"):
        with pytest.raises(ValueError, match="no variant"):
            store.url(key, name)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "cloudinary://",
        f"https://123:{SECRET}@cloud",
        f"cloudinary://123:{SECRET}",
        "cloudinary://123@cloud",
        f"cloudinary://[123:{SECRET}@cloud",
        f"cloudinary://:{SECRET}@cloud",
        f"cloudinary://123:{SECRET}@",
        f"cloudinary://123:{SECRET}@cloud?upload_prefix=127.0.0.1",
        f"cloudinary://123:{SECRET}@cloud?api_secret={SECRET}",
    ],
)
def test_another_url_is_refused_without_telling_the_secret(url: str) -> None:
    with pytest.raises(Misconfigured) as raised:
        CloudinaryImages.from_url(url)
    assert SECRET not in everything_said(raised.value)


@pytest.mark.parametrize(
    "option",
    [
        "upload_preset=posters",
        "signature_algorithm=md5",
        "max_bytes=10MB",
        "max_bytes=0",
        "max_bytes=",
        "timeout=0",
        "timeout=inf",
        "timeout=soon",
        "private_cdn=perhaps",
    ],
)
def test_an_option_that_means_nothing_is_refused_by_its_name(option: str) -> None:
    with pytest.raises(Misconfigured, match=f"option '{option.partition('=')[0]}'"):
        CloudinaryImages.from_url(f"cloudinary://123:{SECRET}@cloud?{option}")


@pytest.mark.parametrize(
    "option", ["secure=true", "secure=false", "secure_cdn_subdomain=true", "analytics=0"]
)
def test_an_option_without_effect_stops_nobody(option: str) -> None:
    store = CloudinaryImages.from_url(f"cloudinary://123:abc@films?{option}")
    key = new_key()
    assert store.url(key) == CloudinaryImages.from_url("cloudinary://123:abc@films").url(key)


def test_a_url_says_what_else_is_to_be_known() -> None:
    """It comes before the arguments: those are written by a programmer, and it by who runs the service."""
    url = "cloudinary://123:abc@films?folder=a%20b&max_bytes=10000000&private_cdn=true"
    store, key = CloudinaryImages.from_url(url, folder="other", max_bytes=5), new_key()
    assert store.max_bytes == 10_000_000
    assert store.url(key) == f"https://films-res.cloudinary.com/image/upload/v1/a%20b/{key}"
    assert CloudinaryImages.from_url("cloudinary://123:abc@films?folder=").url(key).endswith(f"/upload/{key}")
    host = CloudinaryImages.from_url(
        "cloudinary://123:abc@films?private_cdn=1&secure_distribution=img.example"
    )
    assert host.url(key) == f"https://img.example/image/upload/v1/watchly/{key}"


async def test_a_url_names_the_algorithm_that_the_account_signs_by(emulator: CloudinaryEmulator) -> None:
    bodies: list[bytes] = []

    def answer(request: Request) -> Reply:
        bodies.append(request.body)
        return emulator.account(request)

    emulator.answer = answer
    for algorithm, digits in (("sha1", 40), ("sha256", 64)):
        await put(CloudinaryImages.from_url(f"{emulator.url}&signature_algorithm={algorithm}"))
        assert re.search(rb'name="signature"\r\n\r\n[0-9a-f]{%d}\r\n' % digits, bodies.pop())


async def test_a_url_says_how_long_to_wait(emulator: CloudinaryEmulator) -> None:
    emulator.faults.script(*[Fault.TIMEOUT] * 3)
    store = CloudinaryImages.from_url(f"{emulator.url}&timeout=0.1")
    async with asyncio.timeout(20):
        with pytest.raises(Unavailable):
            await store.delete(new_key())


BY_ARGUMENTS = """
import asyncio, io, sys
from watchly_adapters.cloudinary import CloudinaryImages
from watchly_adapters.testing import samples
from watchly_core.images import Image

async def main():
    store, key = CloudinaryImages.from_url(sys.argv[1]), sys.argv[2]
    for size in (1_000, 6_000_000):
        png = samples.png(size)
        await store.put(key, io.BytesIO(png), Image(key, 6, 4, "png", size))
        assert (await store.stat(key)).bytes == size
    print(store.url(key, "card"), end="")
    await store.delete(key)

asyncio.run(main())
"""


def in_process(script: str, *arguments: object, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CLOUDINARY_")}
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**clean, **env},
    )


def test_the_environment_of_the_sdk_does_not_count(emulator: CloudinaryEmulator) -> None:
    bodies: list[bytes] = []

    def answer(request: Request) -> Reply:
        bodies.append(request.body)
        return emulator.account(request)

    emulator.answer = answer
    key = new_key()
    environment = {
        "CLOUD_NAME": "other",
        "API_KEY": "999",
        "API_SECRET": "other",
        "API_ENVIRONMENT_VARIABLE": "other",
        "AUTH_TOKEN": "other",
        "CDN_SUBDOMAIN": "true",
        "CNAME": "other.example",
        "DPR": "2.0",
        "FORCE_VERSION": "false",
        "LONG_URL_SIGNATURE": "true",
        "OAUTH_TOKEN": "other",
        "PRIVATE_CDN": "true",
        "RESPONSIVE_WIDTH": "true",
        "SECURE": "false",
        "SECURE_CDN_SUBDOMAIN": "true",
        "SECURE_DISTRIBUTION": "other.example",
        "SHORTEN": "true",
        "SIGNATURE_ALGORITHM": "sha256",
        "SIGNATURE_VERSION": "1",
        "SIGN_URL": "true",
        "TIMEOUT": "0.000001",
        "UPLOAD_PREFIX": "http://127.0.0.1:1",
        "UPLOAD_PRESET": "other",
        "USE_ROOT_PATH": "true",
    }
    done = in_process(
        BY_ARGUMENTS,
        emulator.url,
        key,
        env={f"CLOUDINARY_{name}": value for name, value in environment.items()},
    )
    assert (done.returncode, done.stderr) == (0, "")
    address = f"{emulator.upload_prefix}/emulated/image/upload/c_limit,h_900,w_600/f_auto/q_auto"
    assert done.stdout == f"{address}/v1/watchly/{key}"
    assert len(bodies) == 6
    for body in bodies:
        for name in (b"dpr", b"upload_preset", b"transformation", b"other"):
            assert name not in body


def test_a_url_that_the_sdk_cannot_read_is_one_clear_line() -> None:
    done = in_process(
        "import watchly_adapters.cloudinary", env={"CLOUDINARY_URL": f"https://123:{SECRET}@cloud"}
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.endswith("Misconfigured: CLOUDINARY_URL must look like cloudinary://KEY:SECRET@CLOUD")
    assert SECRET not in done.stderr


# What errors mean


@pytest.mark.parametrize(
    "account",
    [
        ("emulated", "123456789012345", SECRET),
        ("emulated", "999", SECRET),
        ("other", "123456789012345", SECRET),
    ],
)
async def test_wrong_credentials_are_misconfigured(
    emulator: CloudinaryEmulator, account: tuple[str, str, str]
) -> None:
    for error in await outcomes(hasty(Account(*account, upload_prefix=emulator.upload_prefix))):
        assert isinstance(error, Misconfigured)
        assert SECRET not in everything_said(error)
    assert emulator.assets == {}


async def test_a_server_that_is_down_is_unavailable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        prefix = f"http://127.0.0.1:{taken.getsockname()[1]}"
        for error in await outcomes(hasty(Account("cloud", "123", SECRET, prefix))):
            assert isinstance(error, Unavailable)
            assert error.dependency == "image_store"
            assert SECRET not in everything_said(error)


def said(status: int, body: object) -> Callable[[Request], Reply]:
    return lambda _: Reply(status, body if isinstance(body, bytes) else json.dumps(body).encode())


def failed(status: int, message: str) -> Callable[[Request], Reply]:
    return said(status, {"error": {"message": message}})


@pytest.mark.parametrize(
    "answer",
    [
        failed(420, "Rate Limit Exceeded"),
        failed(429, "Rate Limit Exceeded"),
        failed(500, f"General Error {SECRET}"),
        failed(502, "Bad Gateway"),
        failed(503, "Service Unavailable"),
        said(200, f"<html>{SECRET}".encode()),
        said(502, b"<html>" + b"x" * 900_000),
        said(404, b"<html>Not Found"),
        said(302, b""),
        said(200, b""),
        said(200, b"\xff"),
        said(200, []),
        said(200, [1]),
        said(200, 1),
        said(200, None),
        said(200, {}),
        said(200, {"public_id": 1, "bytes": "2", "result": 3}),
        said(200, {"public_id": "other", "bytes": None, "result": "perhaps"}),
        said(500, {"error": "text"}),
        said(500, {"error": None}),
        said(500, {"error": {}}),
    ],
)
async def test_any_other_answer_is_unavailable(
    emulator: CloudinaryEmulator, answer: Callable[[Request], Reply]
) -> None:
    emulator.answer = answer
    store = hasty(Account(emulator.cloud_name, emulator.api_key, SECRET, emulator.upload_prefix))
    for error in await outcomes(store):
        assert isinstance(error, Unavailable)
        assert error.dependency == "image_store"
        assert SECRET not in everything_said(error)
        assert len(everything_said(error)) < 1_000


@pytest.mark.parametrize("size", [999, 1_001, 0])
async def test_an_upload_that_arrived_otherwise_is_not_taken_for_done(
    emulator: CloudinaryEmulator, store: CloudinaryImages, size: int
) -> None:
    key = new_key()
    emulator.answer = said(200, {"public_id": f"watchly/{key}", "bytes": size})
    with pytest.raises(Unavailable, match=f"kept {size} bytes instead of 1000"):
        await store.put(key, io.BytesIO(PNG), pictured(key))


@pytest.mark.parametrize(
    ("answer", "meaning"),
    [
        (failed(400, "File size too large. Got 12. Maximum is 10."), ImageTooLarge),
        (said(413, b"<html>Request Entity Too Large"), ImageTooLarge),
        (failed(400, "Invalid image file"), ImageUnreadable),
        (failed(400, "Raw file format php not allowed"), ImageRejected),
        (failed(400, "Stale request - reported time is …"), Misconfigured),
        (failed(403, "Account is disabled"), Misconfigured),
    ],
)
async def test_what_is_refused_is_refused_for_its_reason(
    emulator: CloudinaryEmulator,
    store: CloudinaryImages,
    answer: Callable[[Request], Reply],
    meaning: type[WatchlyError],
) -> None:
    emulator.answer = answer
    with pytest.raises(meaning) as raised:
        await put(store)
    assert type(raised.value) is meaning


@pytest.mark.parametrize(("content", "meaning"), [(b"", ImageUnreadable), (b"<svg/>", ImageUnreadable)])
async def test_what_is_no_image_is_unreadable(
    emulator: CloudinaryEmulator, store: CloudinaryImages, content: bytes, meaning: type[WatchlyError]
) -> None:
    with pytest.raises(meaning):
        await put(store, content)
    assert emulator.assets == {}


async def test_the_limit_of_the_plan_counts_with_and_without_our_own() -> None:
    with CloudinaryEmulator(max_bytes=7_000_000) as emulator:
        with pytest.raises(ImageTooLarge):
            await put(CloudinaryImages.from_url(emulator.url), samples.png(7_000_001))
        assert len(emulator.requests) == 1
        with pytest.raises(ImageTooLarge):
            await put(CloudinaryImages.from_url(emulator.url, max_bytes=5_000), samples.png(5_001))
        assert len(emulator.requests) == 1


# Uploads and look-ups


@pytest.mark.parametrize("name", samples.UPRIGHT)
async def test_the_admin_api_tells_size_and_format(store: CloudinaryImages, name: str) -> None:
    content, form, key = samples.UPRIGHT[name], name.partition(" ")[0], new_key()
    await store.put(key, io.BytesIO(content), Image(key, samples.WIDTH, samples.HEIGHT, form, len(content)))
    assert await store.stat(key) == StoredImage(len(content), samples.WIDTH, samples.HEIGHT, form)


async def test_an_answer_that_is_much_too_long_is_not_kept(
    emulator: CloudinaryEmulator, store: CloudinaryImages
) -> None:
    key = await put(store)

    def answer(request: Request) -> Reply:
        return Reply(200, emulator.account(request).body + b" " * 2_000_000)

    emulator.answer = answer
    with pytest.raises(Unavailable, match="does not end"):
        await store.stat(key)


async def test_an_answer_about_another_image_is_none(
    emulator: CloudinaryEmulator, store: CloudinaryImages
) -> None:
    emulator.answer = said(200, {"public_id": f"watchly/{new_key()}", "bytes": 5})
    with pytest.raises(Unavailable, match="another image"):
        await store.stat(new_key())


async def test_large_images_go_in_chunks(emulator: CloudinaryEmulator, store: CloudinaryImages) -> None:
    await put(store, samples.png(5_500_000))
    assert len(emulator.requests) == 1
    await put(store, samples.png(5_500_001))
    assert len(emulator.requests) == 3
    await put(store, samples.png(16_500_000))
    assert len(emulator.requests) == 6


async def test_both_signatures_are_taken(emulator: CloudinaryEmulator) -> None:
    account = Account(
        emulator.cloud_name,
        emulator.api_key,
        emulator.api_secret,
        upload_prefix=emulator.upload_prefix,
        signature_algorithm="sha256",
        folder="/a & b=c/",
    )
    store = hasty(account)
    key = await put(store)
    assert list(emulator.assets) == [f"a & b=c/{key}"]
    assert await store.stat(key) == stored()
    await store.delete(key)
    assert emulator.assets == {}


async def test_a_cancelled_upload_ends_after_its_chunk(
    emulator: CloudinaryEmulator, store: CloudinaryImages
) -> None:
    asked, loop = asyncio.Event(), asyncio.get_running_loop()

    def answer(request: Request) -> Reply:
        loop.call_soon_threadsafe(asked.set)
        return emulator.account(request)

    emulator.answer = answer
    upload = asyncio.ensure_future(put(store, samples.png(60_000_000)))
    await asked.wait()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    assert len(emulator.requests) < 11
    assert emulator.assets == {}


MEASURED = """
import asyncio, sys
from watchly_adapters.cloudinary import CloudinaryImages
from watchly_core.images import Image

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

async def main():
    store = CloudinaryImages.from_url(sys.argv[1])
    sizes = {}
    for name in sys.argv[2:]:
        key = f"{len(sizes):032x}"
        with open(name, "rb") as source:
            await store.put(key, source, Image(key, 6, 4, "jpeg", 0))
        sizes[name] = peak()
    first, second = sizes.values()
    print(second - first)

asyncio.run(main())
"""


def test_memory_does_not_grow_with_the_image(emulator: CloudinaryEmulator, tmp_path: Path) -> None:
    names = []
    for size in (11_000_000, 66_000_000):
        names.append(tmp_path / str(size))
        with names[-1].open("wb") as file:
            file.write(samples.UPRIGHT["jpeg"])
            file.truncate(size)
    done = in_process(MEASURED, emulator.url, *names, env={})
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) < 5_000, "in KiB"


async def test_a_spool_can_be_sent(store: CloudinaryImages) -> None:
    for size in (1_000, 6_000_000):
        with tempfile.SpooledTemporaryFile(max_size=100_000) as source:
            source.write(samples.png(size))
            key = new_key()
            await store.put(key, source, pictured(key))
            assert await store.stat(key) == stored(samples.png(size))
