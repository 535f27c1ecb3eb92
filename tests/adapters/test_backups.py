"""Backups of PostgreSQL and of stores of images, and what is not backed up or restored."""

from __future__ import annotations

import asyncio
import io
import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from tests.conftest import new_database
from tests.houses import PNG, Failing, House, chunks
from tests.legacy import until

from watchly_adapters.archives import Archive, ArchiveWriter
from watchly_adapters.backups import back_up, restore
from watchly_adapters.cloudinary import CloudinaryImages
from watchly_adapters.filesystem import FilesystemImages
from watchly_adapters.headers import HeaderInspector
from watchly_adapters.memory import MemoryImages
from watchly_adapters.postgres import PostgresDatabase, migrate
from watchly_adapters.postgres.migrate import migrations
from watchly_adapters.postgres.programs import variables
from watchly_adapters.testing import samples
from watchly_adapters.testing.cloudinary import CloudinaryEmulator
from watchly_core.errors import ImageRejected, Misconfigured, Unavailable
from watchly_core.ports import ImageStore
from watchly_core.queries import MovieQuery

pytestmark = pytest.mark.anyio

EVERYTHING: Final = MovieQuery(limit=1_000)
#: What pg_dump waits for, and nobody before it.
HOLD: Final = "LOCK TABLE watchly_throttles IN ACCESS EXCLUSIVE MODE"
WAITS: Final = "SELECT FROM pg_locks WHERE NOT granted AND relation = 'watchly_throttles'::regclass"


@pytest.fixture
def house(postgres: PostgresDatabase, tmp_path: Path) -> House:
    return House(postgres, FilesystemImages(tmp_path / "images"), HeaderInspector(), tmp_path / "images")


@pytest.fixture
def target(server_url: str) -> Iterator[str]:
    """A database with nothing in it."""
    with new_database(server_url) as url:
        yield url


async def backed_up(url: str, store: ImageStore, path: Path) -> Path:
    with path.open("wb") as out:
        made = await back_up(url, store, out, spool=path.parent)
    assert made.lost == ()
    return path


async def restored(path: Path, url: str, store: ImageStore) -> list[str]:
    with path.open("rb") as file:
        return await restore(Archive(file, path.name), url, store)


async def refused(path: Path, url: str, store: ImageStore) -> str:
    """Why a backup is not restored; nothing of it is."""
    with pytest.raises((Misconfigured, Unavailable, ImageRejected)) as refusal:
        await restored(path, url, store)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def tables(url: str) -> int:
    """How many tables there are in a database."""
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchone()
    assert found is not None
    return int(found[0])


async def test_all_of_it_comes_back_elsewhere(
    house: House, postgres: PostgresDatabase, database_url: str, target: str, tmp_path: Path
) -> None:
    shown = await house.with_image()
    large = await house.with_image(samples.png(700_000))
    gone = await house.with_image()
    await house.catalogue().remove(gone.id)
    path = await backed_up(database_url, house.images, tmp_path / "x.tar")
    with path.open("rb") as file:
        manifest = Archive(file, "x.tar").manifest
    assert (manifest.movies, manifest.events, manifest.images) == (2, 7, 3)

    images = MemoryImages()
    assert await restored(path, target, images) == []
    async with PostgresDatabase(target) as there:
        again = House(there, images, HeaderInspector(), None)
        again.keys = house.keys
        assert await there.queries.find(EVERYTHING) == await house.store.queries.find(EVERYTHING)
        assert await again.records() == await house.records()
        assert await again.disagreements() == []
        for movie in (shown, large):
            assert movie.image is not None
            assert await again.content(movie.image.key) == await house.content(movie.image.key)
        for movie in (shown, large, gone):
            assert await there.queries.history(movie.id) == await postgres.queries.history(movie.id)
        # What was removed can come back, with its image; new movies follow on the old ones.
        back = (await again.catalogue().revert(gone.id, 2)).movie
        assert back.image is not None
        assert await again.content(back.image.key) == await house.content(back.image.key)
        assert (await again.movie()).id == gone.id + 1
        assert await there.identity() != await postgres.identity()


