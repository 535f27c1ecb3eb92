"""What the stores that sign tickets themselves share."""

import datetime as dt
import hashlib
import hmac

import pytest

from watchly_adapters.testing.image_uploads import Said
from watchly_adapters.tickets import Tickets, image_url
from watchly_core.errors import SignatureRejected
from watchly_core.images import Image

KEY = "3f9a" + "0" * 28
IMAGE = Image(KEY, 0, 0, "avif", 1_000)
ENDS = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)


def test_a_ticket_reads_as_documented() -> None:
    ticket = Tickets("https://films.example", b"secret").ticket(KEY, IMAGE, ENDS)
    signed = f"watchly image upload\n{KEY}\n1772366400".encode()
    signature = hmac.new(b"secret", signed, hashlib.sha256).hexdigest()
    url = f"https://films.example/images/{KEY}?expires=1772366400&signature={signature}"
    assert ticket.url == url
    assert ticket.method == "PUT"
    assert ticket.headers == {"Content-Type": "image/avif"}
    assert ticket.fields == {}
    assert ticket.expires_at == ENDS


def test_times_of_other_zones_are_the_same_times() -> None:
    east = ENDS.astimezone(dt.timezone(dt.timedelta(hours=5, minutes=45)))
    tickets = Tickets("", b"secret")
    assert tickets.ticket(KEY, IMAGE, east).url == tickets.ticket(KEY, IMAGE, ENDS).url


def test_whoever_knows_the_secret_knows_the_tickets() -> None:
    said = Said.by(Tickets("", b"secret").ticket(KEY, IMAGE, ENDS))
    Tickets("https://films.example", b"secret").admit(*said, ENDS)
    with pytest.raises(SignatureRejected):
        Tickets("", b"another").admit(*said, ENDS)


@pytest.mark.parametrize("secret", [None, b""])
def test_without_a_secret_each_makes_its_own(secret: bytes | None) -> None:
    first, second = Tickets("", secret), Tickets("", secret)
    said = Said.by(first.ticket(KEY, IMAGE, ENDS))
    first.admit(*said, ENDS)
    with pytest.raises(SignatureRejected):
        second.admit(*said, ENDS)


def test_the_key_and_the_time_cannot_flow_into_each_other() -> None:
    """What is signed is one text, and says clearly where one ends and the other begins."""
    tickets = Tickets("", b"secret")
    said = Said.by(tickets.ticket(KEY, IMAGE, ENDS))
    for key, expires in [
        (f"{KEY}\n{said.expires}", ""),
        ("", f"{KEY}\n{said.expires}"),
        (f"{KEY}\n1", said.expires[1:]),
        (KEY + said.expires[0], said.expires[1:]),
    ]:
        with pytest.raises(SignatureRejected):
            tickets.admit(key, expires, said.signature, ENDS)


def test_variants_are_asked_for_by_name() -> None:
    assert image_url("", KEY) == f"/images/{KEY}"
    assert (
        image_url("https://films.example", KEY, "card") == f"https://films.example/images/{KEY}?variant=card"
    )
    with pytest.raises(ValueError, match="thumbnail, card"):
        image_url("", KEY, "poster")


def test_odd_keys_are_escaped_in_urls() -> None:
    assert image_url("", "../a b?&é") == "/images/..%2Fa%20b%3F%26%C3%A9"
