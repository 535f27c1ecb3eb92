"""Archives are read back as they were written, and whatever is not whole is refused."""

from __future__ import annotations

import io
import os
import random
import subprocess
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import pytest

from watchly_adapters.archives import FORMAT, Archive, ArchiveWriter, Manifest
from watchly_core.errors import Misconfigured
from watchly_core.images import Image, new_key

DUMP: Final = b"PGDMP and what follows"
IMAGES: Final = tuple(
    (Image(new_key(), 600, 900, "jpeg", size), os.urandom(size)) for size in (0, 1, 512, 70_000)
)
MANIFEST: Final = Manifest(
    watchly="0.1.0",
    schema=12,
    postgresql="18.6",
    at=datetime(2026, 11, 22, tzinfo=UTC),
    movies=3,
    events=5,
    images=len(IMAGES),
    image_bytes=sum(image.bytes for image, _ in IMAGES),
)


def written(path: Path, manifest: Manifest = MANIFEST) -> Path:
    """An archive."""
    with path.open("wb") as file:
        archive = ArchiveWriter(file)
        with archive.dump(len(DUMP)) as write:
            write(DUMP[:5])
            write(DUMP[5:])
        for image, content in IMAGES:
            with archive.image(image) as write:
                write(content)
        archive.finish(manifest)
    return path


def refused(path: Path) -> str:
    """Why an archive is not read, on one line."""
    with path.open("rb") as file, pytest.raises(Misconfigured) as refusal:
        Archive(file, "x.tar")
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "x.tar")
    moved: list[int] = []
    with path.open("rb") as file:
        archive = Archive(file, "x.tar", moved.append)
        assert 0 < sum(moved) <= path.stat().st_size
        assert msgspec.structs.replace(archive.manifest, sha256="") == MANIFEST
        with archive.dump() as dump:
            assert dump.read() == DUMP
        found = []
        for image, entry in archive.images():
            with archive.open(entry) as one, archive.open(entry) as other:
                assert one.seek(0, io.SEEK_END) == image.bytes
                assert one.seek(0) == 0
                # Two readers are in nobody's way.
                head = other.read(10)
                assert head == one.read(10)
                found.append((image, head + one.read()))
        assert found == list(IMAGES)


def test_any_tar_can_take_it_apart(tmp_path: Path) -> None:
    path = written(tmp_path / "x.tar")
    with tarfile.open(path) as tar:
        names = tar.getnames()
        assert (names[0], names[-1]) == ("database.dump", "manifest.json")
    subprocess.run(["tar", "-xf", path, "-C", tmp_path], check=True)
    assert (tmp_path / "database.dump").read_bytes() == DUMP
    for image, content in IMAGES:
        assert (tmp_path / f"images/{image.key}-600x900.jpeg").read_bytes() == content


def test_one_that_is_cut_off_is_refused_wherever_that_is(tmp_path: Path) -> None:
    whole = written(tmp_path / "x.tar").read_bytes()
    cut = tmp_path / "cut.tar"
    padding = 2 * tarfile.BLOCKSIZE  # at the end, after the manifest, which nobody needs
    manifest = -(-len(msgspec.json.format(msgspec.json.encode(MANIFEST))) // 512) * 512
    for size in (*range(0, len(whole) - padding - manifest, 509), len(whole) - padding - manifest):
        cut.write_bytes(whole[:size])
        said = refused(cut)
        assert said == (
            "x.tar is no backup of Watchly"
            if size < tarfile.BLOCKSIZE
            else "x.tar is cut off or damaged: restore another backup"
        ), size


def test_one_that_is_damaged_is_refused_wherever_that_is(tmp_path: Path) -> None:
    whole = bytearray(written(tmp_path / "x.tar").read_bytes())
    damaged = tmp_path / "damaged.tar"
    chance = random.Random(7)  # noqa: S311 - to be repeated
    # The end is blocks of zeros, which nobody reads.
    for _ in range(200):
        at = chance.randrange(len(whole) - 4 * tarfile.BLOCKSIZE)
        damaged.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :])
        assert "x.tar is " in refused(damaged), at


@pytest.mark.parametrize("name", ["passwd", "database.dump", "images/../../etc/passwd", "manifest.json"])
def test_what_somebody_else_has_made_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for member in (name, name):
            header = tarfile.TarInfo(member)
            header.size = 5
            tar.addfile(header, io.BytesIO(b"12345"))
    assert refused(path).startswith(("x.tar is no backup of Watchly", "x.tar is cut off or damaged"))


@pytest.mark.parametrize("content", [b"", b"title,year\nHeat,1995\n", bytes(4096), b"\x1f\x8b" + bytes(600)])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    assert refused(path) == "x.tar is no backup of Watchly"


@pytest.mark.timeout(20)
def test_a_size_that_leads_back_is_refused(tmp_path: Path) -> None:
    header = tarfile.TarInfo("database.dump")
    back = tarfile.TarInfo(f"images/{new_key()}-1x1.png")
    back.size = -tarfile.BLOCKSIZE
    path = tmp_path / "x.tar"
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + back.tobuf(tarfile.GNU_FORMAT))
    assert refused(path) == "x.tar is cut off or damaged: restore another backup"


@pytest.mark.parametrize(
    ("text", "other"),
    [(b'"18.6"', b'"devel"'), (b'"18.6"', b'""'), (b'"0.1.0"', b"[" * 60_000)],
)
def test_a_manifest_that_says_nothing_is_refused(tmp_path: Path, text: bytes, other: bytes) -> None:
    whole = written(tmp_path / "x.tar").read_bytes()
    with tarfile.open(tmp_path / "x.tar") as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        content = manifest.read().replace(text, other)
    with tarfile.open(tmp_path / "x.tar") as tar:
        at = tar.getmember("manifest.json").offset
    header = tarfile.TarInfo("manifest.json")
    header.size = len(content)
    (tmp_path / "x.tar").write_bytes(whole[:at] + header.tobuf(tarfile.GNU_FORMAT) + content)
    assert refused(tmp_path / "x.tar") == "x.tar is cut off or damaged: restore another backup"


@pytest.mark.parametrize(("version", "major"), [("18.6", 18), ("19beta1", 19), ("20devel", 20)])
def test_the_major_version_is_that_of_unreleased_servers_as_well(
    tmp_path: Path, version: str, major: int
) -> None:
    path = written(tmp_path / "x.tar", msgspec.structs.replace(MANIFEST, postgresql=version))
    with path.open("rb") as file:
        assert Archive(file, "x.tar").manifest.postgresql_major == major


def test_a_newer_format_is_refused_by_name(tmp_path: Path) -> None:
    newer = msgspec.structs.replace(MANIFEST, format=FORMAT + 1, watchly="9.9.9")
    assert "was made by Watchly 9.9.9 in a format" in refused(written(tmp_path / "x.tar", newer))


def test_a_member_has_as_many_bytes_as_it_said() -> None:
    archive = ArchiveWriter(io.BytesIO())
    with pytest.raises(ValueError, match=r"database\.dump has 1 bytes, not 2"), archive.dump(2) as write:
        write(b"1")


def test_large_members_have_headers_of_one_block() -> None:
    header = tarfile.TarInfo("database.dump")
    header.size = 1 << 40
    block = header.tobuf(tarfile.GNU_FORMAT)
    assert len(block) == tarfile.BLOCKSIZE
    assert tarfile.TarInfo.frombuf(block, "utf-8", "strict").size == 1 << 40
