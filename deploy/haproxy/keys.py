#!/usr/bin/env python3
"""Keeps the keys by which a gateway verifies Watchly's tokens: from its JWKS into PEM files.

HAProxy reads keys when it starts, from files that its configuration names: FOLDER/1.pem to FOLDER/4.pem, the
newest key last. This fetches the keys every so often, and where they have changed writes the files and has
HAProxy load itself anew: what runs has 30 seconds to end. A new key is published ten minutes before it signs.

It needs a Python and nothing else, so that it runs wherever HAProxy does.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import socket
import sys
import time
import urllib.request
from pathlib import Path

#: As many files as haproxy.cfg names. Watchly publishes one key, and two around a rotation.
SLOTS = 4
#: Seconds that an answer may take, and bytes that it may have.
TIMEOUT = 5.0
MOST_BYTES = 100_000
#: Seconds between tries until there are keys for the first time.
HURRY = 1.0

# The curve P-256: y² = x³ - 3x + b modulo p; and what comes before a point of it in a public key (RFC 5480).
_P = 2**256 - 2**224 + 2**192 + 2**96 - 1
_B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
_BEFORE = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")


def fetch(url: str) -> list[str]:
    """The published keys as PEM, oldest first as they are published.

    Raises:
        OSError: nobody answers.
        http.client.HTTPException: what answers does not speak HTTP, or breaks off.
        ValueError: the answer is not a set of such keys.
    """
    with urllib.request.urlopen(url, timeout=TIMEOUT) as reply:  # noqa: S310 - whoever runs it says where
        content = reply.read(MOST_BYTES)
    keys = json.loads(content)["keys"]
    found = [pem(key) for key in keys if key.get("alg") == "ES256"]
    if not found:
        raise ValueError("no key for ES256 is published")
    return found


def pem(key: dict[str, str]) -> str:
    """A public key on P-256 as HAProxy reads it.

    Raises:
        ValueError: it is none, which HAProxy would not start with.
    """
    point = [int.from_bytes(base64.urlsafe_b64decode(key[name] + "=="), "big") for name in ("x", "y")]
    x, y = point
    if key["crv"] != "P-256" or not (0 <= x < _P and 0 <= y < _P) or (y * y - x**3 + 3 * x - _B) % _P:
        raise ValueError("a published key is not on the curve P-256")
    der = _BEFORE + b"\x04" + b"".join(number.to_bytes(32, "big") for number in point)
    text = base64.b64encode(der).decode()
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return "\n".join(["-----BEGIN PUBLIC KEY-----", *lines, "-----END PUBLIC KEY-----", ""])


def write(folder: Path, keys: list[str]) -> bool:
    """Write the newest keys, the last of them into the files that are left over; whether any was new."""
    newest = keys[-SLOTS:]
    changed = False
    folder.mkdir(parents=True, exist_ok=True)
    for slot in range(SLOTS):
        path, text = folder / f"{slot + 1}.pem", newest[min(slot, len(newest) - 1)]
        if not path.exists() or path.read_text(encoding="ascii") != text:
            draft = path.with_suffix(".new")
            draft.write_text(text, encoding="ascii")
            os.replace(draft, path)  # noqa: PTH105 - as short
            changed = True
    return changed


def reload(master: Path) -> None:
    """Have HAProxy read its files again, by the socket of its master (`haproxy -W -S PATH`).

    Raises:
        OSError: the socket does not answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT)
        connection.connect(str(master))
        connection.sendall(b"reload\n")
        connection.recv(1)


def main() -> None:
    """Fetch once, or for ever."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url", help="for example http://watchly:5000/.well-known/jwks.json")
    parser.add_argument("folder", type=Path, help="where HAProxy finds 1.pem to 4.pem")
    parser.add_argument("--master", type=Path, metavar="SOCKET", help="HAProxy's master, told of new keys")
    parser.add_argument("--every", type=float, metavar="SECONDS", help="go on, and fetch them this often")
    given = parser.parse_args()
    changed = False
    while True:
        pause = given.every
        try:
            changed = write(given.folder, fetch(given.url)) or changed
            # A gateway that starts later reads what is there.
            if changed and given.master and given.master.exists():
                reload(given.master)
            changed = False
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, AttributeError) as error:
            sys.stderr.write(f"keys: {given.url}: {error!r}\n")
            if given.every is None:
                sys.exit(1)
            if not (given.folder / f"{SLOTS}.pem").exists():
                pause = min(HURRY, given.every)
        if given.every is None:
            return
        time.sleep(pause)


if __name__ == "__main__":
    main()
