"""The use cases for programs that wait: Flask, Django, scripts.

A `Loop` is an event loop in a thread; each class here runs its asynchronous namesake on it::

    with blocking.Loop() as loop:
        database = loop.enter(PostgresDatabase(url))
        catalogue = blocking.Catalogue(loop, Catalogue(database.queries, database.transactions))
        catalogue.get(1)

A method does what that of the namesake does, and takes and raises the same; it may be called from any
number of threads at once. Where that one gives an asynchronous iterator or context, this one gives an
iterator or a context; where it takes an asynchronous iterable, this one takes any iterable, which is read in
the thread that calls. Iterators free what they hold when they are at their end, closed or let go of.
Whoever wants a method to do something else overrides it in the namesake, which is what is called.
Functions that are handed over, such as `on_rejected`, are called on the loop: they must not wait.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Generator, Iterable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from functools import cached_property, wraps
from typing import Concatenate, Final, Generic, ParamSpec, TypeVar, overload

from watchly_core import access, accounts, api_keys, catalogue, gallery, ports, sessions, uploads
from watchly_core.imports import Row
from watchly_core.loops import TIMEOUT, Loop
from watchly_core.people import Actor
from watchly_core.spools import Spool
from watchly_core.waiting import given

__all__ = [
    "TIMEOUT",
    "Access",
    "Accounts",
    "ApiKeys",
    "Catalogue",
    "DirectUploads",
    "Gallery",
    "ImageFile",
    "Loop",
    "Sessions",
]

A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)
F = TypeVar("F")
P = ParamSpec("P")
T = TypeVar("T")

#: About how many bytes a row has.
_ROW: Final = 256


class Blocking(Generic[A_co]):
    """What runs the methods of `asynchronous` on `loop`.

    Args:
        loop: where they are run.
        asynchronous: has the methods.
    """

    def __init__(self, loop: Loop, asynchronous: A_co) -> None:
        self._loop, self._asynchronous = loop, asynchronous


def calls(method: Callable[Concatenate[A, P], Awaitable[T]]) -> Callable[Concatenate[Blocking[A], P], T]:
    """A method that waits for what `method` of the asynchronous object returns."""

    @wraps(method)
    def call(self: Blocking[A], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._loop.run(_own(self, method), *args, **kwargs)

    return call


def asks(method: Callable[Concatenate[A, P], T]) -> Callable[Concatenate[Blocking[A], P], T]:
    """A method that gives what `method` returns, which does not wait; it is called on the loop as well."""

    @wraps(method)
    def ask(self: Blocking[A], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._loop.call(_own(self, method), *args, **kwargs)

    return ask


def others(
    method: Callable[Concatenate[A, P], T], blocking: Callable[[Loop, T], F]
) -> Callable[Concatenate[Blocking[A], P], F]:
    """A method that gives what `blocking` makes of what `method` returns, which does not wait."""

    @wraps(method)
    def other(self: Blocking[A], /, *args: P.args, **kwargs: P.kwargs) -> F:
        return blocking(self._loop, self._loop.call(_own(self, method), *args, **kwargs))

    return other


def iterates(
    method: Callable[Concatenate[A, P], AsyncIterator[T]],
) -> Callable[Concatenate[Blocking[A], P], Generator[T, None, None]]:
    """A method that gives what the asynchronous iterator of `method` does, one after the other."""

    @wraps(method)
    def iterate(self: Blocking[A], /, *args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
        return self._loop.iterate(self._loop.call(_own(self, method), *args, **kwargs))

    return iterate


def enters(
    method: Callable[Concatenate[A, P], AbstractAsyncContextManager[T]], blocking: Callable[[Loop, T], F]
) -> Callable[Concatenate[Blocking[A], P], AbstractContextManager[F]]:
    """A method that gives the context of `method` as one of what `blocking` makes of its value."""

    @wraps(method)
    @contextmanager
    def enter(self: Blocking[A], /, *args: P.args, **kwargs: P.kwargs) -> Generator[F, None, None]:
        with self._loop.entered(self._loop.call(_own(self, method), *args, **kwargs)) as value:
            yield blocking(self._loop, value)

    return enter


def reads(
    method: Callable[Concatenate[A, AsyncIterable[Row], P], Awaitable[T]],
) -> Callable[Concatenate[Blocking[A], Iterable[Row], P], T]:
    """A method that waits for what `method` returns, and reads rows for it in this thread."""

    @wraps(method)
    def read(self: Blocking[A], rows: Iterable[Row], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._loop.run(_own(self, method), given(rows, lambda _: _ROW), *args, **kwargs)

    return read


@overload
def sends(
    method: Callable[Concatenate[A, F, AsyncIterable[bytes] | Spool, P], Awaitable[T]],
) -> Callable[Concatenate[Blocking[A], F, Iterable[bytes] | Spool, P], T]: ...


@overload
def sends(
    method: Callable[Concatenate[A, F, AsyncIterable[bytes], P], Awaitable[T]],
) -> Callable[Concatenate[Blocking[A], F, Iterable[bytes], P], T]: ...


def sends(
    method: Callable[Concatenate[A, F, AsyncIterable[bytes], P], Awaitable[T]],
) -> Callable[Concatenate[Blocking[A], F, Iterable[bytes], P], T]:
    """A method that waits for what `method` returns, and reads an image for it in this thread."""

    @wraps(method)
    def send(
        self: Blocking[A], first: F, content: Iterable[bytes] | Spool, /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        sent = content if isinstance(content, Spool) else given(content, len)
        own: Callable[Concatenate[F, AsyncIterable[bytes] | Spool, P], Awaitable[T]]
        own = getattr(self._asynchronous, method.__name__)
        return self._loop.run(own, first, sent, *args, **kwargs)

    return send


def _own(blocking: Blocking[A], method: Callable[Concatenate[A, P], T]) -> Callable[P, T]:
    """`method` as the object has it, which may be of a class of the host's own."""
    found: Callable[P, T] = getattr(blocking._asynchronous, method.__name__)  # noqa: SLF001 - one of us
    return found


