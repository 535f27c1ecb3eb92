"""Tickets that browsers upload by, judged by the emulator, and notifications that Cloudinary sends."""

import hashlib
import hmac
import io
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest
from urllib3 import encode_multipart_formdata

from watchly_adapters.cloudinary import Account, CloudinaryImages
from watchly_adapters.testing import samples
from watchly_adapters.testing.cloudinary import CloudinaryEmulator
from watchly_core.errors import SignatureRejected
from watchly_core.images import Image, Ticket, new_key

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
SECRET = "another-Secret_of-27-chars"  # noqa: S105 - it opens nothing
KEY = "0123456789abcdef" * 2
WEBHOOK = "https://films.example/webhooks?store=1&kind=cloudinary"


@pytest.fixture
def emulator() -> Iterator[CloudinaryEmulator]:
    with CloudinaryEmulator() as emulator:
        yield emulator


def store_on(
    emulator: CloudinaryEmulator,
    *,
    algorithm: Literal["sha1", "sha256"] = "sha1",
    folder: str = "watchly",
    notification_url: str | None = None,
) -> CloudinaryImages:
    account = Account(
        emulator.cloud_name,
        emulator.api_key,
        emulator.api_secret,
        upload_prefix=emulator.upload_prefix,
        folder=folder,
        signature_algorithm=algorithm,
    )
    return CloudinaryImages(account, notification_url=notification_url)


def ticket_for(
    store: CloudinaryImages, *, key: str | None = None, form: str = "png", minutes: float = 15
) -> Ticket:
    key = key or new_key()
    return store.ticket(key, Image(key, 0, 0, form, 1_000), datetime.now(UTC) + timedelta(minutes=minutes))


