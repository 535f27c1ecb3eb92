"""A small Cloudinary on a loopback port, for tests and development.

It checks what the real one checks (signatures, timestamps, the order of chunks) and answers with the
same bodies, as far as an image store needs them: upload, destroy, the Admin API's look-up, delivery of
originals. Assets live in a temporary directory and go with it::

    with CloudinaryEmulator() as emulator:
        store = CloudinaryImages.from_url(emulator.url)
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self, TypeAlias
from urllib.parse import quote, unquote, urlsplit

import msgspec

from watchly_adapters.headers import measure
from watchly_core.errors import ImageRejected
from watchly_core.images import Measured

_TIMESTAMPS_HOLD: Final = 3600
_LEAST_CHUNK: Final = 5_000_000
#: What the real one takes in one request.
_LARGEST_REQUEST: Final = 100_000_000
_UNSIGNED: Final = frozenset({"file", "api_key", "signature", "resource_type", "cloud_name"})
_ALGORITHMS: Final[Mapping[int, str]] = {40: "sha1", 64: "sha256"}
_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_VERSION: Final = re.compile(r"v\d+/")


class Request(NamedTuple):
    """What a client asked: `path` is decoded and has no query; header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Reply(NamedTuple):
    """What it is answered."""

    status: int
    body: bytes
    media_type: str = "application/json"


#: Answers a request; another one in front of `CloudinaryEmulator.answer` can make faults.
Answer: TypeAlias = Callable[[Request], Reply]


class Asset(NamedTuple):
    """One asset: its file and what is known of it."""

    file: Path
    measured: Measured
    size: int
    etag: str
    version: int


class _Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message
        super().__init__(message)


class _Parts:
    """The chunks of an upload that is not complete."""

    def __init__(self, file: Path, total: int, public_id: str) -> None:
        self.file, self.total, self.public_id = file, total, public_id
        self.received = 0


