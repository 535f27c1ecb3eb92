"""The emulator of Cloudinary keeps the rules of the real one, and breaks the wire where it is told to."""

import base64
import hashlib
import http.client
import io
import json
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from email.utils import parsedate_to_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import parse_qsl, urlsplit

import pytest
from cloudinary import api, uploader
from cloudinary import exceptions as sdk
from tests.emulated import PATIENCE, PNG, Answer, account, ask, form, refused, send, signed, upload

from watchly_adapters.testing import samples
from watchly_adapters.testing.cloudinary import CloudinaryEmulator, Reply, Request, run_cloudinary
from watchly_adapters.testing.cloudinary.assets import Assets
from watchly_adapters.testing.cloudinary.forms import Form
from watchly_adapters.testing.cloudinary.messages import Refused
from watchly_adapters.testing.cloudinary.uploads import Uploads
from watchly_core.errors import Misconfigured

SAMPLE_SIZE = (samples.WIDTH, samples.HEIGHT)


@pytest.fixture
def emulator() -> Iterator[CloudinaryEmulator]:
    with CloudinaryEmulator() as emulator:
        yield emulator


# Signatures


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_fields_are_taken_with_a_signature_by_either_algorithm(
    emulator: CloudinaryEmulator, algorithm: str
) -> None:
    fields = signed(emulator, algorithm=algorithm, tags="a,b&c=d", asset_folder="é")
    assert send(emulator, fields).status == 200
    for name, value in (
        ("tags", "a,b"),
        ("public_id", "b"),
        ("extra", "1"),
        ("timestamp", str(int(time.time()) + 9)),
    ):
        answer = send(emulator, {**fields, name: value})
        assert answer.status == 401
        assert answer.error.startswith("Invalid Signature")
    assert list(emulator.assets) == ["a"]


def test_the_sdk_signs_as_the_emulator_checks(emulator: CloudinaryEmulator) -> None:
    for algorithm in ("sha1", "sha256"):
        uploader.upload(
            io.BytesIO(PNG),
            **account(emulator, signature_algorithm=algorithm),
            public_id=f"{algorithm}/é & x=1",
            tags=["a", "b&c=d"],
            context={"alt": "a|b=c"},
            allowed_formats=["png", "jpg"],
            overwrite=False,
        )
    assert list(emulator.assets) == ["sha1/é & x=1", "sha256/é & x=1"]


def test_what_need_not_be_signed_is_not(emulator: CloudinaryEmulator) -> None:
    assert send(emulator, {**signed(emulator), "cloud_name": "x", "resource_type": "image"}).status == 200
    assert send(emulator, {**signed(emulator), "tags": ""}).status == 200


def test_an_ampersand_smuggles_no_field(emulator: CloudinaryEmulator) -> None:
    fields = signed(emulator, public_id="a&tags=b")
    assert send(emulator, {**fields, "public_id": "a", "tags": "b"}).status == 401


@pytest.mark.parametrize(
    ("age", "status"), [(0, 200), (3_590, 200), (-3_590, 200), (3_610, 400), (-3_700, 400)]
)
def test_a_timestamp_holds_for_an_hour(emulator: CloudinaryEmulator, age: int, status: int) -> None:
    answer = send(emulator, signed(emulator, timestamp=str(int(time.time()) - age)))
    assert answer.status == status
    if status == 400:
        assert answer.error.startswith("Stale request")


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"signature": ""}, 400, "Upload preset must be specified"),
        ({"signature": "é"}, 401, "Invalid Signature"),
        ({"api_key": "1"}, 401, "Invalid api_key 1"),
    ],
)
def test_who_does_not_sign_is_refused(
    emulator: CloudinaryEmulator, change: dict[str, str], status: int, words: str
) -> None:
    answer = send(emulator, signed(emulator) | change)
    assert (answer.status, answer.error[: len(words)]) == (status, words)


@pytest.mark.parametrize("timestamp", ["", "soon", "²", "-5"])
def test_a_timestamp_is_a_number(emulator: CloudinaryEmulator, timestamp: str) -> None:
    fields = signed(emulator, timestamp=timestamp) if timestamp else signed(emulator)
    if not timestamp:
        text = f"public_id=a{emulator.api_secret}"
        fields = {
            "public_id": "a",
            "api_key": emulator.api_key,
            "signature": hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(),
        }
    answer = send(emulator, fields)
    assert (answer.status, answer.error) == (400, "Missing required parameter - timestamp")


