"""The routes of people: one's own account, and for administrators all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from litestar import delete, get, patch, post, put
from litestar.params import FromPath
from msgspec import UNSET

from watchly_core.accounts import DEFAULT_LIMIT
from watchly_core.errors import InvalidUser
from watchly_core.json_members import JsonMembers
from watchly_core.movies import MAX_ID
from watchly_core.passwords import password_of
from watchly_core.people import Actor, Permission, Role, User, UserDraft, UserPatch, email_of, role_of
from watchly_http.addresses import client_address
from watchly_http.answers import Answer, json_answer
from watchly_http.authorization import actor_of
from watchly_http.conditional import Current, conditional_answer, precondition, tagged_answer
from watchly_http.cursors import NumberCursors
from watchly_http.filters import CURSOR
from watchly_http.openapi import IF_MATCH, IF_NONE_MATCH, Operation, Parameter, Reply
from watchly_http.parts import Accounts, Settings
from watchly_http.requests import SMALL_BODY, Parameters, Request, read_id, read_json, vary, whole_number
from watchly_http.routes import Routes

_TAG: Final = "People"
_MERGE_PATCH: Final = ("application/merge-patch+json", "application/json")
_USER_ID: Final = Parameter(
    "user_id", f"The user's id: a plain decimal from 1 to {MAX_ID}.", int, 7, place="path"
)
_LIMIT: Final = Parameter("limit", "How many users to list at most.", int, 20)
#: They say after which id to go on.
_CURSORS: Final = NumberCursors(b"users", "list", MAX_ID)

_encode = msgspec.json.Encoder().encode


class Users(msgspec.Struct):
    """Users in the order of their ids; `next_cursor` is null with the last of them."""

    data: Sequence[User]
    next_cursor: str | None


class PasswordChange(msgspec.Struct, frozen=True, kw_only=True):
    """The password of somebody's own account, and what it is to be."""

    current: str
    new: str


_UNCHANGED: Final = Reply("The user is still at that version.", headers=("ETag",))
_ONE_USER: Final = Reply("The user.", User, headers=("ETag",))
_BODY_PROBLEMS: Final = ("malformed_json", "too_large", "unsupported_media_type", "validation")


class MeController(Routes):
    """One's own account."""

    path = "/api/me"

    @get(
        "/",
        opt=Operation(
            "getMe",
            "Get one's own account",
            needs=Permission.OWN_ACCOUNT,
            tag=_TAG,
            parameters=(IF_NONE_MATCH,),
            replies={200: _ONE_USER, 304: _UNCHANGED},
            problems=("not_found",),
        ).opt(),
    )
    async def get(self, request: Request, accounts: Accounts) -> Answer:
        """Get the account of whoever asks, or to whom the API key belongs; some belong to nobody."""
        user = await accounts.me(actor=actor_of(request))
        # Caches take this address for one thing: what they keep of one user is not what another one gets.
        vary(request, "Authorization")
        return conditional_answer(request, user, f'"{user.id}.v{user.version}"')

    @put(
        "/password",
        status_code=204,
        opt=Operation(
            "changePassword",
            "Change one's own password",
            needs=Permission.OWN_ACCOUNT,
            tag=_TAG,
            body={"application/json": PasswordChange},
            replies={204: Reply("It is changed.")},
            problems=(*_BODY_PROBLEMS, "not_found", "too_many_attempts"),
        ).opt(),
    )
    async def change_password(self, request: Request, accounts: Accounts, settings: Settings) -> None:
        """Change the password, which ends all sessions of the account."""
        given = JsonMembers(await read_json(request, SMALL_BODY), InvalidUser, ("current", "new"))
        current = given.text("current", str, "", required=True)
        new = given.text("new", lambda text: password_of(text, "#/new"), "", required=True)
        given.check()
        address = client_address(request.scope, settings.trusted_proxies)
        await accounts.change_password(current, new, address=address, actor=actor_of(request))


