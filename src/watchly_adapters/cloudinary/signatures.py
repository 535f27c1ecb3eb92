"""What is signed beside requests: tickets for clients, and notifications by Cloudinary."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

import msgspec

from watchly_adapters.cloudinary.account import Account, Algorithm
from watchly_core.errors import SignatureRejected
from watchly_core.images import Image, Ticket, require_key

#: How long Cloudinary takes a signed request after its timestamp.
_SIGNED_FOR: Final = timedelta(hours=1)

#: How old a notification may be; Cloudinary repeats one for some minutes until it is received.
_OLDEST: Final = timedelta(hours=2)
#: How far Cloudinary's clock may be ahead of ours.
_AHEAD: Final = timedelta(minutes=5)

_TIMESTAMP: Final = re.compile("[0-9]{1,12}")
_SIGNATURE: Final = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
_ALGORITHMS: Final[Mapping[int, Algorithm]] = {40: "sha1", 64: "sha256"}


class _Notification(msgspec.Struct):
    notification_type: str
    public_id: str


def their_format(name: str) -> str:
    """What Cloudinary calls a format."""
    return "jpg" if name == "jpeg" else name


def our_format(name: str) -> str:
    """What the catalogue calls a format of Cloudinary's."""
    return "jpeg" if name == "jpg" else name


def sign_ticket(
    account: Account, key: str, image: Image, expires_at: datetime, notification_url: str | None
) -> Ticket:
    """A form that Cloudinary takes from anybody until `expires_at`, which is at most an hour ahead.

    Every field is signed. So the image goes to its own place and replaces nothing, is of the format asked
    for, and leaves its metadata behind, where it was taken included; its size cannot be signed.
    """
    require_key(key)
    fields = {
        **account.placed(key),
        "allowed_formats": their_format(image.format),
        "overwrite": "false",
        "transformation": "fl_force_strip",
    }
    if notification_url is not None:
        fields["notification_url"] = notification_url
    # Rounded down, or the ticket would be good for longer than it says.
    timestamp = int((expires_at - _SIGNED_FOR).timestamp())
    address = account.address("image", "upload")
    return Ticket(key, "POST", address, {}, account.signed(fields, timestamp), expires_at)


def read_notification(account: Account, body: bytes, headers: Mapping[str, str], now: datetime) -> str | None:
    """The key of the image whose upload a notification tells of; None if it tells of something else.

    Nothing but the key is taken from it: it was true when it was sent.

    Raises:
        SignatureRejected: it is not signed with the account's secret, or was long ago.
    """
    timestamp, signature = headers.get("x-cld-timestamp", ""), headers.get("x-cld-signature", "")
    if not (_TIMESTAMP.fullmatch(timestamp) and _SIGNATURE.fullmatch(signature)):
        raise SignatureRejected("the notification is not signed")
    signed = hashlib.new(_ALGORITHMS[len(signature)], body)
    signed.update(f"{timestamp}{account.api_secret}".encode())
    if not hmac.compare_digest(signed.hexdigest(), signature):
        raise SignatureRejected("the notification is not signed by Cloudinary for this account")
    age = now.timestamp() - int(timestamp)
    if not -_AHEAD.total_seconds() <= age <= _OLDEST.total_seconds():
        raise SignatureRejected("the notification was signed too long ago, or is not yet")
    try:
        notification = msgspec.json.decode(body, type=_Notification)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return account.key(notification.public_id) if notification.notification_type == "upload" else None
