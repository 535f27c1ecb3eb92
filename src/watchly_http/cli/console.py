"""What the commands have in common: the settings, and talk on standard error."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from typing import TYPE_CHECKING, TypeVar

import click

from watchly_core.errors import Fault, Misconfigured

if TYPE_CHECKING:
    from watchly_adapters.settings import Settings


T = TypeVar("T")


def run(work: Coroutine[object, object, T]) -> T:
    """Do the work of a command, on an event loop of its own."""
    import asyncio

    return asyncio.run(work)


def say(text: str) -> None:
    """Talk to whoever called the command; data goes elsewhere, to standard output."""
    click.echo(text, err=True)


def show(line: object) -> None:
    """Show data: an object as JSON, on a line of its own."""
    import msgspec

    click.echo(msgspec.json.encode(line))


def in_one_line(faults: Iterable[Fault]) -> str:
    """Faults as a message shows them."""
    return "; ".join(map(str, faults))


def read_settings() -> Settings:
    """The settings of the environment.

    Raises:
        Misconfigured: one of them is wrong.
    """
    from watchly_adapters.settings import load_settings

    return load_settings()


def refuse_memory(settings: Settings) -> None:
    """Refuse what makes no sense on a database that ends with the command.

    Raises:
        Misconfigured: it is one.
    """
    if settings.in_memory:
        raise Misconfigured("DATABASE_URL=memory: keeps nothing between commands; name another database")
