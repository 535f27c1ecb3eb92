"""Who may do what, and what an account is."""

from __future__ import annotations

import datetime as dt
from itertools import pairwise
from time import perf_counter

import pytest

from watchly_core.api_keys import lesser
from watchly_core.errors import InvalidUser, NotAllowed, NotSignedIn
from watchly_core.people import (
    MAX_EMAIL,
    PERMISSIONS,
    SYSTEM,
    Account,
    Actor,
    Permission,
    Role,
    User,
    UserDraft,
    UserPatch,
    email_of,
    stranger,
)

VIEWER = {Permission.READ, Permission.OWN_ACCOUNT}
MAY = {
    None: set[Permission](),
    Role.VIEWER: VIEWER,
    Role.EDITOR: VIEWER | {Permission.WRITE},
    Role.ADMIN: VIEWER | {Permission.WRITE, Permission.REGISTER, Permission.MANAGE_PEOPLE, Permission.SWEEP},
}
OPEN = frozenset({Permission.READ, Permission.REGISTER})


def check(actor: Actor, permission: Permission, *, allowed: bool) -> None:
    """See that an actor may do this, or is refused by the error that says why."""
    assert actor.may(permission) is allowed
    if allowed:
        actor.require(permission)
        return
    with pytest.raises(NotSignedIn if actor.role is None else NotAllowed) as refused:
        actor.require(permission)
    if isinstance(refused.value, NotAllowed):
        assert refused.value.permission == permission.value


@pytest.mark.parametrize("role", [None, *Role])
@pytest.mark.parametrize("permission", Permission)
def test_a_role_grants_what_the_table_says_and_no_more(role: Role | None, permission: Permission) -> None:
    check(Actor("user:1", role, 1), permission, allowed=permission in MAY[role])


@pytest.mark.parametrize("role", [None, *Role])
@pytest.mark.parametrize("permission", Permission)
def test_what_everybody_may_do_is_added_to_what_a_role_grants(
    role: Role | None, permission: Permission
) -> None:
    allowed = permission in MAY[role] | OPEN
    check(Actor("user:1", role, 1, OPEN), permission, allowed=allowed)


def test_each_role_may_do_what_the_ones_before_it_may() -> None:
    grants = [PERMISSIONS[role] for role in Role]
    assert all(less < more for less, more in pairwise(grants))


def test_the_service_itself_may_do_everything_and_a_stranger_what_everybody_may() -> None:
    assert all(SYSTEM.may(permission) for permission in Permission)
    assert not any(stranger().may(permission) for permission in Permission)
    assert {permission for permission in Permission if stranger(OPEN).may(permission)} == OPEN
    assert stranger(OPEN).name == "anonymous"
    assert stranger(OPEN).user_id is None


def test_a_user_acts_by_the_role_of_its_account() -> None:
    user = User(7, "ada@films.example", Role.EDITOR, dt.datetime(2026, 1, 1, tzinfo=dt.UTC), 1)
    assert user.actor == Actor("user:7", Role.EDITOR, 7)


@pytest.mark.parametrize(
    ("text", "email"),
    [
        ("ada@films.example", "ada@films.example"),
        ("  Ada@Films.EXAMPLE ", "ada@films.example"),
        ("\uff41da@films.example", "ada@films.example"),
        ("é@ü.example", "é@ü.example"),
        ("e\u0301@films.example", "é@films.example"),
        ("a+b.c!#$@localhost", "a+b.c!#$@localhost"),
    ],
)
def test_an_address_is_kept_in_one_spelling(text: str, email: str) -> None:
    assert email_of(text) == email
    assert email_of(email) == email


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ada",
        "@films.example",
        "ada@",
        "a@b@c",
        "a b@c",
        "a@b c",
        "a@b\n",
        "a\x00@b",
        "<a@b>",
        "a@b,c@d",
        "a" * 65 + "@b",
        "\u200ba@b",
    ],
)
def test_what_is_no_address_is_refused_by_its_name(text: str) -> None:
    if text == "a@b\n":
        assert email_of(text) == "a@b"
        return
    with pytest.raises(InvalidUser) as invalid:
        email_of(text)
    assert [fault.pointer for fault in invalid.value.faults] == ["#/email"]


def test_an_address_has_a_length_at_most() -> None:
    domain = "b" * (MAX_EMAIL - 2)
    assert len(email_of(f"a@{domain}")) == MAX_EMAIL
    with pytest.raises(InvalidUser, match="at most 254"):
        email_of(f"a@{domain}b")


def test_how_an_address_is_spelled_costs_no_time_of_others() -> None:
    marks = "\u0301" * 7_000 + "\u0327" * 7_000  # in the order that takes the most time: a third of a second
    began = perf_counter()
    with pytest.raises(InvalidUser, match="at most 254"):
        email_of(f"a{marks}@films.example")
    assert perf_counter() - began < 0.05


def test_nothing_that_is_printed_shows_a_password_or_what_it_became() -> None:
    user = User(7, "ada@films.example", Role.EDITOR, dt.datetime(2026, 1, 1, tzinfo=dt.UTC), 1)
    shown = [
        repr(Account(user, "canary")),
        repr(UserDraft(email="ada@films.example", password="canary")),
        repr(UserPatch(password="canary")),
    ]
    assert "canary" not in "".join(shown)
    assert shown[1] == "UserDraft('ada@films.example', <Role.VIEWER: 'viewer'>)"


@pytest.mark.parametrize("one", Role)
@pytest.mark.parametrize("other", Role)
def test_the_lesser_of_two_roles_may_do_less(one: Role, other: Role) -> None:
    roles = list(Role)
    assert lesser(one, other) is roles[min(roles.index(one), roles.index(other))]
