"""All cases of the corpus of bytes, by name."""

from __future__ import annotations

from typing import Final

from tests.corpus import bodies, framing, headers, targets
from tests.corpus.cases import Table

CASES: Final[Table] = {**bodies.CASES, **targets.CASES, **headers.CASES, **framing.CASES}