def test_another_cloud_is_not_this_one(emulator: CloudinaryEmulator) -> None:
    body, headers = form(signed(emulator), PNG)
    answer = ask(emulator, "POST", "/v1_1/other/image/upload", body, headers)
    assert (answer.status, answer.error) == (401, "Invalid cloud_name other")
    assert ask(emulator, "GET", "/v1_1/emulated/nothing").status == 404


# Uploads


def test_an_answer_describes_the_asset_as_the_real_one_does(emulator: CloudinaryEmulator) -> None:
    answer = upload(emulator, public_id="films/heat", asset_folder="posters").json
    asset = emulator.assets["films/heat"]
    base = f"res.cloudinary.com/emulated/image/upload/v{asset.version}/films/heat.png"
    signature = hashlib.sha1(
        f"public_id=films/heat&version={asset.version}{emulator.api_secret}".encode(), usedforsecurity=False
    )
    expected = {
        "public_id": "films/heat",
        "version": asset.version,
        "signature": signature.hexdigest(),
        "width": samples.WIDTH,
        "height": samples.HEIGHT,
        "format": "png",
        "resource_type": "image",
        "type": "upload",
        "bytes": len(PNG),
        "etag": hashlib.md5(PNG, usedforsecurity=False).hexdigest(),
        "url": f"http://{base}",
        "secure_url": f"https://{base}",
        "asset_folder": "posters",
        "display_name": "heat",
        "original_filename": "poster",
        "api_key": emulator.api_key,
    }
    assert {name: answer[name] for name in expected} == expected
    assert "existing" not in answer


@pytest.mark.parametrize(("name", "content"), samples.UPRIGHT.items())
def test_a_format_is_found_in_the_content(emulator: CloudinaryEmulator, name: str, content: bytes) -> None:
    format_ = name.split(maxsplit=1)[0].replace("jpeg", "jpg")
    assert upload(emulator, content, allowed_formats=f"tiff,{format_}").json["format"] == format_
    others = {"jpg", "png", "gif", "webp", "avif"} - {format_}
    assert (
        refused(emulator, content, allowed_formats=",".join(others))
        == f"Image file format {format_} not allowed"
    )


def test_jpeg_may_be_called_either_way(emulator: CloudinaryEmulator) -> None:
    upload(emulator, samples.UPRIGHT["jpeg"], allowed_formats="jpeg")


def test_without_a_public_id_one_is_made(emulator: CloudinaryEmulator) -> None:
    fields = {name: value for name, value in signed(emulator).items() if name != "public_id"}
    text = f"timestamp={fields['timestamp']}{emulator.api_secret}"
    fields["signature"] = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    first, second = (send(emulator, fields).json["public_id"] for _ in range(2))
    assert first != second
    assert set(emulator.assets) == {first, second}


def test_an_asset_is_overwritten_unless_that_is_declined(emulator: CloudinaryEmulator) -> None:
    first = upload(emulator).json
    for no in ("false", "0"):
        answer = upload(emulator, samples.png(2_000), overwrite=no).json
        assert (answer["existing"], answer["version"], answer["bytes"]) == (True, first["version"], 1_000)
    answer = upload(emulator, samples.png(2_000), overwrite="true").json
    assert answer["bytes"] == 2_000
    assert emulator.assets["a"].version == answer["version"] != first["version"]
    assert len(list(emulator.directory.iterdir())) == 1


def test_what_is_no_image_is_refused(emulator: CloudinaryEmulator) -> None:
    assert refused(emulator, b"") == "Empty file"
    assert refused(emulator, b"<svg/>") == "Invalid image file"
    assert refused(emulator, PNG[:20]) == "Invalid image file"
    upload(emulator)
    assert refused(emulator, b"<svg/>") == "Invalid image file"
    assert ask(emulator, "GET", "/emulated/image/upload/a").content == PNG


def test_the_plan_has_a_limit() -> None:
    with CloudinaryEmulator(max_bytes=1_000) as emulator:
        upload(emulator, samples.png(1_000))
        words = refused(emulator, samples.png(1_001))
        assert words == "File size too large. Got 1001. Maximum is 1000."