class Catalogue(Blocking[catalogue.Catalogue]):
    """The use cases on movies; see `watchly_core.Catalogue`."""

    at: Final = others(catalogue.Catalogue.at, lambda *parts: Catalogue(*parts))  # noqa: PLW0108 - it has yet to be made
    over: Final = others(catalogue.Catalogue.over, lambda *parts: Catalogue(*parts))  # noqa: PLW0108 - it has yet to be made
    get: Final = calls(catalogue.Catalogue.get)
    find: Final = calls(catalogue.Catalogue.find)
    count: Final = calls(catalogue.Catalogue.count)
    genres: Final = calls(catalogue.Catalogue.genres)
    export: Final = iterates(catalogue.Catalogue.export)
    history: Final = calls(catalogue.Catalogue.history)
    changes: Final = calls(catalogue.Catalogue.changes)
    last_change: Final = calls(catalogue.Catalogue.last_change)
    add: Final = calls(catalogue.Catalogue.add)
    replace: Final = calls(catalogue.Catalogue.replace)
    revise: Final = calls(catalogue.Catalogue.revise)
    remove: Final = calls(catalogue.Catalogue.remove)
    revert: Final = calls(catalogue.Catalogue.revert)
    prune: Final = calls(catalogue.Catalogue.prune)
    add_many: Final = reads(catalogue.Catalogue.add_many)


class ImageFile(Blocking[ports.ImageFile]):
    """A file that is open for reading; see `ports.ImageFile`."""

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return self._asynchronous.size

    chunks: Final = iterates(ports.ImageFile.chunks)


class DirectUploads(Blocking[uploads.DirectUploads]):
    """The use cases on images that clients send straight to their store; see `uploads.DirectUploads`."""

    issue: Final = calls(uploads.DirectUploads.issue)
    receive: Final = sends(uploads.DirectUploads.receive)
    received: Final = calls(uploads.DirectUploads.received)
    complete: Final = calls(uploads.DirectUploads.complete)
    notified: Final = calls(uploads.DirectUploads.notified)


class Gallery(Blocking[gallery.Gallery]):
    """The use cases on images; see `watchly_core.Gallery`."""

    @property
    def max_bytes(self) -> int:
        """The largest image that is accepted."""
        return self._asynchronous.max_bytes

    @cached_property
    def uploads(self) -> DirectUploads:
        """The use cases on images that clients send straight to the store."""
        return DirectUploads(self._loop, self._asynchronous.uploads)

    attach: Final = sends(gallery.Gallery.attach)
    add: Final = sends(gallery.Gallery.add)
    detach: Final = calls(gallery.Gallery.detach)
    load: Final = enters(gallery.Gallery.load, ImageFile)
    content: Final = calls(gallery.Gallery.content)
    sweep: Final = calls(gallery.Gallery.sweep)
    revive: Final = calls(gallery.Gallery.revive)


class Accounts(Blocking[accounts.Accounts]):
    """The use cases on users; see `watchly_core.Accounts`."""

    add: Final = calls(accounts.Accounts.add)
    me: Final = calls(accounts.Accounts.me)
    get: Final = calls(accounts.Accounts.get)
    find: Final = calls(accounts.Accounts.find)
    revise: Final = calls(accounts.Accounts.revise)
    remove: Final = calls(accounts.Accounts.remove)
    change_password: Final = calls(accounts.Accounts.change_password)


class Sessions(Blocking[sessions.Sessions]):
    """The use cases of signing in; see `watchly_core.Sessions`."""

    sign_in: Final = calls(sessions.Sessions.sign_in)
    refresh: Final = calls(sessions.Sessions.refresh)
    sign_out: Final = calls(sessions.Sessions.sign_out)


class ApiKeys(Blocking[api_keys.ApiKeys]):
    """The use cases on API keys; see `watchly_core.ApiKeys`."""

    add: Final = calls(api_keys.ApiKeys.add)
    add_first: Final = calls(api_keys.ApiKeys.add_first)
    find: Final = calls(api_keys.ApiKeys.find)
    revoke: Final = calls(api_keys.ApiKeys.revoke)
    use: Final = calls(api_keys.ApiKeys.use)
    note_use: Final = calls(api_keys.ApiKeys.note_use)


class Access(Blocking[access.Access]):
    """Tells who a request is from; see `watchly_core.Access`."""

    @property
    def stranger(self) -> Actor:
        """Who has not signed in."""
        return self._asynchronous.stranger

    recent: Final = asks(access.Access.recent)
    actor: Final = calls(access.Access.actor)
