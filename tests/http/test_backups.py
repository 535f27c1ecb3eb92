"""`watchly backup` and `watchly restore`, on embedded homes and named databases."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Final

import httpx
import psycopg
import pytest
from tests.services import WATCHLY, Service, as_url, environment, run

from watchly_adapters.filesystem import FilesystemImages
from watchly_adapters.testing.samples import UPRIGHT, png
from watchly_core.images import Image, new_key
from watchly_http.files import completed

INSERT: Final = """
    INSERT INTO images (key, state, movie_id, width, height, format, bytes, due_at)
    VALUES (%s, %s, 1, 1, 1, 'png', %s, CASE %s WHEN 'attached' THEN NULL ELSE now() END)
"""

#: The command line in a process that may write no file beyond a size.
LIMITED: Final = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
from watchly_http.cli import main
main()
"""


def kept(url: str, folder: Path, state: str, content: bytes) -> str:
    """An image that is in the store and its ledger; its key."""
    image = Image(new_key(), 1, 1, "png", len(content))
    asyncio.run(FilesystemImages(folder).put(image.key, io.BytesIO(content), image))
    with psycopg.connect(url) as connection:
        connection.execute(INSERT, (image.key, state, image.bytes, state))
    return image.key


def named(conninfo: str, images: Path, home: Path) -> dict[str, str]:
    """Variables that name a database, and a folder for images."""
    return {"DATABASE_URL": as_url(conninfo), "IMAGE_STORE_URL": images.as_uri(), "WATCHLY_HOME": str(home)}


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a command that failed."""
    assert (done.returncode, done.stdout) == (1, ""), done
    (line,) = done.stderr.splitlines()
    return line


def test_a_home_is_backed_up_and_restored_with_and_without_a_server(
    fresh_home: Path, reachable_directory: Path, tmp_path: Path
) -> None:
    there = reachable_directory / f"{fresh_home.name}-restored"
    first, second = tmp_path / "first.tar", tmp_path / "second.tar"
    assert run("import", "--sample", WATCHLY_HOME=str(fresh_home)).returncode == 0
    done = run("backup", str(first), WATCHLY_HOME=str(fresh_home))
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "movies: 688, events: 688, images: 0 (0 bytes)\n"
    gif, headers = UPRIGHT["gif"], {"content-type": "image/gif"}
    with Service(tmp_path / "log", WATCHLY_HOME=str(fresh_home)) as service:
        put = httpx.put(f"{service.url}/api/movies/1/image", content=gif, headers=headers)
        assert put.status_code == 200
        done = run("backup", str(second), WATCHLY_HOME=str(fresh_home))
        told = f"movies: 688, events: 689, images: 1 ({len(gif)} bytes)\n"
        assert (done.returncode, done.stderr) == (0, told)
    try:
        done = run("restore", str(second), WATCHLY_HOME=str(there))
        assert (done.returncode, done.stdout, done.stderr) == (0, "", told)
        with Service(tmp_path / "log", WATCHLY_HOME=str(there)) as service:
            assert httpx.get(f"{service.url}/api/movies/1").json() == put.json()
            assert httpx.get(f"{service.url}{put.json()['image_url']}").content == gif
            said = refused(run("restore", str(first), WATCHLY_HOME=str(there)))
            assert said == (
                "watchly: the database is not empty: restore into a new one, or a new WATCHLY_HOME"
            )
        checked = run("rebuild", "--check", WATCHLY_HOME=str(there))
        assert (checked.returncode, checked.stdout.splitlines()[0]) == (0, "movies: 688")
    finally:
        shutil.rmtree(there, ignore_errors=True)


def test_tokens_stay_good_with_the_secret_and_api_keys_without(
    fresh_home: Path, reachable_directory: Path, tmp_path: Path
) -> None:
    path = tmp_path / "x.tar"
    with Service(tmp_path / "log", AUTH="on", WATCHLY_HOME=str(fresh_home)) as service:
        key = service.data.strip()
        token = run("token", WATCHLY_HOME=str(fresh_home)).stdout.strip()
        assert run("backup", str(path), WATCHLY_HOME=str(fresh_home)).returncode == 0
    secret = (fresh_home / "secret_key").read_text()
    assert secret.encode() not in path.read_bytes()
    for name, bearers in (("without", {key: 201, token: 401}), ("with", {key: 201, token: 201})):
        there = reachable_directory / f"{fresh_home.name}-{name}"
        if name == "with":
            there.mkdir(mode=0o711)
            (there / "secret_key").write_text(secret)
        try:
            assert run("restore", str(path), WATCHLY_HOME=str(there)).returncode == 0
            with Service(tmp_path / "log", AUTH="on", WATCHLY_HOME=str(there)) as service:
                assert service.data == "", "another first key"
                for bearer, status in bearers.items():
                    headers = {"authorization": f"Bearer {bearer}"}
                    added = httpx.post(f"{service.url}/api/movies", json={"title": "Heat"}, headers=headers)
                    assert added.status_code == status, name
        finally:
            shutil.rmtree(there, ignore_errors=True)


def test_only_its_owner_can_read_a_backup(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.touch(0o644)
    assert run("backup", str(path), WATCHLY_HOME=str(home)).returncode == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["x.tar"]


def test_a_backup_goes_through_a_pipe(home: Path) -> None:
    done = subprocess.run(
        [WATCHLY, "backup", "/dev/stdout"],
        env=environment(WATCHLY_HOME=str(home)),
        cwd="/",
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        assert tar.getnames()[-1] == "manifest.json"


def test_what_lies_where_a_private_file_grows_is_not_written_to(tmp_path: Path) -> None:
    trap, path = tmp_path / f".x.tar.{os.getpid()}.part", tmp_path / "x.tar"
    trap.touch(0o644)
    with trap.open("rb") as reader:
        with completed(path, private=True) as file:
            file.write(b"secret")
        assert reader.read() == b""
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"secret", 0o600)


@pytest.mark.parametrize(
    ("words", "variables", "said"),
    [
        (["backup", "x.tar"], {"DATABASE_URL": "memory:"}, "keeps nothing between commands"),
        (["backup", "x.tar"], {"IMAGE_STORE_URL": "memory:"}, "IMAGE_STORE_URL=memory: keeps nothing"),
        (["backup", "/nowhere/x.tar"], {}, "No such file or directory"),
        (["backup", "/dev/full"], {}, "watchly: /dev/full: No space left on device"),
        (["restore", "/etc/hostname"], {"DATABASE_URL": "memory:"}, "keeps nothing between commands"),
        (["restore", "/etc/hostname"], {"IMAGE_STORE_URL": "memory:"}, "IMAGE_STORE_URL=memory: keeps"),
        (["restore", "/etc/hostname"], {}, "watchly: /etc/hostname is no backup of Watchly"),
        (["restore", "/dev/null"], {}, "watchly: /dev/null is no backup of Watchly"),
    ],
)
def test_what_cannot_be_is_one_line(
    home: Path, words: list[str], variables: dict[str, str], said: str
) -> None:
    done = run(*words, **{"WATCHLY_HOME": str(home), **variables})
    assert said in refused(done)


def test_a_damaged_backup_touches_no_home(home: Path, fresh_home: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    assert run("backup", str(path), WATCHLY_HOME=str(home)).returncode == 0
    path.write_bytes(path.read_bytes()[:-2_000])
    done = run("restore", str(path), WATCHLY_HOME=str(fresh_home))
    assert refused(done) == f"watchly: {path} is cut off or damaged: restore another backup"
    assert not fresh_home.exists()


def test_a_database_without_a_catalogue_is_told(empty_database: str, tmp_path: Path) -> None:
    done = run("backup", str(tmp_path / "x.tar"), **named(empty_database, tmp_path / "images", tmp_path))
    assert refused(done) == (
        "watchly: DATABASE_URL: there is no catalogue in this database; `watchly migrate` makes one"
    )
    assert list(tmp_path.iterdir()) == []


def test_what_there_is_no_room_for_leaves_nothing(database_url: str, tmp_path: Path) -> None:
    kept(database_url, tmp_path / "images", "attached", png(700_000))
    target = tmp_path / "target"
    target.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, "backup", str(target / "x.tar")],
        env=environment(**named(database_url, tmp_path / "images", tmp_path)),
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused(done) == f"watchly: {target / 'x.tar'}: File too large"
    assert list(target.iterdir()) == []


def test_a_lost_image_is_told_and_all_else_is_backed_up(database_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    keys = [kept(database_url, folder, state, png(300)) for state in ("attached", "attached", "discarded")]
    asyncio.run(FilesystemImages(folder).delete(keys[0]))
    done = run("backup", str(tmp_path / "x.tar"), **named(database_url, folder, tmp_path))
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "movies: 0, events: 0, images: 2 (600 bytes)",
        f"watchly: image_store: images that movies show are lost or cut short: 1 ({keys[0]})",
    ]
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert sorted(tar.getnames()) == sorted(
            ["database.dump", "manifest.json", *(f"images/{key}-1x1.png" for key in keys[1:])]
        )
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        assert json.load(manifest)["images"] == 2


def test_a_store_with_nothing_in_it_takes_no_backup_away(database_url: str, tmp_path: Path) -> None:
    kept(database_url, tmp_path / "images", "attached", png(300))
    path = tmp_path / "x.tar"
    assert run("backup", str(path), **named(database_url, tmp_path / "images", tmp_path)).returncode == 0
    before = path.read_bytes()
    done = run("backup", str(path), **named(database_url, tmp_path / "unmounted", tmp_path))
    assert refused(done) == (
        "watchly: image_store: it is empty, and movies show images (1): is it where they are?"
    )
    assert path.read_bytes() == before


def test_the_programs_of_path_do_where_there_is_no_wheel(database_url: str, tmp_path: Path) -> None:
    variables = named(database_url, tmp_path / "images", tmp_path)
    script = tmp_path / "pg_dump"
    script.write_text(
        "#!/bin/sh\n"
        "echo 'pg_dump: error: aborting because of server version mismatch' >&2\n"
        "echo 'pg_dump: detail: server version: 18.6; pg_dump version: 9.6.1' >&2\n"
        "exit 1\n"
    )
    script.chmod(0o755)
    without = "import watchly_adapters.binaries as b; b.find_wheel = lambda: b.Wheel(None, '9.6.1')\n"
    for path, said in (
        (
            str(tmp_path),
            "pg_dump: aborting because of server version mismatch (server version: 18.6; pg_dump",
        ),
        ("/nowhere", "watchly: there is no pg_dump of PostgreSQL "),
    ):
        done = subprocess.run(
            [sys.executable, "-c", without + LIMITED, "backup", str(tmp_path / "x.tar")],
            env={**environment(**variables), "PATH": path},
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert said in refused(done)
