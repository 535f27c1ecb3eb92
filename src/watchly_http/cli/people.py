"""Commands on people: tokens for this machine, accounts, the keys that sign tokens."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import click

from watchly_core.errors import Misconfigured
from watchly_core.passwords import MAX_PASSWORD
from watchly_core.people import SYSTEM, Role, UserDraft, email_of
from watchly_http.cli.console import duration, read_settings, require_kept, run, show

if TYPE_CHECKING:
    from watchly_adapters.container import Container
    from watchly_adapters.settings import Settings

#: Bytes of a line that are read as a password: more than any that is accepted has.
_MOST_LINE: Final = 8 * MAX_PASSWORD

_ROLES: Final = click.Choice([role.value for role in Role])


@click.command()
@click.option("--role", type=_ROLES, default="admin", show_default=True, help="What its bearer may do.")
@click.option("--ttl", default="1h", show_default=True, help="How long it is good for, at most 24 hours.")
def token(role: str, ttl: str) -> None:
    """Print a token of the service itself, for requests with `Authorization: Bearer`.

    It cannot be taken back but by `watchly keys rotate --at-once`.

    \b
    Examples:
      TOKEN=$(watchly token)
      watchly token --role viewer --ttl 15m
    """
    good_for = _ttl(ttl)
    settings = _settings()

    async def sign(container: Container) -> None:
        from watchly_core.clocks import utc_now
        from watchly_core.tokens import Claims

        signed = await container.signing_keys().signer()
        now = utc_now()
        click.echo(signed(Claims(SYSTEM.name, Role(role), now, now + good_for)))

    _with_people(settings, sign)


@click.group()
def user() -> None:
    """Accounts of people."""


@user.command(name="add")
@click.argument("email")
@click.option("--role", type=_ROLES, default="viewer", show_default=True, help="What the user may do.")
def add_user(email: str, role: str) -> None:
    """Make an account, whose password is asked for; elsewhere than on a terminal it is the line on stdin.

    The account is shown as JSON.

    \b
    Examples:
      watchly user add ada@films.example --role editor
      watchly user add ada@films.example < password.txt
    """
    settings = _settings()
    if sys.stdin.isatty():
        email_of(email)  # nobody should type a password twice for an address that is none
    draft = UserDraft(email=email, password=_password(), role=Role(role))

    async def add(container: Container) -> None:
        show(await container.accounts().add(draft))

    _with_people(settings, add)


@click.group()
def keys() -> None:
    """The keys that sign tokens, whose public halves are at /.well-known/jwks.json."""


@keys.command()
@click.option("--at-once", is_flag=True, help="Refuse from now on what the old keys signed: one has leaked.")
def rotate(*, at_once: bool) -> None:
    """Make a new key that signs tokens; shows its id, and from when it signs.

    It signs once whoever keeps the public keys can have heard of it, and what the old ones signed stays
    good until it ends by itself.

    \b
    Examples:
      watchly keys rotate
      watchly keys rotate --at-once
    """
    settings = _settings()

    async def make(container: Container) -> None:
        key = await container.signing_keys().rotate(at_once=at_once)
        show({"kid": key.kid, "signs_from": key.signs_from})

    _with_people(settings, make)


def _settings() -> Settings:
    settings = read_settings()
    require_kept(settings, "people")
    return settings


def _with_people(settings: Settings, do: Callable[[Container], Awaitable[None]]) -> None:
    from watchly_http.running import entered, running_database, with_secret

    async def with_parts(prepared: Settings) -> None:
        async with entered(prepared) as container:
            await do(container)

    with running_database(with_secret(settings)) as (prepared, _):
        run(with_parts(prepared))


def _ttl(text: str) -> timedelta:
    """How long a token is to be good for.

    Raises:
        Misconfigured: the text says nothing of the kind, or too much.
    """
    from watchly_core.tokens import MOST_ACCESS

    good_for = duration("--ttl", text, "15m")
    if not timedelta(0) < good_for <= MOST_ACCESS:
        raise Misconfigured("--ttl must be more than 0 and at most 24 h; an example: --ttl 15m")
    return good_for


def _password() -> str:
    """The password that is typed twice, and not shown, or else the first line on stdin."""
    if sys.stdin.isatty():
        typed: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        return typed
    line = sys.stdin.buffer.readline(_MOST_LINE)
    # What is no text stays so, and is refused as that.
    return line.removesuffix(b"\n").removesuffix(b"\r").decode(errors="surrogateescape")