class CloudinaryEmulator:
    """Serves one account while it is entered.

    Args:
        cloud_name: the account's cloud.
        api_key: the account's key.
        api_secret: the account's secret.
        max_bytes: the largest image that the account's plan takes.
        port: where to listen; 0 for any free port.

    Attributes:
        answer: what answers each request; put another one there to change or break the replies.
        requests: what was asked so far, as "POST /v1_1/…".
        assets: what is kept, by public id.
    """

    def __init__(
        self,
        cloud_name: str = "emulated",
        api_key: str = "123456789012345",
        api_secret: str = "emulated-Secret_of-27-chars",  # noqa: S107 - it guards nothing
        *,
        max_bytes: int | None = None,
        port: int = 0,
    ) -> None:
        self.cloud_name, self.api_key, self.api_secret = cloud_name, api_key, api_secret
        self._max_bytes = max_bytes
        self._port = port
        self._lock = threading.Lock()
        self._parts: dict[str, _Parts] = {}
        self.answer: Answer = self.account
        self.requests: list[str] = []
        self.assets: dict[str, Asset] = {}

    def __enter__(self) -> Self:
        """Listen."""
        self._directory = tempfile.TemporaryDirectory(prefix="watchly-cloudinary-")
        self._server = _Server(self, self._port)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, and forget everything."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._directory.cleanup()

    @property
    def upload_prefix(self) -> str:
        """Where the API answers."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        """The account as a ``cloudinary://`` URL that leads here."""
        secret = quote(self.api_secret, safe="")
        prefix = quote(self.upload_prefix, safe="")
        return f"cloudinary://{self.api_key}:{secret}@{self.cloud_name}?upload_prefix={prefix}"

    def delivery_url(self, url: str) -> str:
        """Where this server has what `url`, one of Cloudinary's CDN, names."""
        return self.upload_prefix + urlsplit(url).path

    def account(self, request: Request) -> Reply:
        """What the real one would answer."""
        try:
            return self._route(request)
        except _Refused as refused:
            return _json(refused.status, {"error": {"message": refused.message}})

    def _route(self, request: Request) -> Reply:
        match request.method, *request.path.strip("/").split("/"):
            case "POST", "v1_1", cloud, "image", ("upload" | "destroy") as action:
                self._require_cloud(cloud)
                fields, file = _form(request)
                self._require_signature(fields)
                if action == "destroy":
                    return self._destroy(fields)
                return self._upload(fields, file, request.headers)
            case "GET", "v1_1", cloud, "resources", "image", "upload", *public_id:
                self._require_password(request.headers)
                self._require_cloud(cloud)
                return self._look_up("/".join(public_id))
            case "GET", self.cloud_name, "image", "upload", *rest:
                return self._deliver("/".join(rest))
        raise _Refused(404, f"Cannot {request.method} {request.path}")

    def _require_cloud(self, cloud: str) -> None:
        if cloud != self.cloud_name:
            raise _Refused(401, f"Invalid cloud_name {cloud}")

    def _require_password(self, headers: Mapping[str, str]) -> None:
        expected = base64.b64encode(f"{self.api_key}:{self.api_secret}".encode()).decode()
        if not hmac.compare_digest(headers.get("authorization", "").encode(), f"Basic {expected}".encode()):
            raise _Refused(401, "api_secret mismatch")

    def _require_signature(self, fields: Mapping[str, str]) -> None:
        signature = fields.get("signature", "")
        if not signature:
            raise _Refused(400, "Upload preset must be specified when using unsigned upload")
        if fields.get("api_key") != self.api_key:
            raise _Refused(401, f"Invalid api_key {fields.get('api_key')}")
        signed = "&".join(
            f"{name}={value}".replace("&", "%26")
            for name, value in sorted(fields.items())
            if value and name not in _UNSIGNED
        )
        algorithm = _ALGORITHMS.get(len(signature), "sha1")
        expected = hashlib.new(algorithm, f"{signed}{self.api_secret}".encode()).hexdigest()
        if not hmac.compare_digest(signature.encode(), expected.encode()):
            raise _Refused(401, f"Invalid Signature {signature}. String to sign - '{signed}'.")
        timestamp = fields.get("timestamp", "")
        if not timestamp.isdecimal():
            raise _Refused(400, "Missing required parameter - timestamp")
        if abs(time.time() - int(timestamp)) > _TIMESTAMPS_HOLD:
            raise _Refused(400, f"Stale request - reported time is {timestamp} which is more than 1 hour ago")

    def _upload(self, fields: Mapping[str, str], file: bytes | None, headers: Mapping[str, str]) -> Reply:
        if file is None:
            raise _Refused(400, "Missing required parameter - file")
        public_id = fields.get("public_id") or hashlib.sha256(file).hexdigest()[:20]
        if "content-range" not in headers:
            path = self._new_file()
            path.write_bytes(file)
            return self._keep(public_id, path, fields)
        upload_id = headers.get("x-unique-upload-id", "")
        parts = self._append(upload_id, public_id, file, headers["content-range"])
        if parts.received < parts.total:
            return _json(200, {"done": False, "public_id": public_id, "bytes": parts.received})
        with self._lock:
            del self._parts[upload_id]
        return self._keep(public_id, parts.file, fields)

    def _append(self, upload_id: str, public_id: str, chunk: bytes, content_range: str) -> _Parts:
        if not (match := _RANGE.fullmatch(content_range)):
            raise _Refused(400, f"Invalid Content-Range {content_range}")
        first, last, total = map(int, match.groups())
        if not upload_id:
            raise _Refused(400, "Missing X-Unique-Upload-Id header")
        if last + 1 - first != len(chunk) or last >= total:
            raise _Refused(400, f"Content-Range {content_range} does not fit {len(chunk)} bytes")
        if last + 1 < total and len(chunk) < _LEAST_CHUNK:
            raise _Refused(400, "All parts except EOF-chunk must be larger than 5mb")
        self._require_size(total)
        with self._lock:
            parts = self._parts.get(upload_id)
            if parts is None:
                parts = self._parts[upload_id] = _Parts(self._new_file(), total, public_id)
            if (parts.total, parts.public_id, parts.received) != (total, public_id, first):
                raise _Refused(400, f"Unexpected Content-Range {content_range} after {parts.received} bytes")
            with parts.file.open("ab") as file:
                file.write(chunk)
            parts.received = last + 1
        return parts

    def _keep(self, public_id: str, path: Path, fields: Mapping[str, str]) -> Reply:
        size = path.stat().st_size
        if size == 0:
            raise _Refused(400, "Empty file")
        self._require_size(size)
        with path.open("rb") as file:
            try:
                measured = measure(file)
            except ImageRejected:
                raise _Refused(400, "Invalid image file") from None
            etag = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        with self._lock:
            before = self.assets.get(public_id)
            if before and fields.get("overwrite") in {"0", "false"}:
                path.unlink()
                return _json(200, self._described(public_id, before) | {"existing": True})
            version = max(int(time.time()), before.version + 1 if before else 0)
            asset = self.assets[public_id] = Asset(path, measured, size, etag, version)
        if before:
            before.file.unlink()
        return _json(200, self._described(public_id, asset))

    def _destroy(self, fields: Mapping[str, str]) -> Reply:
        if not (public_id := fields.get("public_id")):
            raise _Refused(400, "Missing required parameter - public_id")
        with self._lock:
            asset = self.assets.pop(public_id, None)
        if asset is None:
            return _json(200, {"result": "not found"})
        asset.file.unlink()
        return _json(200, {"result": "ok"})

    def _look_up(self, public_id: str) -> Reply:
        asset = self.assets.get(public_id)
        if asset is None:
            raise _Refused(404, f"Resource not found - {public_id}")
        return _json(200, self._described(public_id, asset))

    def _deliver(self, path: str) -> Reply:
        asset = self.assets.get(_VERSION.sub("", path, count=1))
        if asset is None:
            return Reply(404, b"", "image/gif")
        return Reply(200, asset.file.read_bytes(), f"image/{asset.measured.format}")

    def _described(self, public_id: str, asset: Asset) -> dict[str, str | int | bool]:
        path = f"res.cloudinary.com/{self.cloud_name}/image/upload/v{asset.version}/{public_id}"
        return {
            "asset_id": hashlib.sha256(public_id.encode()).hexdigest()[:32],
            "public_id": public_id,
            "version": asset.version,
            "width": asset.measured.width,
            "height": asset.measured.height,
            "format": asset.measured.format.replace("jpeg", "jpg"),
            "resource_type": "image",
            "type": "upload",
            "bytes": asset.size,
            "etag": asset.etag,
            "url": f"http://{path}",
            "secure_url": f"https://{path}",
        }

    def _require_size(self, size: int) -> None:
        if self._max_bytes is not None and size > self._max_bytes:
            raise _Refused(400, f"File size too large. Got {size}. Maximum is {self._max_bytes}.")

    def _new_file(self) -> Path:
        return Path(self._directory.name) / secrets.token_hex(8)


