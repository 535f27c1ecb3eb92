"""Contention: a transaction that was undone because another one was in its way is begun anew.

It is what a method does as a whole that is done again: it reads what it goes by once more, and the clock as
well. So such a method is one transaction, and nothing besides that may not be done twice: what streams, or
tells others, stays outside of it, and so does any other method of the kind. Whether what was lost on its way
was done is not known; that is never repeated here.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Final, ParamSpec, TypeVar

from watchly_core.errors import Contended

P = ParamSpec("P")
T = TypeVar("T")

#: Seconds before the second try and before the third, which is the last; each is spread, or those who were in
#: each other's way would meet again.
_PAUSES: Final = (0.02, 0.1)
#: How often a transaction is tried.
TRIES: Final = len(_PAUSES) + 1


def repeated(transaction: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[object, object, T]]:
    """`transaction`, begun anew when it was undone for the sake of another one, which makes `TRIES` at most.

    A host's own transaction is none of ours to begin: what goes wrong there is raised at once.

    Raises:
        Contended: others were in the way each time, or once in a host's transaction; nothing was done.
    """

    @wraps(transaction)
    async def begun(*args: P.args, **kwargs: P.kwargs) -> T:
        for pause in _PAUSES:
            try:
                return await transaction(*args, **kwargs)
            except Contended as error:
                if error.joined:
                    raise
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
        return await transaction(*args, **kwargs)

    return begun