def test_one_request_has_a_limit_that_clients_get_to_see(emulator: CloudinaryEmulator) -> None:
    address = ("127.0.0.1", int(emulator.upload_prefix.rpartition(":")[2]))
    with socket.create_connection(address, timeout=PATIENCE) as client:
        head = "POST /v1_1/emulated/image/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 100000001\r\n\r\n"
        client.sendall(head.encode())
        # Much more than fits into the buffers on the way.
        client.sendall(bytes(8_000_000))
        client.shutdown(socket.SHUT_WR)
        with client.makefile("rb") as reply:
            assert reply.read().startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "header", ["Content-Length: -1", "Content-Length: x", "Content-Length: ²", "Transfer-Encoding: gzip"]
)
def test_a_body_has_a_length(emulator: CloudinaryEmulator, header: str) -> None:
    assert sent(emulator, f"{header}\r\n\r\n".encode("latin-1")).startswith(b"HTTP/1.1 411 ")


def sent(emulator: CloudinaryEmulator, rest: bytes) -> bytes:
    """What an upload is answered of which this is what comes after its first line."""
    address = ("127.0.0.1", int(emulator.upload_prefix.rpartition(":")[2]))
    with socket.create_connection(address, timeout=PATIENCE) as client:
        client.sendall(b"POST /v1_1/emulated/image/upload HTTP/1.1\r\nConnection: close\r\n" + rest)
        with client.makefile("rb") as reply:
            return reply.read()


