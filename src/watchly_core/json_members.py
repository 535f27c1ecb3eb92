"""Members of JSON objects whose values are texts or flags: reading them, and telling every fault."""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import islice
from typing import Final, TypeVar
from urllib.parse import quote

from watchly_core.errors import Fault, Invalid

T = TypeVar("T")
D = TypeVar("D")

#: Unknown members that are listed, and characters of a member's name that are shown.
_MOST_FAULTS: Final = 100
_MOST_NAME: Final = 100


def fault_of(name: str, code: str, detail: str) -> Fault:
    """The fault of a member, whose name is the sender's: it may be long or hold what UTF-8 cannot."""
    shown = name if len(name) <= _MOST_NAME else name[:_MOST_NAME] + "…"
    token = shown.replace("~", "~0").replace("/", "~1")
    return Fault(code=code, detail=detail, pointer="#/" + quote(token, safe="~", errors="replace"))


class JsonMembers:
    """The members of a JSON object, each of which is a text or a flag; `check` tells all faults together.

    Args:
        value: the object.
        error: what its faults are raised as.
        allowed: the names that it may have.

    Raises:
        Invalid: as `error`; it is no object.
    """

    def __init__(self, value: object, error: type[Invalid], allowed: Collection[str]) -> None:
        if not isinstance(value, dict):
            raise error([Fault("wrong_type", "must be a JSON object", pointer="#")])
        self._members, self._error = value, error
        unknown = (name for name in value if name not in allowed)
        self._faults = [
            fault_of(name, "unknown_member", f"is not a member of this {error.subject}")
            for name in islice(unknown, _MOST_FAULTS)
        ]

    def text(self, name: str, read: Callable[[str], T], default: D, *, required: bool = False) -> T | D:
        """What `read` makes of a text, where no error says what is wrong; `default` if it is absent."""
        if name not in self._members:
            if required:
                self._refuse(name, "required", "is required")
            return default
        member = self._members[name]
        if not isinstance(member, str):
            self._refuse(name, "wrong_type", "must be a string")
            return default
        try:
            return read(member)
        except Invalid as invalid:
            self._faults += invalid.faults
        except ValueError as error:
            self._refuse(name, "invalid_value", str(error))
        return default

    def flag(self, name: str) -> bool:
        """Whether a member is true; it is not where it is absent."""
        member = self._members.get(name, False)
        if not isinstance(member, bool):
            self._refuse(name, "wrong_type", "must be true or false")
            return False
        return member

    def is_null(self, name: str) -> bool:
        """Whether a member is null."""
        return name in self._members and self._members[name] is None

    def check(self) -> None:
        """Raise what was found.

        Raises:
            Invalid: as the error that was named, listing every fault.
        """
        if self._faults:
            raise self._error(self._faults)

    def _refuse(self, name: str, code: str, detail: str) -> None:
        self._faults.append(fault_of(name, code, detail))
