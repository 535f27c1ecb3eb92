"""What the commands have in common: the settings, and talk on standard error."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeVar

import click

from watchly_core.errors import Fault, Misconfigured

if TYPE_CHECKING:
    import asyncio

    from watchly_adapters.databases import Kept
    from watchly_adapters.settings import Settings


T = TypeVar("T")

#: The ways of asking a process to stop.
_STOPS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(work: Coroutine[object, object, T]) -> T:
    """Do the work of a command, on an event loop of its own."""
    import asyncio

    return asyncio.run(work)


@contextmanager
def stoppable() -> Iterator[Callable[[], None]]:
    """A command that goes on until it is told to stop: to be told so, however and whenever, is no failure.

    Once is enough: told again, it would be torn from putting things in order, and what is left of that then
    waits at the end of the interpreter, for ever, for locks of threads that are no more. But Python drops
    what is raised in the midst of a destructor: so the block calls, now and then, what it is given.
    """
    told = False

    def stop(number: int, frame: object) -> None:
        nonlocal told
        del number, frame  # all of them mean the same
        told = True
        for each in _STOPS:
            signal.signal(each, lambda *_: None)
        raise KeyboardInterrupt

    def end_if_told() -> None:
        if told:
            raise KeyboardInterrupt

    for number in _STOPS:
        signal.signal(number, stop)
    try:
        yield end_if_told
    except KeyboardInterrupt:
        sys.exit(0)
    finally:
        # At its very end Python lets signals that it handles kill it, but not those that are ignored.
        for number in _STOPS:
            signal.signal(number, signal.SIG_IGN)


def run_until_told(work: Callable[[asyncio.Event], Coroutine[object, object, None]]) -> None:
    """Do the work of such a command, which ends when the event is set.

    After that signals stay caught and change nothing, so that what was started can be stopped in peace.
    """
    import asyncio

    async def work_on() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()

        def end(number: int, frame: object) -> None:
            del number, frame  # all of them mean the same
            if not loop.is_closed():
                loop.call_soon_threadsafe(stop.set)

        # Not the loop's own way, which gives the signals back at its end.
        for number in _STOPS:
            signal.signal(number, end)
        await work(stop)

    asyncio.run(work_on())


def duration(option: str, text: str, example: str) -> timedelta:
    """The time that an option names.

    Raises:
        Misconfigured: it names none.
    """
    from watchly_adapters import setting_values as parse

    try:
        return parse.duration(text.strip())
    except ValueError as error:
        raise Misconfigured(f"{option} {error}; an example: {option} {example}") from None


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


def require_postgres(settings: Settings) -> None:
    """Refuse what is done to the tables of PostgreSQL alone, on any other database.

    Raises:
        Misconfigured: it is another one.
    """
    refuse_memory(settings)
    if not settings.in_postgres:
        raise Misconfigured(
            "this command is for PostgreSQL, and DATABASE_URL names another store;"
            " an example: DATABASE_URL=postgresql://user:password@localhost/watchly"
        )


def require_kept(settings: Settings, needed: Kept) -> None:
    """Refuse what needs more than the store keeps, before anything is asked for or done.

    Raises:
        Misconfigured: it does not keep it, or ends with the command.
        Unavailable: nobody knows, for it does not answer.
    """
    from watchly_adapters.databases import WORDS
    from watchly_http.running import traits

    refuse_memory(settings)
    if needed not in traits(settings).keeps:
        raise Misconfigured(
            f"this command needs a store that keeps {WORDS[needed]}, and that of DATABASE_URL does not;"
            " an example: DATABASE_URL=postgresql://user:password@localhost/watchly"
        )


def refuse_memory(settings: Settings) -> None:
    """Refuse what makes no sense on a database that ends with the command.

    Raises:
        Misconfigured: it is one.
    """
    if settings.in_memory:
        raise Misconfigured("DATABASE_URL=memory: keeps nothing between commands; name another database")