def test_a_body_may_come_in_chunks(emulator: CloudinaryEmulator) -> None:
    boundary = "form"
    fields = signed(emulator) | {"api_key": emulator.api_key}
    form = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ).encode()
    form += f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'.encode()
    form += PNG + f"\r\n--{boundary}--\r\n".encode()
    chunks = b"".join(
        b"%X;a=b\r\n%b\r\n" % (len(part), part) for part in (form[:100], form[100:101], form[101:])
    )
    head = f"Transfer-Encoding: chunked\r\nContent-Type: multipart/form-data; boundary={boundary}\r\n\r\n"
    assert sent(emulator, head.encode() + chunks + b"0\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    for cut in (b"x\r\n", b"-1\r\n", b"\r\n", b"0\r\nTrailer: a\r\n\r\n"):
        assert sent(emulator, head.encode() + chunks + cut).startswith(b"HTTP/1.1 400 ")


BROKEN_FORMS = {
    "no form": (b"{}", "application/json"),
    "no type": (b"{}", ""),
    "no boundary": (b"--line--\r\n", "multipart/form-data"),
    "no end": (form({"a": "b"}, PNG)[0][:-4], "multipart/form-data; boundary=line"),
    "nothing": (b"", "multipart/form-data; boundary=line"),
    "two files": (
        form({}, PNG)[0].removesuffix(b"--line--\r\n") + form({}, PNG)[0],
        "multipart/form-data; boundary=line",
    ),
    "a long field": (form({"a": "b" * 2_000_000}, PNG)[0], "multipart/form-data; boundary=line"),
    "no UTF-8": (
        form({"a": "b!"}, PNG)[0].replace(b"b!", b"\xff\xfe"),
        "multipart/form-data; boundary=line",
    ),
    "many fields": (form({f"f{at}": "" for at in range(300)}, PNG)[0], "multipart/form-data; boundary=line"),
}


@pytest.mark.parametrize("name", BROKEN_FORMS)
def test_a_broken_form_is_a_bad_request(emulator: CloudinaryEmulator, name: str) -> None:
    body, media_type = BROKEN_FORMS[name]
    headers = {"Content-Type": media_type} if media_type else {}
    answer = ask(emulator, "POST", "/v1_1/emulated/image/upload", body, headers)
    assert (answer.status, bool(answer.error)) == (400, True)
    assert list(emulator.directory.iterdir()) == []


def test_an_upload_needs_a_file_and_a_deletion_a_public_id(emulator: CloudinaryEmulator) -> None:
    answer = send(emulator, signed(emulator), None)
    assert (answer.status, answer.error) == (400, "Missing required parameter - file")
    with pytest.raises(sdk.BadRequest, match="Missing required parameter - public_id"):
        uploader.destroy("", **account(emulator))


def test_the_name_of_a_field_may_end_in_brackets(emulator: CloudinaryEmulator) -> None:
    fields = signed(emulator, allowed_formats="jpg,png")
    body, headers = form({name: value for name, value in fields.items() if name != "allowed_formats"}, PNG)
    more = b'--line\r\nContent-Disposition: form-data; name="allowed_formats[]"\r\n\r\n%s\r\n'
    answer = ask(
        emulator, "POST", "/v1_1/emulated/image/upload", more % b"jpg" + more % b"png" + body, headers
    )
    assert answer.status == 200


def test_memory_does_not_grow_with_an_upload(emulator: CloudinaryEmulator) -> None:
    body, headers = form(signed(emulator), b"here")
    before, after = body.split(b"here")
    image = samples.UPRIGHT["jpeg"]
    blocks = [before + image, *[bytes(1_000_000)] * 80, after]
    address = emulator.upload_prefix.removeprefix("http://")
    with closing(http.client.HTTPConnection(address, timeout=PATIENCE)) as connection:
        tracemalloc.start()
        try:
            connection.request(
                "POST",
                "/v1_1/emulated/image/upload",
                iter(blocks),
                {**headers, "Content-Length": str(sum(map(len, blocks)))},
            )
            reply = json.loads(connection.getresponse().read())
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert reply["bytes"] == len(image) + 80_000_000
    assert peak < 8_000_000


# Chunks


def send_chunk(emulator: CloudinaryEmulator, chunk: bytes, at: str, upload_id: str = "one") -> Answer:
    headers = {"Content-Range": at, "X-Unique-Upload-Id": upload_id}
    return send(emulator, signed(emulator, public_id=upload_id or "a"), chunk, headers=headers)


def unfinished(uploads: Uploads, upload_id: str, start: int = 0) -> dict[str, object]:
    """The answer to a chunk of an upload that is to have three."""
    headers = {
        "content-range": f"bytes {start}-{start + 4_999_999}/15000000",
        "x-unique-upload-id": upload_id,
    }
    return uploads.receive(Form({"public_id": upload_id}, io.BytesIO(bytes(5_000_000)), "a.png"), headers)


def test_an_upload_that_nobody_goes_on_with_is_given_up(tmp_path: Path) -> None:
    now = [0.0]
    uploads = Uploads(Assets("films"), tmp_path, None, clock=lambda: now[0])
    unfinished(uploads, "left")
    unfinished(uploads, "slow")
    now[0] = 400
    unfinished(uploads, "slow", 5_000_000)
    now[0] = 700
    uploads.receive(Form({"public_id": "whole"}, io.BytesIO(PNG), "a.png"), {})
    assert sorted(file.stat().st_size for file in tmp_path.iterdir()) == [len(PNG), 10_000_000]
    with pytest.raises(Refused, match="Unexpected Content-Range"):
        unfinished(uploads, "left", 5_000_000)


def test_there_are_not_too_many_unfinished_uploads(tmp_path: Path) -> None:
    uploads = Uploads(Assets("films"), tmp_path, None, most_unfinished=2)
    for upload_id in ("one", "two"):
        unfinished(uploads, upload_id)
    unfinished(uploads, "one", 5_000_000)
    unfinished(uploads, "three")
    assert sorted(file.stat().st_size for file in tmp_path.iterdir()) == [5_000_000, 10_000_000]
    with pytest.raises(Refused, match="Unexpected Content-Range"):
        unfinished(uploads, "two", 5_000_000)
    assert unfinished(uploads, "three", 5_000_000)["bytes"] == 10_000_000


def test_chunks_make_an_asset_in_the_end(emulator: CloudinaryEmulator) -> None:
    images = {name: samples.png(12_000_000, mark=mark) for mark, name in enumerate(("one", "two"))}
    for start in (0, 5_000_000, 10_000_000):
        for name, image in images.items():
            assert dict(emulator.assets) == {}
            end = min(start + 5_000_000, 12_000_000)
            answer = send_chunk(emulator, image[start:end], f"bytes {start}-{end - 1}/12000000", name)
            if end < 12_000_000:
                assert answer.json == {"done": False, "public_id": name, "bytes": end}
            else:
                assert answer.json["bytes"] == 12_000_000
                assert emulator.assets[name].file.read_bytes() == image
                break
    assert (
        send_chunk(emulator, images["two"][10_000_000:], "bytes 10000000-11999999/12000000", "two").status
        == 200
    )
    assert len(list(emulator.directory.iterdir())) == 2


def test_the_sdk_sends_chunks_that_are_taken(emulator: CloudinaryEmulator) -> None:
    image = samples.png(11_000_001)
    answer = uploader.upload_large(
        io.BytesIO(image),
        **account(emulator),
        public_id="a",
        resource_type="image",
        chunk_size=5_500_000,
    )
    assert answer["bytes"] == len(image)
    assert emulator.assets["a"].file.read_bytes() == image
    assert len(emulator.requests) == 3


@pytest.mark.parametrize(
    ("size", "at", "words"),
    [
        (5_000_000, "bytes 0-4999999/9000000", "Unexpected"),
        (4_000_000, "bytes 4999999-8999998/9000000", "larger than 5mb"),
        (3_000_000, "bytes 6000000-8999999/9000000", "Unexpected"),
        (3_000_000, "bytes 5000000-7999999/8000000", "Unexpected"),
        (4_000_000, "bytes 5000000-8999999/4000000", "does not fit"),
        (4_000_000, "bytes 5000000-9000000/9000001", "does not fit"),
        (4_000_000, "bytes 5000000-8999999/*", "Invalid Content-Range"),
        (4_000_000, "bytes 9-5/9000000", "does not fit"),
        (4_000_000, f"bytes 0-{'9' * 5_000}/9", "Invalid Content-Range"),
    ],
)
def test_a_chunk_follows_on_the_one_before(
    emulator: CloudinaryEmulator, size: int, at: str, words: str
) -> None:
    image = samples.png(9_000_000)
    assert send_chunk(emulator, image[:5_000_000], "bytes 0-4999999/9000000").json["done"] is False
    answer = send_chunk(emulator, bytes(size), at)
    assert answer.status == 400
    assert words in answer.error
    assert dict(emulator.assets) == {}
    assert send_chunk(emulator, image[5_000_000:], "bytes 5000000-8999999/9000000").status == 200


def test_chunks_are_known_by_the_id_of_their_upload(emulator: CloudinaryEmulator) -> None:
    image = samples.png(9_000_000)
    assert (
        "Missing X-Unique-Upload-Id"
        in send_chunk(emulator, image[:5_000_000], "bytes 0-4999999/9000000", "").error
    )
    for upload_id in ("one", "two"):
        send_chunk(emulator, image[:5_000_000], "bytes 0-4999999/9000000", upload_id)
    headers = {"Content-Range": "bytes 5000000-8999999/9000000", "X-Unique-Upload-Id": "one"}
    answer = send(emulator, signed(emulator, public_id="two"), image[5_000_000:], headers=headers)
    assert answer.error.startswith("Unexpected")
    assert send_chunk(emulator, image[5_000_000:], "bytes 5000000-8999999/9000000", "two").status == 200
    assert list(emulator.assets) == ["two"]


def test_the_limit_of_the_plan_counts_from_the_first_chunk() -> None:
    with CloudinaryEmulator(max_bytes=8_000_000) as emulator:
        answer = send_chunk(emulator, bytes(5_000_000), "bytes 0-4999999/9000000")
        assert answer.error == "File size too large. Got 9000000. Maximum is 8000000."


# Deletion, look-up


def test_deletion_says_whether_there_was_something(emulator: CloudinaryEmulator) -> None:
    upload(emulator)
    assert uploader.destroy("a", **account(emulator), invalidate=True) == {"result": "ok"}
    assert uploader.destroy("a", **account(emulator)) == {"result": "not found"}
    assert dict(emulator.assets) == {}
    assert list(emulator.directory.iterdir()) == []
    assert list(emulator.invalidated) == ["a"]


def test_invalidation_is_noted_for_uploads_as_well(emulator: CloudinaryEmulator) -> None:
    uploader.upload(io.BytesIO(PNG), **account(emulator), public_id="a")
    uploader.upload(io.BytesIO(PNG), **account(emulator), public_id="b/c", invalidate=True)
    assert list(emulator.invalidated) == ["b/c"]


def test_the_admin_api_knows_assets_by_their_public_ids(emulator: CloudinaryEmulator) -> None:
    upload(emulator, samples.UPRIGHT["jpeg"], public_id="films/héat")
    found = api.resource("films/héat", **account(emulator))
    size = len(samples.UPRIGHT["jpeg"])
    assert (found["public_id"], found["bytes"], found["format"]) == ("films/héat", size, "jpg")
    assert (found["width"], found["height"]) == SAMPLE_SIZE
    with pytest.raises(sdk.NotFound, match="Resource not found - films/héat2"):
        api.resource("films/héat2", **account(emulator))


@pytest.mark.parametrize("word", ["", "Basic", "Bearer x", "Basic eDp5"])
def test_the_admin_api_wants_the_secret(emulator: CloudinaryEmulator, word: str) -> None:
    upload(emulator)
    path = "/v1_1/emulated/resources/image/upload/a"
    answer = ask(emulator, "GET", path, headers={"Authorization": word} if word else {})
    assert (answer.status, answer.error) == (401, "api_secret mismatch")
    right = base64.b64encode(f"{emulator.api_key}:{emulator.api_secret}".encode()).decode()
    assert ask(emulator, "GET", path, headers={"Authorization": f"Basic {right}"}).status == 200


def look_up_until_it_fails(emulator: CloudinaryEmulator, remaining: list[object]) -> None:
    # An hour may end meanwhile: then the count begins anew, and a third look-up passes.
    for _ in range(6):
        found = api.resource("a", **account(emulator))
        assert found.rate_limit_allowed == 2
        assert found.rate_limit_reset_at is not None
        remaining.append(found.rate_limit_remaining)


def test_the_admin_api_counts_requests() -> None:
    with CloudinaryEmulator(hourly_lookups=2) as emulator:
        upload(emulator)
        remaining: list[object] = []
        with pytest.raises(sdk.RateLimited, match="Limit of 2 api operations"):
            look_up_until_it_fails(emulator, remaining)
        assert remaining[-2:] == [1, 0]
        right = base64.b64encode(f"{emulator.api_key}:{emulator.api_secret}".encode()).decode()
        path = "/v1_1/emulated/resources/image/upload/b"
        answer = ask(emulator, "GET", path, headers={"Authorization": f"Basic {right}"})
        reset = parsedate_to_datetime(answer.headers["x-featureratelimit-reset"])
        assert 0 <= reset.timestamp() - time.time() <= 3_600
        assert (reset.minute, reset.second) == (0, 0)


# Browsers


def test_a_browser_may_upload_from_any_page(emulator: CloudinaryEmulator) -> None:
    asked = {
        "Origin": "https://films.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-unique-upload-id,content-range",
    }
    answer = ask(emulator, "OPTIONS", "/v1_1/emulated/image/upload", headers=asked)
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-headers"] == "x-unique-upload-id,content-range"
    for fields, status in ((signed(emulator), 200), ({}, 400)):
        answer = send(emulator, fields, headers={"Origin": "https://films.example"})
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (status, "*")


def test_errors_travel_in_a_header_of_one_line(emulator: CloudinaryEmulator) -> None:
    answer = ask(emulator, "GET", "/emulated/image/upload/a%0D%0ASet-Cookie:%20b=%C3%A9")
    assert answer.headers["x-cld-error"] == "Resource not found - a Set-Cookie: b=\\xe9"
    assert "set-cookie" not in answer.headers


# Notifications

Told: TypeAlias = tuple[bytes, Mapping[str, str]]


class Receiver:
    """Where notifications go; `statuses` is what it answers, the last of them for ever."""

    def __init__(self, *statuses: int) -> None:
        self._told: queue.SimpleQueue[Told] = queue.SimpleQueue()
        told, left = self._told, list(statuses or (200,))

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                told.put((body, {name.lower(): value for name, value in self.headers.items()}))
                self.send_response(left.pop(0) if len(left) > 1 else left[0])
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/told"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def next(self) -> Told:
        return self._told.get(timeout=PATIENCE)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def is_empty(self) -> bool:
        return self._told.empty()


def receiving(*statuses: int) -> closing[Receiver]:
    return closing(Receiver(*statuses))


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_an_upload_is_told_of_with_a_signature(algorithm: Literal["sha1", "sha256"]) -> None:
    with CloudinaryEmulator(algorithm=algorithm) as emulator, receiving() as receiver:
        answer = upload(emulator, notification_url=receiver.url).json
        body, headers = receiver.next()
        told = json.loads(body)
        assert told["notification_type"] == "upload"
        assert {name: told[name] for name in answer} == answer
        assert headers["content-type"] == "application/json"
        assert abs(int(headers["x-cld-timestamp"]) - time.time()) < 60
        text = f"{body.decode()}{headers['x-cld-timestamp']}{emulator.api_secret}"
        assert headers["x-cld-signature"] == hashlib.new(algorithm, text.encode()).hexdigest()


def test_a_deaf_receiver_is_told_again(emulator: CloudinaryEmulator) -> None:
    with receiving(500, 404, 200) as receiver:
        upload(emulator, notification_url=receiver.url)
        bodies = {receiver.next()[0] for _ in range(3)}
        assert len(bodies) == 1
        upload(emulator, public_id="b", notification_url=receiver.url)
        assert json.loads(receiver.next()[0])["public_id"] == "b"


def test_nobody_is_told_of_what_was_refused_or_is_not_complete(emulator: CloudinaryEmulator) -> None:
    with receiving() as receiver:
        refused(emulator, b"<svg/>", notification_url=receiver.url)
        headers = {"Content-Range": "bytes 0-4999999/9000000", "X-Unique-Upload-Id": "one"}
        fields = signed(emulator, notification_url=receiver.url)
        assert send(emulator, fields, bytes(5_000_000), headers=headers).status == 200
        upload(emulator, public_id="b", notification_url=receiver.url)
        assert json.loads(receiver.next()[0])["public_id"] == "b"
        assert receiver.is_empty


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/", "nonsense", "ftp://127.0.0.1/", "http://[", "http://é/"]
)
def test_a_receiver_that_is_not_there_disturbs_nobody(emulator: CloudinaryEmulator, url: str) -> None:
    upload(emulator, notification_url=url)
    assert list(emulator.assets) == ["a"]


