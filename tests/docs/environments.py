"""Environments of Python for pages: into each may be installed what a page says."""

from __future__ import annotations

import site
import sys
import venv
from pathlib import Path


def make_environment(target: Path) -> None:
    """An environment that has what this one has, its programs too, and takes more."""
    venv.create(target, symlinks=True)
    (packages,) = target.glob("lib/python*/site-packages")
    lines = [f"import site; site.addsitedir({folder!r})\n" for folder in site.getsitepackages()]
    (packages / "outer.pth").write_text("".join(lines), encoding="utf-8")
    ours = f"#!{sys.prefix}/bin/python".encode()
    for program in Path(sys.prefix, "bin").iterdir():
        own = target / "bin" / program.name
        if not program.is_file() or own.exists():
            continue
        if (content := program.read_bytes()).startswith(ours):
            own.write_bytes(f"#!{target}/bin/python".encode() + content.removeprefix(ours))
            own.chmod(0o755)
        else:
            own.symlink_to(program)
