"""Faults that the emulator makes on demand, one after the other or by chance."""

from __future__ import annotations

import collections
import enum
import random
import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Final, Literal, NamedTuple, TypeAlias, get_args

import msgspec

from watchly_adapters.testing.cloudinary.messages import Reply, refusal

#: What clients ask for.
Action: TypeAlias = Literal["upload", "destroy", "resource", "delivery"]
ACTIONS: Final[frozenset[Action]] = frozenset(get_args(Action))


class Fault(enum.Enum):
    """What can go wrong with a request. Those that say so come after it was done as asked."""

    RATE_LIMITED = "420, as Cloudinary says that there were too many requests"
    TOO_MANY = "429, as everyone else does"
    SERVER_ERROR = "500"
    TIMEOUT = "never an answer"
    GARBAGE = "200 with a page of HTML"
    REFUSED = "the connection is closed before anything was read"
    DOWN = "this request and all others are refused until `Faults.up`"
    TRICKLE = "done, and answered a byte at a time"
    LYING = "done, and answered with a sound reply about something else"
    TRUNCATED = "done, and cut off in the middle of the answer"
    LOST = "done, and the connection closed without an answer"

    def on(self, *actions: Action) -> Scripted:
        """This fault, for such requests only."""
        return Scripted(self, frozenset(actions))


class Scripted(NamedTuple):
    """A fault and the requests that it may befall."""

    fault: Fault
    actions: Collection[Action] = ACTIONS


#: What comes by chance unless it is told otherwise: all that ends by itself, and soon.
_BRIEF: Final = tuple(fault for fault in Fault if fault not in {Fault.DOWN, Fault.TIMEOUT, Fault.TRICKLE})


class Faults:
    """The faults to come; requests that are none of `ACTIONS` meet only `Fault.DOWN`.

    Attributes:
        pause: seconds between the bytes of a trickling answer.
    """

    def __init__(self) -> None:
        self.pause: float = 0.05
        self._lock = threading.Lock()
        self._script: collections.deque[Scripted] = collections.deque()
        self._chance: _Chance | None = None
        self._is_down = False
        self._made: collections.Counter[Fault] = collections.Counter()

    def script(self, *faults: Fault | Scripted) -> None:
        """Let the next requests meet these, in their order; each waits for a request that it may befall."""
        with self._lock:
            self._script.extend(Scripted(fault) if isinstance(fault, Fault) else fault for fault in faults)

    def at_random(
        self,
        rate: float,
        seed: int,
        kinds: Collection[Fault] = _BRIEF,
        actions: Collection[Action] = ACTIONS,
    ) -> None:
        """Let a share of requests, from 0 to 1, meet one of `kinds`, where the script has none for them."""
        with self._lock:
            # Chance is to be repeated, not to be secret; sets have another order in each process.
            among = sorted(kinds, key=lambda fault: fault.name)
            self._chance = _Chance(rate, random.Random(seed), among, frozenset(actions))  # noqa: S311

    def down(self) -> None:
        """Refuse every request until `up`."""
        with self._lock:
            self._is_down = True

    def up(self) -> None:
        """Answer again."""
        with self._lock:
            self._is_down = False

    def clear(self) -> None:
        """Make no more faults."""
        with self._lock:
            self._script.clear()
            self._chance, self._is_down = None, False

    @property
    def waiting(self) -> int:
        """How many of the script have not been met."""
        return len(self._script)

    @property
    def made(self) -> Mapping[Fault, int]:
        """How often each fault was made."""
        with self._lock:
            return dict(self._made)

    def take(self, action: Action | None) -> Fault | None:
        """What the present request meets."""
        with self._lock:
            fault = Fault.DOWN if self._is_down else self._next(action)
            if fault is Fault.DOWN:
                self._is_down = True
            if fault is not None:
                self._made[fault] += 1
            return fault

    def _next(self, action: Action | None) -> Fault | None:
        if action is None:
            return None
        for scripted in self._script:
            if action in scripted.actions:
                self._script.remove(scripted)
                return scripted.fault
        return None if self._chance is None else self._chance.take(action)


class _Chance(NamedTuple):
    rate: float
    random: random.Random
    kinds: Sequence[Fault]
    actions: Collection[Action]

    def take(self, action: Action) -> Fault | None:
        if action not in self.actions or self.random.random() >= self.rate:
            return None
        return self.random.choice(self.kinds)


def instead(fault: Fault) -> Reply | None:
    """What is answered instead of doing as asked; None for the faults of another sort."""
    match fault:
        case Fault.RATE_LIMITED:
            return refusal(420, "Rate Limit Exceeded. Try again later")
        case Fault.TOO_MANY:
            return refusal(429, "Too many requests")
        case Fault.SERVER_ERROR:
            return refusal(500, "General Error")
        case Fault.GARBAGE:
            return Reply(200, b"<!DOCTYPE html><title>Sign in to this network</title>", "text/html")
    return None


def lie(reply: Reply) -> Reply:
    """The reply to another request."""
    with reply.opened():
        pass
    if reply.media_type != "application/json":
        return Reply(reply.status, b"something else", reply.media_type)
    body = msgspec.json.decode(reply.body, type=dict[str, object])
    for name, other in {"public_id": "something/else", "bytes": 1, "result": "something else"}.items():
        if name in body:
            body[name] = other
    return Reply(reply.status, msgspec.json.encode(body), reply.media_type, reply.headers)