# The emulator itself


def test_the_latest_requests_are_known(emulator: CloudinaryEmulator) -> None:
    upload(emulator)
    ask(emulator, "GET", "/emulated/image/upload/a%20b?c=d")
    assert list(emulator.requests) == [
        "POST /v1_1/emulated/image/upload",
        "GET /emulated/image/upload/a b",
    ]
    assert emulator.requests.maxlen == 10_000


def test_an_answer_can_be_put_in_place_of_its_own(emulator: CloudinaryEmulator) -> None:
    def answer(request: Request) -> Reply:
        assert PNG in request.body
        reply = emulator.account(request)
        return reply._replace(status=201, headers={"X-Size": str(len(request.body))})

    emulator.answer = answer
    found = send(emulator, signed(emulator))
    assert (found.status, found.json["public_id"]) == (201, "a")
    assert int(found.headers["x-size"]) > len(PNG)


def test_it_ends_at_once_and_leaves_nothing_behind() -> None:
    with CloudinaryEmulator() as emulator:
        upload(emulator)
        directory = emulator.directory
        address = ("127.0.0.1", int(emulator.upload_prefix.rpartition(":")[2]))
        # One that is idle, and one in the middle of a request.
        idle, busy = (socket.create_connection(address, timeout=PATIENCE) for _ in range(2))
        for connection in (idle, busy):
            connection.sendall(b"OPTIONS / HTTP/1.1\r\n\r\n")
            assert connection.recv(1_000).startswith(b"HTTP/1.1 200 ")
        busy.sendall(b"POST /v1_1/emulated/image/upload HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc")
        begun = time.monotonic()
    assert time.monotonic() - begun < 5
    assert not directory.exists()
    for connection in (idle, busy):
        with connection, suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=PATIENCE)