def _form(request: Request) -> tuple[dict[str, str], bytes | None]:
    """The fields of a multipart form, repeated ones joined by commas, and the content of its file."""
    boundary = request.headers.get("content-type", "").partition("boundary=")[2].strip('"')
    if not boundary:
        raise _Refused(400, "Missing required parameter - file")
    fields: dict[str, str] = {}
    content: bytes | None = None
    for part in (b"\r\n" + request.body).split(b"\r\n--" + boundary.encode())[1:-1]:
        head, _, value = part.partition(b"\r\n\r\n")
        named = re.search(rb'name="([^"]*)"', head)
        if named is None:
            continue
        name = named[1].decode().removesuffix("[]")
        if name == "file":
            content = value
        else:
            fields[name] = ",".join(filter(None, [fields.get(name, ""), value.decode()]))
    return fields, content


def _json(status: int, body: Mapping[str, object]) -> Reply:
    return Reply(status, msgspec.json.encode(body))


class _Server(ThreadingHTTPServer):
    # Joined at the end, once their connections are shut.
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, emulator: CloudinaryEmulator, port: int) -> None:
        self.emulator = emulator
        self._connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)

    def connected(self, connection: socket.socket) -> None:
        self._connections.add(connection)

    def disconnected(self, connection: socket.socket) -> None:
        self._connections.discard(connection)

    def server_close(self) -> None:
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 - the base's
        """Clients may leave at any time; anything else is a fault of this module."""
        if not isinstance(sys.exception(), ConnectionError):
            traceback.print_exc()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body leave together, or the body would wait for the client to acknowledge the head.
    wbufsize = 65536
    server_version = "cloudinary"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.connected(self.connection)

    def finish(self) -> None:
        self.server.disconnected(self.connection)
        super().finish()

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        if length > _LARGEST_REQUEST:
            self.close_connection = True
            self._send(Reply(413, b"<html><h1>413 Request Entity Too Large</h1></html>", "text/html"))
            return
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True
            return
        self._answer(body)

    def _answer(self, body: bytes) -> None:
        emulator = self.server.emulator
        path = unquote(urlsplit(self.path).path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        emulator.requests.append(f"{self.command} {path}")
        self._send(emulator.answer(Request(self.command, path, headers, body)))

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.media_type)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named so by the base class
        """Say nothing: tests are loud enough."""