def posted(
    ticket: Ticket, content: bytes, changes: Mapping[str, str | None] | None = None
) -> tuple[int, dict[str, object]]:
    """The answer to a browser that sends `content` by a ticket, with some of the fields changed."""
    fields = {
        name: value for name, value in {**ticket.fields, **(changes or {})}.items() if value is not None
    }
    body, media_type = encode_multipart_formdata({**fields, "file": ("film.png", content)})
    request = urllib.request.Request(  # noqa: S310 - the emulator's own address
        ticket.url, body, {**ticket.headers, "Content-Type": media_type}, method=ticket.method
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:  # noqa: S310 - as above
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


# Tickets


def test_a_ticket_says_how_to_post_to_cloudinary() -> None:
    store = CloudinaryImages(Account("films", "123", SECRET), notification_url=WEBHOOK)
    expires_at = NOW + timedelta(minutes=10, milliseconds=700)
    ticket = store.ticket(KEY, Image(KEY, 0, 0, "jpeg", 5), expires_at)
    signature = ticket.fields["signature"]
    assert ticket == Ticket(
        key=KEY,
        method="POST",
        url="https://api.cloudinary.com/v1_1/films/image/upload",
        headers={},
        fields={
            "allowed_formats": "jpg",
            "api_key": "123",
            "asset_folder": "watchly",
            "notification_url": WEBHOOK,
            "overwrite": "false",
            "public_id": f"watchly/{KEY}",
            "signature": signature,
            "timestamp": str(int((NOW - timedelta(minutes=50)).timestamp())),
            "transformation": "fl_force_strip",
        },
        expires_at=expires_at,
    )
    signed = "&".join(
        f"{name}={value}".replace("&", "%26")
        for name, value in sorted(ticket.fields.items())
        if name not in {"api_key", "signature"}
    )
    assert signature == hashlib.sha1(f"{signed}{SECRET}".encode()).hexdigest()  # noqa: S324 - Cloudinary's
    assert SECRET not in str(ticket)


def test_without_a_folder_or_a_webhook_the_ticket_names_none() -> None:
    ticket = ticket_for(CloudinaryImages(Account("films", "123", SECRET, folder="")), key=KEY)
    assert ticket.fields["public_id"] == KEY
    assert not {"asset_folder", "notification_url"} & set(ticket.fields)


@pytest.mark.parametrize("key", ["", "a/b", "../x", "A" * 32, "0" * 33])
def test_there_is_no_ticket_for_what_is_no_key(key: str) -> None:
    with pytest.raises(ValueError, match="no key"):
        ticket_for(CloudinaryImages(Account("films", "123", SECRET)), key=key or "-")


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
@pytest.mark.parametrize("folder", ["watchly", "", "films & series=1"])
async def test_a_ticket_is_taken_and_what_it_brings_is_found(
    emulator: CloudinaryEmulator, algorithm: Literal["sha1", "sha256"], folder: str
) -> None:
    store = store_on(emulator, algorithm=algorithm, folder=folder)
    for form in ("png", "jpeg"):
        ticket, content = ticket_for(store, form=form), samples.UPRIGHT[form]
        status, answer = posted(ticket, content)
        assert (status, answer.get("existing")) == (200, None), answer
        found = await store.stat(ticket.key)
        assert found is not None
        assert (found.width, found.height, found.format) == (samples.WIDTH, samples.HEIGHT, form)


@pytest.mark.parametrize(
    "changes",
    [
        {"public_id": f"watchly/{new_key()}"},
        {"public_id": "elsewhere"},
        {"asset_folder": "elsewhere"},
        {"asset_folder": None},
        {"allowed_formats": "png,gif"},
        {"allowed_formats": None},
        {"overwrite": "true"},
        {"overwrite": None},
        {"transformation": None},
        {"transformation": "w_1"},
        {"timestamp": "1"},
        {"timestamp": str(int(datetime.now(UTC).timestamp()) + 60)},
        {"signature": "0" * 40},
        {"signature": "0" * 64},
        {"signature": None},
        {"api_key": "999"},
        {"notification_url": "https://evil.example"},
        {"eager": "w_1000"},
        {"tags": "mine"},
    ],
)
def test_a_ticket_with_a_field_changed_is_refused(
    emulator: CloudinaryEmulator, changes: Mapping[str, str | None]
) -> None:
    status, _ = posted(ticket_for(store_on(emulator)), samples.png(1_000), changes)
    assert status in {400, 401}
    assert emulator.assets == {}


def test_a_ticket_ends_when_it_says(emulator: CloudinaryEmulator) -> None:
    store = store_on(emulator)
    status, answer = posted(ticket_for(store, minutes=-0.1), samples.png(1_000))
    assert (status, "Stale" in str(answer)) == (400, True)
    assert emulator.assets == {}
    assert posted(ticket_for(store, minutes=1), samples.png(1_000))[0] == 200


@pytest.mark.parametrize("content", [samples.UPRIGHT["gif"], b"<svg/>", b"", samples.UPRIGHT["jpeg"]])
def test_a_ticket_is_for_one_format(emulator: CloudinaryEmulator, content: bytes) -> None:
    assert posted(ticket_for(store_on(emulator)), content)[0] == 400
    assert emulator.assets == {}


async def test_a_ticket_replaces_nothing(emulator: CloudinaryEmulator) -> None:
    store = store_on(emulator)
    ticket = ticket_for(store)
    content = samples.png(1_000)
    await store.put(ticket.key, io.BytesIO(content), Image(ticket.key, 6, 4, "png", len(content)))
    status, answer = posted(ticket, samples.png(2_000))
    assert (status, answer.get("existing")) == (200, True)
    found = await store.stat(ticket.key)
    assert found is not None
    assert found.bytes == 1_000


def test_what_a_ticket_brings_leaves_its_metadata_behind(emulator: CloudinaryEmulator) -> None:
    store = store_on(emulator)
    ticket, content = ticket_for(store, form="jpeg"), samples.turned_jpeg(1)
    assert b"Exif" in content
    assert posted(ticket, content)[0] == 200
    with urllib.request.urlopen(emulator.delivery_url(store.url(ticket.key)), timeout=30) as reply:  # noqa: S310 - as above
        assert b"Exif" not in reply.read()


# Notifications


def signed(
    body: bytes,
    at: datetime = NOW,
    *,
    secret: str = SECRET,
    algorithm: str = "sha1",
    timestamp: str | None = None,
) -> dict[str, str]:
    """The headers by which Cloudinary would send this."""
    timestamp = str(int(at.timestamp())) if timestamp is None else timestamp
    signature = hashlib.new(algorithm, body + f"{timestamp}{secret}".encode()).hexdigest()
    return {"x-cld-timestamp": timestamp, "x-cld-signature": signature, "content-type": "application/json"}


def message(kind: object = "upload", public_id: object = f"watchly/{KEY}", **more: object) -> bytes:
    return json.dumps({"notification_type": kind, "public_id": public_id, **more}).encode()


@pytest.fixture
def films() -> CloudinaryImages:
    return CloudinaryImages(Account("films", "123", SECRET))


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_word_of_an_upload_gives_its_key(films: CloudinaryImages, algorithm: str) -> None:
    body = message(bytes=10**9, width=-1, secure_url="https://evil.example")
    assert films.notified(body, signed(body, algorithm=algorithm), NOW) == KEY


def test_without_a_folder_the_public_id_is_the_key() -> None:
    films = CloudinaryImages(Account("films", "123", SECRET, folder=""))
    for public_id, key in ((KEY, KEY), (f"watchly/{KEY}", None)):
        body = message(public_id=public_id)
        assert films.notified(body, signed(body), NOW) == key


@pytest.mark.parametrize(
    "body",
    [
        message("delete"),
        message("eager"),
        message(None),
        message(public_id=KEY),
        message(public_id=f"other/{KEY}"),
        message(public_id=f"watchly/x/{KEY}"),
        message(public_id=f"watchly/{KEY.upper()}"),
        message(public_id=f"watchly/{KEY}\n"),
        message(public_id="watchly/"),
        message(public_id=["watchly", KEY]),
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff",
        b'{"notification_type": "upload", "public_id": "\xff"}',
        b'{"notification_type": "upload", "public_id": ' + b"[" * 100_000,
        b"<html>",
    ],
)
def test_word_of_anything_else_gives_nothing(films: CloudinaryImages, body: bytes) -> None:
    assert films.notified(body, signed(body), NOW) is None


@pytest.mark.parametrize(("seconds", "is_taken"), [(0, True), (7_200, True), (7_201, False), (-300, True)])
def test_a_notification_is_good_for_two_hours(films: CloudinaryImages, seconds: int, is_taken: bool) -> None:
    body = message()
    headers = signed(body, NOW - timedelta(seconds=seconds))
    if is_taken:
        assert films.notified(body, headers, NOW) == KEY
    else:
        with pytest.raises(SignatureRejected):
            films.notified(body, headers, NOW)


def test_a_notification_from_the_future_is_none(films: CloudinaryImages) -> None:
    body = message()
    with pytest.raises(SignatureRejected):
        films.notified(body, signed(body, NOW + timedelta(seconds=301)), NOW)


def without(name: str) -> Callable[[dict[str, str]], dict[str, str]]:
    return lambda headers: {other: value for other, value in headers.items() if other != name}


def having(name: str, value: str) -> Callable[[dict[str, str]], dict[str, str]]:
    return lambda headers: {**headers, name: value}


@pytest.mark.parametrize(
    "change",
    [
        without("x-cld-timestamp"),
        without("x-cld-signature"),
        having("x-cld-signature", ""),
        having("x-cld-signature", "0" * 40),
        having("x-cld-signature", "0" * 64),
        having("x-cld-signature", "é" * 40),
        having("x-cld-signature", "0" * 40 + "\n"),
        having("x-cld-timestamp", str(int(NOW.timestamp()) + 1)),
        having("x-cld-timestamp", f" {int(NOW.timestamp())}"),
        lambda headers: {**headers, "x-cld-signature": headers["x-cld-signature"].upper()},
        lambda headers: {**headers, "x-cld-signature": headers["x-cld-signature"][:-1]},
        lambda headers: {**headers, "x-cld-signature": headers["x-cld-signature"] + "0"},
    ],
)
def test_headers_that_were_tampered_with_are_refused(
    films: CloudinaryImages, change: Callable[[dict[str, str]], dict[str, str]]
) -> None:
    body = message()
    with pytest.raises(SignatureRejected) as raised:
        films.notified(body, change(signed(body)), NOW)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("timestamp", ["", "-1", "1e9", "٣", "9" * 13, "9" * 5_000, "1.0", "+5"])
def test_a_timestamp_is_a_plain_number(films: CloudinaryImages, timestamp: str) -> None:
    body = message()
    with pytest.raises(SignatureRejected):
        films.notified(body, signed(body, timestamp=timestamp), NOW)


def test_a_body_that_was_tampered_with_or_signed_by_another_is_refused(films: CloudinaryImages) -> None:
    body = message()
    for other, headers in ((body + b" ", signed(body)), (body, signed(body, secret="another"))):
        with pytest.raises(SignatureRejected):
            films.notified(other, headers, NOW)


def test_signatures_are_compared_in_constant_time(
    films: CloudinaryImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time itself cannot be measured well enough, so it is the one function that promises it."""
    compared = []
    compare = hmac.compare_digest

    def note(one: str, other: str) -> bool:
        compared.append((one, other))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", note)
    body = message()
    headers = signed(body)
    films.notified(body, headers, NOW)
    assert compared == [(headers["x-cld-signature"], headers["x-cld-signature"])]