async def test_many_images_come_back(house: House, database_url: str, target: str, tmp_path: Path) -> None:
    movies = [await house.with_image(samples.png(1_000 + number, mark=number)) for number in range(60)]
    path = await backed_up(database_url, house.images, tmp_path / "x.tar")
    images = FilesystemImages(tmp_path / "there")
    await restored(path, target, images)
    there = House(house.store, images, HeaderInspector(), tmp_path / "there")
    assert await there.kept() == await house.kept()
    for movie in movies:
        assert movie.image is not None
        assert await there.content(movie.image.key) == await house.content(movie.image.key)


async def test_what_a_store_has_lost_is_told(house: House, database_url: str, tmp_path: Path) -> None:
    lost, whole = await house.with_image(), await house.with_image()
    discarded = await house.with_image()
    await house.catalogue().remove(discarded.id)
    assert lost.image is not None
    assert whole.image is not None
    assert discarded.image is not None
    await house.images.delete(lost.image.key)
    await house.images.delete(discarded.image.key)
    with (tmp_path / "x.tar").open("wb") as out:
        made = await back_up(database_url, house.images, out)
    assert made.lost == (lost.image.key,)
    assert made.manifest.images == 1


async def test_what_is_not_empty_is_left_alone(
    house: House, database_url: str, target: str, tmp_path: Path
) -> None:
    await house.with_image()
    path = await backed_up(database_url, house.images, tmp_path / "x.tar")
    assert "the database is not empty" in await refused(path, database_url, MemoryImages())
    assert "the image store is not empty" in await refused(path, target, house.images)
    assert tables(target) == 0
    with psycopg.connect(target, autocommit=True) as connection:
        connection.execute("CREATE TABLE movies (id integer)")
    images = FilesystemImages(tmp_path / "there")
    assert "the database is not empty" in await refused(path, target, images)
    assert await images.is_empty()


async def test_a_database_that_cannot_hold_any_text_is_refused(
    server_url: str, house: House, database_url: str, tmp_path: Path
) -> None:
    path = await backed_up(database_url, house.images, tmp_path / "x.tar")
    name = f"watchly_test_ascii_{os.getpid()}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'")
        try:
            url = make_conninfo(server_url, dbname=name)
            assert "must be UTF8" in await refused(path, url, MemoryImages())
        finally:
            connection.execute(f"DROP DATABASE {name}")


async def test_a_failure_on_the_way_leaves_nothing(
    house: House, database_url: str, target: str, tmp_path: Path
) -> None:
    for _ in range(10):
        await house.with_image()
    path = await backed_up(database_url, house.images, tmp_path / "x.tar")
    files = FilesystemImages(tmp_path / "there")
    full = Failing(files)
    full.before_put = Unavailable("image_store", "no space left on device")
    assert await refused(path, target, full) == "image_store: no space left on device"
    full.before_put, full.after_put = None, Unavailable("image_store", "was lost")
    assert await refused(path, target, full) == "image_store: was lost"
    assert await files.is_empty()
    # What the dump makes is there already, though no table is.
    with psycopg.connect(target, autocommit=True) as connection:
        connection.execute("CREATE FUNCTION watchly_last_version(integer) RETURNS integer RETURN 1")
    said = await refused(path, target, files)
    assert said.startswith("database: psql: function ")
    assert said.endswith("already exists with same argument types")
    assert await files.is_empty()
    assert tables(target) == 0
    with psycopg.connect(target, autocommit=True) as connection:
        connection.execute("DROP FUNCTION watchly_last_version")
    assert await restored(path, target, files) == []


async def test_two_at_a_time_are_one_after_the_other(
    house: House, database_url: str, target: str, tmp_path: Path
) -> None:
    await house.with_image()
    path = await backed_up(database_url, house.images, tmp_path / "x.tar")
    images = FilesystemImages(tmp_path / "there")
    done = await asyncio.gather(
        restored(path, target, images), restored(path, target, images), return_exceptions=True
    )
    assert [] in done
    assert [str(each)[:25] for each in done if isinstance(each, Misconfigured)] == [
        "the database is not empty"
    ]
    assert not await images.is_empty()


