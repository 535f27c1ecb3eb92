"""Reads a handler's signature once, where Litestar reads it again for every application.

Nearly every test of the API makes an application, and half the time of that goes into signatures. They depend
on the function and on the names it is read with, and on nothing that a test sets.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

import pytest
from litestar._signature import SignatureModel
from litestar.types import TypeDecodersSequence
from litestar.utils.signature import ParsedSignature

#: What Litestar itself does.
READ: Final = ParsedSignature.from_fn
MODEL: Final = SignatureModel.create


@contextmanager
def remembered() -> Iterator[None]:
    """Litestar remembers signatures, and the models made of them, while the block runs."""
    signatures: dict[Hashable, ParsedSignature] = {}
    # With each its signature: while that is kept, its id is nobody else's.
    models: dict[Hashable, tuple[ParsedSignature, type[SignatureModel]]] = {}

    def read(fn: Callable[..., object], signature_namespace: dict[str, object]) -> ParsedSignature:
        key = _identity(fn), frozenset(signature_namespace.items())
        if key not in signatures:
            signatures[key] = READ(fn, signature_namespace)
        return signatures[key]

    def model(
        dependency_name_set: set[str],
        fn: Callable[..., object],
        parsed_signature: ParsedSignature,
        type_decoders: TypeDecodersSequence,
        data_dto: None = None,
    ) -> type[SignatureModel]:
        decoders = tuple((_plain(fits), _plain(decode)) for fits, decode in type_decoders)
        key = frozenset(dependency_name_set), id(parsed_signature), decoders, data_dto
        if key not in models:
            made = MODEL(
                dependency_name_set=dependency_name_set,
                fn=fn,
                parsed_signature=parsed_signature,
                type_decoders=type_decoders,
                data_dto=data_dto,
            )
            models[key] = parsed_signature, made
        return models[key][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ParsedSignature, "from_fn", read)
        patch.setattr(SignatureModel, "create", model)
        yield


def _identity(fn: Callable[..., object]) -> Hashable:
    """What stays the same of a function that each application makes anew, as it does its dependencies."""
    plain = getattr(fn, "__func__", fn)
    if getattr(plain, "__defaults__", fn) or getattr(plain, "__kwdefaults__", fn):
        return plain  # the values belong to the signature
    return plain.__module__, plain.__qualname__, plain.__code__


def _plain(fn: Callable[..., object]) -> Hashable:
    """A function that may be partial: those of Litestar's plugins are made anew for each application."""
    return (fn.func, fn.args, frozenset(fn.keywords.items())) if isinstance(fn, partial) else fn
