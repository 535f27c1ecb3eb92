"""Asking the emulator of Cloudinary by hand, as browsers and other clients do."""

import hashlib
import http.client
import json
import time
from collections.abc import Mapping
from contextlib import closing
from typing import NamedTuple

from watchly_adapters.testing import samples
from watchly_adapters.testing.cloudinary import CloudinaryEmulator

PNG = samples.png(1_000)
#: Longer than anything here takes; what hangs fails by it.
PATIENCE = 30


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def json(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.content)
        return found

    @property
    def error(self) -> str:
        """What went wrong, as the body and the header say alike."""
        error = self.json["error"]
        assert isinstance(error, dict)
        in_ascii = " ".join(error["message"].split()).encode("ascii", "backslashreplace").decode()
        assert self.headers["x-cld-error"] == in_ascii
        return str(error["message"])


def ask(
    emulator: CloudinaryEmulator,
    method: str,
    path: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
) -> Answer:
    address = emulator.upload_prefix.removeprefix("http://")
    with closing(http.client.HTTPConnection(address, timeout=PATIENCE)) as connection:
        connection.request(method, path, body, dict(headers or {}))
        reply = connection.getresponse()
        names = {name.lower(): value for name, value in reply.getheaders()}
        return Answer(reply.status, names, reply.read())


def signed(emulator: CloudinaryEmulator, /, *, algorithm: str = "sha1", **fields: str) -> dict[str, str]:
    """Fields with a signature by the documented rule."""
    given = {"timestamp": str(int(time.time())), "public_id": "a", **fields}
    text = "&".join(f"{name}={value}".replace("&", "%26") for name, value in sorted(given.items()))
    signature = hashlib.new(algorithm, (text + emulator.api_secret).encode()).hexdigest()
    return {**given, "api_key": emulator.api_key, "signature": signature}


def form(fields: Mapping[str, str], file: bytes | None) -> tuple[bytes, dict[str, str]]:
    parts = [f'form-data; name="{name}"\r\n\r\n{value}'.encode() for name, value in fields.items()]
    if file is not None:
        parts.append(b'form-data; name="file"; filename="poster.png"\r\n\r\n' + file)
    body = b"".join(b"--line\r\nContent-Disposition: " + part + b"\r\n" for part in parts) + b"--line--\r\n"
    return body, {"Content-Type": "multipart/form-data; boundary=line"}


def send(
    emulator: CloudinaryEmulator,
    fields: Mapping[str, str],
    file: bytes | None = PNG,
    *,
    action: str = "upload",
    headers: Mapping[str, str] | None = None,
) -> Answer:
    body, of_form = form(fields, file)
    return ask(
        emulator, "POST", f"/v1_1/{emulator.cloud_name}/image/{action}", body, of_form | dict(headers or {})
    )


def upload(emulator: CloudinaryEmulator, file: bytes = PNG, /, **fields: str) -> Answer:
    """An upload that succeeds."""
    answer = send(emulator, signed(emulator, **fields), file)
    assert answer.status == 200, answer.content
    return answer


def refused(emulator: CloudinaryEmulator, file: bytes = PNG, /, **fields: str) -> str:
    """An upload that fails, and why."""
    before = dict(emulator.assets)
    answer = send(emulator, signed(emulator, **fields), file)
    assert answer.status == 400
    assert dict(emulator.assets) == before
    assert len(list(emulator.directory.iterdir())) == len(before), "files without an asset"
    return answer.error


def account(emulator: CloudinaryEmulator, **more: object) -> dict[str, object]:
    return {
        "cloud_name": emulator.cloud_name,
        "api_key": emulator.api_key,
        "api_secret": emulator.api_secret,
        "upload_prefix": emulator.upload_prefix,
        "timeout": PATIENCE,
        **more,
    }
