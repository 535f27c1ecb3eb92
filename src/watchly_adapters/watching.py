"""Watching: what the parts of a service are at, how long it takes, and how it ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from functools import wraps
from inspect import getmembers, iscoroutinefunction
from typing import Concatenate, Literal, ParamSpec, Protocol, TypeAlias, TypeVar

__all__ = ["Kind", "Watch", "watched"]

#: What a step can be: a use case, a statement of SQL, a call of the image store, a message to a target.
Kind: TypeAlias = Literal["use_case", "statement", "image_store", "publish"]

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")


class Watch(Protocol):
    """Is told of the steps that work takes."""

    def step(self, kind: Kind, name: str) -> AbstractContextManager[object]:
        """A step, for the length of a block; an error that leaves the block is how it ended.

        `name` is one of those that stand in the code, such as ``movies.get``: never what somebody sent.
        """
        ...


def watched(part: T, watch: Watch | None, kind: Kind, names: Mapping[str, str]) -> T:
    """`part`, whose calls with these names are steps from now on, under the names that are given.

    So are those of its copies. The calls are methods that are awaited. It is still of its class, and all else
    about it is as it was. Without a watch nothing is changed.
    """
    if watch is None:
        return part
    base = type(part)
    members = {call: _stepping(getattr(base, call), watch, kind, name) for call, name in names.items()}
    part.__class__ = class_with(base, members, "Watched")
    return part


def class_with(base: type[T], members: Mapping[str, object], prefix: str) -> type[T]:
    """A class like `base`, but for these members of it; a part becomes one of it by its ``__class__``.

    So the price of what is around a call is paid by the parts that have it, and by no others.
    """
    return type(f"{prefix}{base.__name__}", (base,), dict(members))


def calls_of(part: object, noun: str) -> dict[str, str]:
    """All methods of `part` that are for others and awaited, and what they are called, after `noun`."""
    found = getmembers(type(part), iscoroutinefunction)
    return {call: f"{noun}.{call}" for call, _ in found if not call.startswith("_")}


def _stepping(
    method: Callable[Concatenate[T, P], Awaitable[R]], watch: Watch, kind: Kind, name: str
) -> Callable[Concatenate[T, P], Awaitable[R]]:
    @wraps(method)
    async def call(part: T, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with watch.step(kind, name):
            return await method(part, *args, **kwargs)

    return call