async def test_an_earlier_schema_is_migrated(empty_database: str, target: str, tmp_path: Path) -> None:
    newest = migrations()[-1]
    await migrate(empty_database)
    with psycopg.connect(empty_database, autocommit=True) as connection:
        # As it was before the newest file, which adds a column.
        connection.execute("DELETE FROM watchly_migrations WHERE number = %s", (newest.number,))
        connection.execute("ALTER TABLE events DROP COLUMN trace")
    path = await backed_up(empty_database, MemoryImages(), tmp_path / "x.tar")
    assert await restored(path, target, MemoryImages()) == [f"{newest.number:04}_{newest.name}"]


async def test_a_newer_schema_is_refused(
    empty_database: str, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await migrate(empty_database)
    path = await backed_up(empty_database, MemoryImages(), tmp_path / "x.tar")
    older = migrations()[:-1]
    monkeypatch.setattr("watchly_adapters.backups.migrations", lambda: older)
    said = await refused(path, target, MemoryImages())
    assert f"whose schema {older[-1].number + 1} is newer than {older[-1].number}" in said
    assert tables(target) == 0


def rewritten(path: Path, dump: bytes | None = None, **manifest: str) -> Path:
    """The backup without its images, with another dump or manifest."""
    other = path.with_name("other.tar")
    with path.open("rb") as file, other.open("wb") as out:
        archive, writer = Archive(file, path.name), ArchiveWriter(out)
        with archive.dump() as made:
            content = made.read() if dump is None else dump
        with writer.dump(len(content)) as write:
            write(content)
        writer.finish(msgspec.structs.replace(archive.manifest, **manifest))
    return other


async def test_an_older_server_is_refused(
    house: House, database_url: str, target: str, tmp_path: Path
) -> None:
    path = rewritten(await backed_up(database_url, house.images, tmp_path / "x.tar"), postgresql="99.1")
    said = await refused(path, target, MemoryImages())
    assert said.startswith("the backup was made of PostgreSQL 99, and this server is ")
    assert said.endswith(": restore it on version 99 or later")


async def test_a_dump_that_the_programs_cannot_read_is_one_line(
    house: House, database_url: str, target: str, tmp_path: Path
) -> None:
    whole = await backed_up(database_url, house.images, tmp_path / "x.tar")
    path = rewritten(whole, dump=b"PGDMP\x09\x09\x09" + bytes(100))
    said = await refused(path, target, MemoryImages())
    assert said == "database: pg_restore: unsupported version (9.9) in file header"


async def add_wordy(house: House, number: int) -> None:
    """Add movies that no dump makes much smaller."""
    chance = random.Random(7)  # noqa: S311 - no secret
    for _ in range(number):
        await house.catalogue().add({"title": "Heat", "description": chance.randbytes(5_000).hex()})


async def test_a_restore_that_is_cancelled_leaves_nothing(
    house: House, database_url: str, target: str, tmp_path: Path
) -> None:
    await add_wordy(house, 100)
    await house.with_image()
    path = await backed_up(database_url, house.images, tmp_path / "x.tar")
    images = FilesystemImages(tmp_path / "there")
    with psycopg.connect(target) as holder, psycopg.connect(target, autocommit=True) as asking:
        # What nobody sees yet, and who makes the same has to wait for.
        holder.execute("CREATE TABLE movies (id integer)")
        task = asyncio.create_task(restored(path, target, images))

        written = [0, 1]

        async def nobody_goes_on() -> bool:
            # Everybody is, who waits for who waits for the lock.
            written[:] = written[1], _written("pg_restore")
            waits = asking.execute("SELECT FROM pg_locks WHERE NOT granted").rowcount > 0
            return waits and written[0] == written[1] > 300_000

        await until(nobody_goes_on)
        assert not await images.is_empty()
        task.cancel()
        async with asyncio.timeout(30):
            with suppress(asyncio.CancelledError):
                await task
    assert await images.is_empty()


async def test_a_dump_that_ends_among_the_rows_leaves_nothing(
    house: House, database_url: str, target: str, tmp_path: Path
) -> None:
    await add_wordy(house, 20)
    whole = await backed_up(database_url, house.images, tmp_path / "x.tar")
    with whole.open("rb") as file, Archive(file, "x.tar").dump() as dump:
        content = dump.read()
    said = await refused(rewritten(whole, dump=content[: len(content) // 2]), target, MemoryImages())
    assert said == "database: pg_restore: could not read from input file: end of file"
    assert tables(target) == 0


async def test_a_database_without_a_catalogue_is_not_backed_up(empty_database: str) -> None:
    with pytest.raises(Misconfigured, match="there is no catalogue in this database"):
        await back_up(empty_database, MemoryImages(), io.BytesIO())


async def test_images_at_cloudinary_stay_there(
    postgres: PostgresDatabase, database_url: str, target: str, tmp_path: Path
) -> None:
    with CloudinaryEmulator() as emulator, CloudinaryEmulator(cloud_name="other") as other:
        store = CloudinaryImages.from_url(emulator.url)
        house = House(postgres, MemoryImages(), HeaderInspector(), None)
        gallery = house.gallery(images=store)
        movie = await house.movie()
        await gallery.attach(movie.id, chunks(PNG), "image/png")
        path = await backed_up(database_url, store, tmp_path / "x.tar")
        with path.open("rb") as file:
            manifest = Archive(file, "x.tar").manifest
        assert manifest.images == 0
        assert manifest.images_at is not None
        assert emulator.cloud_name in manifest.images_at
        assert emulator.api_secret not in path.read_bytes().decode("latin-1")
        elsewhere = CloudinaryImages.from_url(other.url)
        for wrong in (elsewhere, MemoryImages()):
            said = await refused(path, target, wrong)
            assert said.startswith(f"the images of this backup are at {manifest.images_at}, and the settings")
            assert said.endswith("set CLOUDINARY_URL to where they are")
        assert await restored(path, target, store) == []
        for each in (store, elsewhere):
            each.close()


async def test_images_of_this_service_can_move_to_cloudinary(
    house: House, database_url: str, target: str, tmp_path: Path
) -> None:
    await house.with_image()
    path = await backed_up(database_url, house.images, tmp_path / "x.tar")
    with CloudinaryEmulator() as emulator:
        store = CloudinaryImages.from_url(emulator.url)
        await restored(path, target, store)
        assert len(emulator.assets) == 1
        store.close()


async def test_nothing_secret_is_among_the_words_of_a_program(database_url: str, tmp_path: Path) -> None:
    url = make_conninfo(database_url, password="s3cret-of-nobody", keepalives="1", application_name="mine")
    with psycopg.connect(database_url) as holder, psycopg.connect(database_url, autocommit=True) as asking:
        holder.execute(HOLD)
        task = asyncio.create_task(back_up(url, MemoryImages(), io.BytesIO(), spool=tmp_path))

        async def at_work() -> bool:
            return asking.execute(WAITS).rowcount > 0

        await until(at_work)
        ((_, words),) = _programs("pg_dump")
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        # Nobody waits on for what nobody wants.
        assert _programs("pg_dump") == []
    assert "keepalives=1" in words
    assert "s3cret" not in words
    told, rest = variables(url)
    assert (told["PGPASSWORD"], told["PGAPPNAME"]) == ("s3cret-of-nobody", "mine")
    assert rest == ["--dbname=keepalives=1"]


def test_a_secret_that_only_words_could_carry_is_refused() -> None:
    with pytest.raises(Misconfigured, match="sslpassword cannot be told to pg_dump"):
        variables("postgresql://localhost/watchly?sslpassword=hush")


def _programs(name: str) -> list[tuple[int, str]]:
    """Those of a name that this process runs: their numbers, and their words."""
    found = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(os.getpid())],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = (line.split(maxsplit=1) for line in found.stdout.splitlines() if f"/{name} " in line)
    return [(int(number), words) for number, words in lines]


def _written(name: str) -> int:
    """How many bytes a program has written."""
    for number, _ in _programs(name):
        with suppress(OSError):
            counts = dict(line.split(": ") for line in Path(f"/proc/{number}/io").read_text().splitlines())
            return int(counts["wchar"])
    return 0