class UserController(Routes):
    """All accounts."""

    path = "/api/users"

    @get(
        "/",
        opt=Operation(
            "listUsers",
            "List users",
            needs=Permission.MANAGE_PEOPLE,
            tag=_TAG,
            parameters=(_LIMIT, CURSOR),
            replies={200: Reply("A page of users; `next_cursor` is null on the last one.", Users)},
            problems=("malformed_request", "invalid_parameter"),
        ).opt(),
    )
    async def find(self, request: Request, accounts: Accounts, settings: Settings) -> Answer:
        """List users in the order of their ids, a page at a time."""
        given = Parameters(request, ("limit", "cursor"))
        largest = settings.max_page_limit
        limit = given.get("limit", whole_number(1, largest), min(DEFAULT_LIMIT, largest))
        after = given.get("cursor", _CURSORS.reader(), 0)
        given.check()
        found = await accounts.find(after=after, limit=limit + 1, actor=actor_of(request))
        data = found[:limit]
        cursor = _CURSORS.write(data[-1].id) if len(found) > limit else None
        return json_answer(_encode(Users(data, cursor)))

    @post(
        "/",
        opt=Operation(
            "addUser",
            "Add a user",
            needs=Permission.REGISTER,
            tag=_TAG,
            body={"application/json": UserDraft},
            replies={201: Reply("The user.", User, headers=("ETag", "Location"))},
            problems=(*_BODY_PROBLEMS, "not_allowed", "email_taken", "too_many_attempts"),
        ).opt(),
    )
    async def add(self, request: Request, accounts: Accounts, settings: Settings) -> Answer:
        """Add a user; where registration is open, anybody may add a viewer."""
        draft = _draft(await read_json(request, SMALL_BODY))
        address = client_address(request.scope, settings.trusted_proxies)
        user = await accounts.add(draft, address=address, actor=actor_of(request))
        return tagged_answer(user, (b"location", b"/api/users/%d" % user.id), status=201)

    @get(
        "/{user_id:str}",
        opt=Operation(
            "getUser",
            "Get a user",
            needs=Permission.MANAGE_PEOPLE,
            tag=_TAG,
            parameters=(_USER_ID, IF_NONE_MATCH),
            replies={200: _ONE_USER, 304: _UNCHANGED},
            problems=("not_found",),
        ).opt(),
    )
    async def get(self, request: Request, user_id: FromPath[str], accounts: Accounts) -> Answer:
        """Get a user."""
        user = await accounts.get(read_id(user_id, "user"), actor=actor_of(request))
        return conditional_answer(request, user)

    @patch(
        "/{user_id:str}",
        opt=Operation(
            "reviseUser",
            "Revise a user",
            needs=Permission.MANAGE_PEOPLE,
            tag=_TAG,
            parameters=(_USER_ID, IF_MATCH),
            body=dict.fromkeys(_MERGE_PATCH, UserPatch),
            replies={200: _ONE_USER},
            problems=(
                *_BODY_PROBLEMS,
                "malformed_request",
                "not_found",
                "email_taken",
                "last_admin",
                "version_conflict",
            ),
        ).opt(),
    )
    async def revise(self, request: Request, user_id: FromPath[str], accounts: Accounts) -> Answer:
        """Change the fields that are given (RFC 7396); a new password ends all sessions of the user."""
        value = await read_json(request, SMALL_BODY, _MERGE_PATCH)
        wanted = precondition(request)
        number, actor = read_id(user_id, "user"), actor_of(request)
        await accounts.get(number, actor=actor)  # a user who is not there is said first
        wish = _patch(value)
        version = await wanted.version(_of_user(number, accounts, actor))
        return tagged_answer(await accounts.revise(number, wish, version=version, actor=actor))

    @delete(
        "/{user_id:str}",
        opt=Operation(
            "removeUser",
            "Remove a user",
            needs=Permission.MANAGE_PEOPLE,
            tag=_TAG,
            parameters=(_USER_ID, IF_MATCH),
            replies={204: Reply("The user is gone.")},
            problems=("malformed_request", "not_found", "last_admin", "version_conflict"),
        ).opt(),
    )
    async def remove(self, request: Request, user_id: FromPath[str], accounts: Accounts) -> None:
        """Remove a user, with all sessions and API keys."""
        wanted = precondition(request)
        number, actor = read_id(user_id, "user"), actor_of(request)
        version = await wanted.version(_of_user(number, accounts, actor))
        await accounts.remove(number, version=version, actor=actor)


def _of_user(user_id: int, accounts: Accounts, actor: Actor) -> Current:
    """Asks for the version that a user is at."""

    async def current() -> int:
        return (await accounts.get(user_id, actor=actor)).version

    return current


def _draft(value: object) -> UserDraft:
    given = JsonMembers(value, InvalidUser, ("email", "password", "role"))
    draft = UserDraft(
        email=given.text("email", email_of, "", required=True),
        password=given.text("password", password_of, "", required=True),
        role=given.text("role", role_of, Role.VIEWER),
    )
    given.check()
    return draft


def _patch(value: object) -> UserPatch:
    given = JsonMembers(value, InvalidUser, ("email", "password", "role"))
    wish = UserPatch(
        email=given.text("email", email_of, UNSET),
        password=given.text("password", password_of, UNSET),
        role=given.text("role", role_of, UNSET),
    )
    given.check()
    return wish
