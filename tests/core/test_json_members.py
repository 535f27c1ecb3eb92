"""Reading the members of JSON objects."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from watchly_core.errors import InvalidUser
from watchly_core.json_members import JsonMembers, fault_of
from watchly_core.people import Role, email_of, role_of

FINE = {"email": "ada@films.example", "password": "x"}


def read(value: object) -> tuple[str, str, Role | None, bool]:
    given = JsonMembers(value, InvalidUser, ("email", "password", "role", "cookie"))
    read = (
        given.text("email", email_of, "", required=True),
        given.text("password", str, "", required=True),
        given.text("role", role_of, None),
        given.flag("cookie"),
    )
    given.check()
    return read


def faults_of(value: object) -> Mapping[str | None, str]:
    """The rules that an object breaks, by their places."""
    with pytest.raises(InvalidUser) as invalid:
        read(value)
    return {fault.pointer: fault.code for fault in invalid.value.faults}


@pytest.mark.parametrize(
    ("more", "role", "cookie"),
    [({}, None, False), ({"role": "viewer"}, Role.VIEWER, False), ({"cookie": True}, None, True)],
)
def test_members_are_read_by_their_names(
    more: Mapping[str, object], role: Role | None, *, cookie: bool
) -> None:
    assert read({**FINE, **more}) == (*FINE.values(), role, cookie)


@pytest.mark.parametrize("value", [None, [], "text", 7, True, [FINE]])
def test_what_is_no_object_is_refused(value: object) -> None:
    assert faults_of(value) == {"#": "wrong_type"}


def test_every_fault_is_told_at_once() -> None:
    assert faults_of({"password": None, "role": 7, "Email": "ada@films.example", "cookie": 1}) == {
        "#/email": "required",
        "#/password": "wrong_type",
        "#/role": "wrong_type",
        "#/Email": "unknown_member",
        "#/cookie": "wrong_type",
    }
    assert faults_of({"email": "nobody", "password": "x", "role": "boss"}) == {
        "#/email": "invalid_value",
        "#/role": "invalid_value",
    }


def test_what_is_unknown_is_called_by_its_name_and_by_whose_it_is() -> None:
    with pytest.raises(InvalidUser, match="admin: is not a member of this user"):
        read({**FINE, "admin": True})


@pytest.mark.parametrize(
    ("name", "pointer"),
    [
        ("a/b~c", "#/a~1b~0c"),
        ("é%", "#/%C3%A9%25"),
        ("\ud800", "#/%3F"),
        ("x" * 101, "#/" + "x" * 100 + "%E2%80%A6"),
        ("", "#/"),
    ],
)
def test_a_name_becomes_a_pointer_whatever_is_in_it(name: str, pointer: str) -> None:
    assert fault_of(name, "unknown_member", "is none").pointer == pointer


def test_no_more_faults_are_told_than_somebody_reads() -> None:
    assert len(faults_of({**FINE, **{f"member{number}": 1 for number in range(10_000)}})) == 100