# The command


def started(*arguments: str) -> subprocess.Popen[str]:
    script = (
        "import sys, click; from watchly_adapters.testing.cloudinary import run_cloudinary;"
        "run_cloudinary(int(sys.argv[1]), click.echo, lambda line: click.echo(line, err=True))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_command_serves_until_it_is_told_to_stop(stop: signal.Signals) -> None:
    with started("0") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        url = process.stdout.readline().partition("CLOUDINARY_URL=")[2].strip()
        directory = process.stderr.readline().partition(" in ")[2].partition(" until ")[0]
        try:
            options = urlsplit(url)
            uploader.upload(
                io.BytesIO(PNG),
                public_id="a",
                cloud_name=options.hostname,
                api_key=options.username,
                api_secret=options.password,
                upload_prefix=dict(parse_qsl(options.query))["upload_prefix"],
                timeout=PATIENCE,
            )
            assert [file.read_bytes() for file in Path(directory).iterdir()] == [PNG]
        finally:
            process.send_signal(stop)
        assert process.wait(PATIENCE) == 0
        assert (process.stdout.read(), process.stderr.read()) == ("", "")
    assert not Path(directory).exists()


def test_a_port_that_is_taken_is_one_clear_line(emulator: CloudinaryEmulator) -> None:
    port = int(emulator.upload_prefix.rpartition(":")[2])
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with pytest.raises(Misconfigured, match=rf"^cannot listen at port {port}: .*in use; try another --port$"):
        run_cloudinary(port, print, print)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
