"""What may be a password."""

from __future__ import annotations

import pytest

from watchly_core.errors import InvalidUser
from watchly_core.passwords import MAX_PASSWORD, MIN_PASSWORD, password_of, same_spelling

EMAIL = "ada.lovelace@films.example"


def code_of(text: str, email: str = EMAIL) -> str:
    """By which rule a text is refused; the error does not show it."""
    with pytest.raises(InvalidUser) as invalid:
        password_of(text, "#/new", email)
    (fault,) = invalid.value.faults
    assert fault.pointer == "#/new"
    assert not text or text not in str(invalid.value)
    return fault.code


@pytest.mark.parametrize(
    "text",
    [
        "8 chars.",
        "ab" * (MAX_PASSWORD // 2),
        "\u043f\u0430\u0440\u043e\u043b\u044c12",
        "🎬🎥" * 4,
        " leading and trailing ",
        "NUL \x00 and the like\n",
        "password-but-longer",
    ],
)
def test_a_password_is_kept_whole(text: str) -> None:
    assert password_of(text, email=EMAIL) == text


def test_a_password_is_the_same_from_every_keyboard() -> None:
    assert password_of("cafe\u0301-et-the\u0301") == password_of("café-et-thé")
    assert same_spelling("cafe\u0301-et-the\u0301") == password_of("café-et-thé")


@pytest.mark.parametrize("text", ["", "1234567", "e\u0301" * (MIN_PASSWORD - 1)])
def test_a_short_one_is_refused_however_it_is_spelled(text: str) -> None:
    assert code_of(text) == "too_short"


@pytest.mark.parametrize("text", ["ab" * MAX_PASSWORD, "ab" * (MAX_PASSWORD // 2) + "c", "\ufdfa" * 100])
def test_one_that_would_cost_much_to_hash_is_refused(text: str) -> None:
    assert code_of(text) == "too_long"


@pytest.mark.parametrize(
    "text", ["password", "PassWord", "12345678", "QWERTYUIOP", "\uff50assword", "xxxxxxxx", "XxXxXxXx"]
)
def test_what_everybody_tries_first_is_refused(text: str) -> None:
    assert code_of(text) == "too_common"


@pytest.mark.parametrize("text", [EMAIL, EMAIL.upper(), "ada.lovelace", "Ada.Lovelace"])
def test_the_address_is_no_password(text: str) -> None:
    assert code_of(text) == "too_common"
    assert password_of(text, email="grace@films.example") == text


def test_what_is_no_text_is_refused() -> None:
    assert code_of("\ud800" + "a fine password") == "forbidden_character"


@pytest.mark.parametrize("length", [MAX_PASSWORD + 1, 1_000_000])
def test_what_is_hashed_of_anything_sent_is_bounded(length: int) -> None:
    """Who signs in may send anything; that it is too long must show as a password that is not theirs."""
    assert len(same_spelling("ab" * length)) == MAX_PASSWORD + 1
