"""Passwords: what may be one."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Final

from watchly_core.errors import Fault, InvalidUser

__all__ = ["MAX_PASSWORD", "MIN_PASSWORD"]

#: Code points of a password at least (NIST SP 800-63B, 3.1.1.2) and at most: more would make hashing cost
#: what senders like.
MIN_PASSWORD: Final = 8
MAX_PASSWORD: Final = 1_024


def same_spelling(text: str) -> str:
    """The password in the form that is hashed, the same from every keyboard (NIST SP 800-63B, 3.1.1.2)."""
    return unicodedata.normalize("NFKC", text[: MAX_PASSWORD + 1])


def password_of(text: str, pointer: str = "#/password", email: str = "") -> str:
    """The password as it is hashed.

    Raises:
        InvalidUser: it is too short or too long, one of the first that everybody tries, or no text.
    """
    password = same_spelling(text)
    if fault := _fault(text, password, email.casefold()):
        code, detail = fault
        raise InvalidUser([Fault(code, detail, pointer=pointer)])
    return password


def _fault(text: str, password: str, email: str) -> tuple[str, str] | None:
    if len(password) < MIN_PASSWORD:
        return "too_short", f"must have at least {MIN_PASSWORD} characters"
    if max(len(text), len(password)) > MAX_PASSWORD:
        return "too_long", f"must have at most {MAX_PASSWORD:,} characters"
    if any("\ud800" <= character <= "\udfff" for character in password):
        return "forbidden_character", "must be text"
    folded = password.casefold()
    if folded in common_passwords() or len(set(folded)) == 1:
        return "too_common", "is one of the first that everybody tries"
    if email and folded in {email, email.partition("@")[0]}:
        return "too_common", "must not be the address"
    return None


@cache
def common_passwords() -> frozenset[str]:
    """The passwords that leak most often, folded; see the first line of their file, which is read once."""
    # Loaded when it is needed: it takes longer than most of the core.
    from importlib.resources import files  # noqa: PLC0415 - as above

    text = files("watchly_core").joinpath("common_passwords.txt").read_text("utf-8")
    return frozenset(line for line in text.splitlines() if not line.startswith("#"))
