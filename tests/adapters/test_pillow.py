"""The process that decodes: its limits, its deaths, its queue, and what is left of it."""

import asyncio
import gc
import io
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from PIL import Image

from watchly_adapters.pillow import Limits, PillowInspector
from watchly_adapters.testing import samples
from watchly_core.errors import ImageTooLarge, ImageUnreadable, Unavailable
from watchly_core.images import MAX_FRAMES, VARIANTS, Rendition

pytestmark = pytest.mark.anyio

DEADLINE = 30.0
CARD = Rendition(VARIANTS["card"], "webp")


def small() -> io.BytesIO:
    return io.BytesIO(samples.UPRIGHT["png"])


def large(side: int, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(buffer, "png", compress_level=1, **options)
    return buffer.getvalue()


def endless() -> io.BytesIO:
    """A file that takes seconds to decode: three hundred pictures of a megapixel, laid over each other."""
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize((1000, 1000)).quantize(200).save(buffer, "gif", transparency=0)
    content = buffer.getvalue()
    start = 13 + 3 * 256
    return io.BytesIO(b"GIF89a" + content[6:start] + content[start:-1] * 300 + content[-1:])


ENDLESS = endless().getvalue()


@asynccontextmanager
async def inspecting(limits: Limits | None = None) -> AsyncIterator[PillowInspector]:
    inspector = PillowInspector(limits)
    try:
        yield inspector
    finally:
        inspector.close()


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(0.01)


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def processor_limit(pid: int | None) -> int:
    limits = Path(f"/proc/{pid}/limits").read_text(encoding="ascii")
    return int(limits.partition("Max cpu time")[2].split()[0])


def gone(pid: int) -> bool:
    """Whether nothing is left of a process, not even for its parent to ask for."""
    return not Path(f"/proc/{pid}").exists()


def ended(pid: int) -> bool:
    """Whether a process has ended; nobody may be there to ask for what is left of it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


async def asked(inspector: PillowInspector, source: io.BytesIO, rendition: Rendition | None) -> None:
    if rendition is None:
        await inspector.decode(source)
    else:
        await inspector.render(source, rendition)


async def begun(
    inspector: PillowInspector, rendition: Rendition | None = None
) -> tuple[asyncio.Task[None], int]:
    """A long job that is under way, and the process that does it."""
    await inspector.decode(small())
    pid = inspector.decoder_pid
    assert pid is not None
    before = processor_seconds(pid)
    job = asyncio.create_task(asked(inspector, io.BytesIO(ENDLESS), rendition))
    await until(lambda: processor_seconds(pid) > before + 0.1)
    return job, pid


async def test_a_job_that_takes_too_much_processor_time_is_given_up() -> None:
    async with inspecting(Limits(cpu_seconds=1)) as inspector:
        with pytest.raises(ImageUnreadable, match="limits of memory and time"):
            await inspector.decode(io.BytesIO(ENDLESS))
        await inspector.decode(small())


async def test_processor_time_is_counted_for_each_job_by_itself() -> None:
    content = large(3000)
    async with inspecting(Limits(cpu_seconds=1)) as inspector:
        await inspector.decode(io.BytesIO(content))
        pid = inspector.decoder_pid
        assert pid is not None
        while processor_seconds(pid) < 3:
            await inspector.decode(io.BytesIO(content))
        assert inspector.decoder_pid == pid


@pytest.mark.parametrize("rendition", [None, CARD])
async def test_a_job_that_takes_too_long_without_using_the_processor_is_no_fault_of_the_image(
    rendition: Rendition | None,
) -> None:
    async with inspecting(Limits(seconds=1)) as inspector:
        await inspector.decode(small())
        assert inspector.decoder_pid is not None
        os.kill(inspector.decoder_pid, signal.SIGSTOP)
        with pytest.raises(Unavailable, match="gave an image up") as caught:
            await asked(inspector, small(), rendition)
        assert caught.value.retry_after == 10
        await inspector.decode(small())


async def test_an_image_that_takes_too_much_memory_is_refused() -> None:
    async with inspecting(Limits(memory=400 * 1024**2)) as inspector:
        await inspector.decode(small())
        with pytest.raises(ImageUnreadable):
            await inspector.decode(io.BytesIO(large(9_900)))
        await inspector.decode(small())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
async def test_a_decoder_that_dies_of_an_image_is_replaced(number: signal.Signals) -> None:
    async with inspecting() as inspector:
        job, pid = await begun(inspector)
        os.kill(pid, number)
        with pytest.raises(ImageUnreadable, match="limits of memory and time"):
            await job
        assert gone(pid)
        await inspector.decode(small())
        assert inspector.decoder_pid not in {pid, None}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGXCPU])
async def test_a_decoder_that_dies_while_it_renders_is_no_fault_of_the_image(number: signal.Signals) -> None:
    async with inspecting() as inspector:
        job, pid = await begun(inspector, CARD)
        os.kill(pid, number)
        with pytest.raises(Unavailable, match="gave an image up"):
            await job
        assert gone(pid)
        await inspector.decode(small())


async def test_a_decoder_that_dies_between_jobs_is_replaced() -> None:
    async with inspecting() as inspector:
        await inspector.decode(small())
        pid = inspector.decoder_pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: inspector.decoder_pid is None)
        await inspector.decode(small())


async def test_a_caller_that_leaves_takes_the_job_with_it() -> None:
    async with inspecting() as inspector:
        job, pid = await begun(inspector)
        waiting = asyncio.create_task(inspector.decode(small()))
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        assert gone(pid)
        await waiting


async def test_a_caller_that_leaves_the_queue_disturbs_nobody() -> None:
    async with inspecting() as inspector:
        job, pid = await begun(inspector)
        leaving = asyncio.create_task(inspector.render(small(), CARD))
        staying = asyncio.create_task(inspector.render(small(), CARD))
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert not job.done()
        assert inspector.decoder_pid == pid
        os.kill(pid, signal.SIGKILL)
        assert await staying
        with pytest.raises(ImageUnreadable):
            await job


async def test_the_decoder_is_unavailable_to_those_whose_turn_does_not_come() -> None:
    async with inspecting(Limits(turn_seconds=0.1)) as inspector:
        job, _ = await begun(inspector)
        with pytest.raises(Unavailable, match="too many images wait") as caught:
            await inspector.decode(small())
        assert caught.value.retry_after == 10
        assert not job.done()  # its own turn has come long ago
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job


async def test_only_so_many_may_wait() -> None:
    async with inspecting(Limits(places=2)) as inspector:
        job, pid = await begun(inspector)
        waiting = asyncio.create_task(inspector.decode(small()))
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="too many images wait"):
            await inspector.decode(small())
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ImageUnreadable):
            await job
        await waiting
        await inspector.decode(small())


async def test_many_callers_share_one_decoder() -> None:
    sizes = [(1 + index, 100 - index) for index in range(50)]
    async with inspecting() as inspector:
        made = await asyncio.gather(
            *(inspector.render(io.BytesIO(samples.png_showing(*size)), CARD) for size in sizes)
        )
        pid = inspector.decoder_pid
        measured = [await inspector.measure(io.BytesIO(content)) for content in made]
        assert [(one.width, one.height) for one in measured] == sizes
        await inspector.decode(small())
        assert inspector.decoder_pid == pid


async def test_nothing_starts_before_it_is_needed() -> None:
    async with inspecting() as inspector:
        await inspector.measure(small())
        await inspector.clean(small())
        assert inspector.decoder_pid is None


@pytest.mark.parametrize("file", [tempfile.TemporaryFile, tempfile.SpooledTemporaryFile, io.BytesIO])
@pytest.mark.parametrize("side", [10, 800])
async def test_any_kind_of_file_is_decoded_and_stays_where_it_was(
    file: Callable[[], io.BytesIO], side: int
) -> None:
    """One that shared its position with the decoder would go on where that stopped reading."""
    content = large(side) + bytes(1_000_000 if side > 100 else 0)
    async with inspecting() as inspector:
        with file() as source:
            source.write(content)  # not flushed
            for work in (inspector.decode(source), inspector.render(source, CARD)):
                source.seek(0)
                head = source.read(100)
                await work
                assert source.tell() == 0
                assert head + content[100:] == source.read()


async def test_the_decoder_can_only_read_the_file() -> None:
    async with inspecting() as inspector:
        with tempfile.NamedTemporaryFile() as source:
            source.write(ENDLESS + bytes(1_000_000))
            await inspector.decode(small())
            job = asyncio.create_task(inspector.decode(source))
            folder = Path(f"/proc/{inspector.decoder_pid}/fd")

            def opened() -> list[Path]:
                return [path for path in folder.iterdir() if str(path.readlink()) == source.name]

            await until(opened)
            assert opened()[0].lstat().st_mode & 0o777 == 0o500
            job.cancel()
            with pytest.raises(asyncio.CancelledError):
                await job


async def test_the_decoder_knows_and_may_as_little_as_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://watchly:secret@db/watchly")
    async with inspecting() as inspector:
        await inspector.decode(small())
        process = Path(f"/proc/{inspector.decoder_pid}")
        environment = (process / "environ").read_bytes()
        assert b"secret" not in environment
        assert b"MALLOC_ARENA_MAX=2" in environment
        descriptors = {str(path.readlink()) for path in (process / "fd").iterdir()}
        assert {name for name in descriptors if not name.startswith("socket:")} == {os.devnull}
        limits = {
            line[:26].strip(): line[26:47].strip() for line in (process / "limits").read_text().splitlines()
        }
        assert limits["Max address space"] == str(Limits().memory)
        assert limits["Max core file size"] == limits["Max file size"] == "0"
        assert int(limits["Max open files"]) <= 16
        assert 20 <= int(limits["Max cpu time"]) <= 25
        assert (process / "oom_score_adj").read_text().strip() == "1000"
        assert int((process / "stat").read_text().rpartition(")")[2].split()[16]) >= 10  # how nice it is


async def test_what_was_accepted_has_room_left_to_be_rendered() -> None:
    async with inspecting() as inspector:
        limits = []
        for rendition in (None, CARD):
            await asked(inspector, small(), rendition)
            limits.append(processor_limit(inspector.decoder_pid))
        assert limits[1] >= limits[0] + Limits().cpu_seconds // 2


async def test_signals_for_the_whole_service_leave_a_job_to_its_parent() -> None:
    async with inspecting() as inspector:
        await inspector.decode(small())
        pid = inspector.decoder_pid
        assert pid is not None
        assert os.getpgid(pid) == pid
        os.kill(pid, signal.SIGTERM)
        await inspector.decode(small())
        assert inspector.decoder_pid == pid


@pytest.mark.parametrize("program", ["/nonexistent/python", "/bin/false"])
async def test_a_decoder_that_does_not_start_is_unavailable(
    monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    async with inspecting() as inspector:
        with monkeypatch.context() as patched:
            patched.setattr(sys, "executable", program)
            with pytest.raises(Unavailable, match="decoder"):
                await inspector.decode(small())
        await inspector.decode(small())


async def test_an_image_of_too_many_pixels_in_all_is_too_large() -> None:
    content = bytearray(ENDLESS)
    content[6:10] = (1200).to_bytes(2, "little") * 2
    async with inspecting() as inspector:
        with pytest.raises(ImageTooLarge, match="300,000,000 pixels in all"):
            await inspector.decode(io.BytesIO(content))


async def test_an_image_of_too_many_pictures_is_too_large() -> None:
    async with inspecting() as inspector:
        with pytest.raises(ImageTooLarge, match="at most 1000 pictures"):
            await inspector.decode(io.BytesIO(samples.gif_of(MAX_FRAMES + 1)))


def descriptors_and_threads() -> set[object]:
    listed = set(Path("/proc/self/fd").iterdir())  # one of them is gone by now: that of the listing
    return {(path, path.readlink()) for path in listed if path.is_symlink()} | set(threading.enumerate())


@pytest.mark.parametrize("closed", [True, False])
async def test_nothing_is_left_of_an_inspector(*, closed: bool) -> None:
    gc.collect()
    await asyncio.to_thread(int)  # asyncio's own thread, which stays
    before = descriptors_and_threads()
    inspector = PillowInspector()
    await inspector.render(small(), CARD)
    pid = inspector.decoder_pid
    assert pid is not None
    if closed:
        inspector.close()
        assert inspector.decoder_pid is None
        inspector.close()
    del inspector
    gc.collect()
    await until(lambda: gone(pid))
    await until(lambda: descriptors_and_threads() <= before)


async def test_closing_ends_a_job_and_turns_away_who_waits() -> None:
    inspector = PillowInspector()
    job, pid = await begun(inspector)
    waiting = asyncio.create_task(inspector.decode(small()))
    await asyncio.sleep(0)
    inspector.close()
    for task in (job, waiting):
        with pytest.raises(Unavailable, match="it was closed"):
            await task
    assert gone(pid)
    assert inspector.decoder_pid is None


@pytest.mark.parametrize("content", [samples.UPRIGHT["png"], samples.BROKEN["png of garbage"]])
async def test_a_forgotten_inspector_is_no_garbage(content: bytes) -> None:
    """Garbage collection may come late, and holds a process until then."""
    gc.collect()
    gc.disable()
    try:
        inspector = PillowInspector()
        with suppress(ImageUnreadable):
            await inspector.decode(io.BytesIO(content))
        pid = inspector.decoder_pid
        assert pid is not None
        del inspector
        await until(lambda: gone(pid))
    finally:
        gc.enable()


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


async def test_cleaning_steps_back_behind_all_else() -> None:
    class Source(io.BytesIO):
        seen = 0

        def seek(self, offset: int, whence: int = 0, /) -> int:
            self.seen = niceness()
            return super().seek(offset, whence)

    source = Source(samples.UPRIGHT["png"])
    async with inspecting() as inspector:
        await inspector.measure(source)
        assert source.seen == niceness()
        await inspector.clean(source)
        assert source.seen > niceness()


PARENT = """
import asyncio, io, os, sys, threading
from watchly_adapters.pillow import PillowInspector
from watchly_adapters.testing import samples

async def main():
    inspector = PillowInspector()
    await inspector.decode(io.BytesIO(samples.UPRIGHT["png"]))
    print(inspector.decoder_pid, flush=True)
    with open(sys.argv[1], "rb") as source:
        await inspector.decode(source)

asyncio.run(main())
"""


@pytest.mark.parametrize("busy", [True, False])
async def test_the_decoder_ends_with_its_parent_whatever_it_does(tmp_path: Path, *, busy: bool) -> None:
    (tmp_path / "endless.gif").write_bytes(ENDLESS)
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, tmp_path / "endless.gif", stdout=subprocess.PIPE
    )
    try:
        assert parent.stdout is not None
        pid = int(await parent.stdout.readline())
        if busy:
            before = processor_seconds(pid)
            await until(lambda: processor_seconds(pid) > before + 0.1)
            spent = processor_seconds(pid)
    finally:
        parent.kill()
        await parent.communicate()
    await until(lambda: ended(pid))
    if busy:
        with suppress(OSError):  # it is gone, and what it spent with it
            assert processor_seconds(pid) < spent + 2


FORKED = """
import asyncio, io, os, threading
from watchly_adapters.pillow import PillowInspector
from watchly_adapters.testing import samples

inspector = PillowInspector()  # before the fork, as a server's master does
threading.Thread(target=threading.Event().wait, daemon=True).start()
workers = []
for _ in range(2):
    worker = os.fork()
    if not worker:
        async def work():
            for _ in range(3):
                await inspector.decode(io.BytesIO(samples.UPRIGHT["png"]))
        asyncio.run(work())
        inspector.close()
        os._exit(0)
    workers.append(worker)
print([os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) for worker in workers])
"""


def test_forked_workers_have_decoders_of_their_own() -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", FORKED],
        capture_output=True,
        check=True,
        text=True,
        timeout=DEADLINE,
    )
    assert ended.stdout.strip() == "[0, 0]"
    assert not ended.stderr


def test_an_inspector_serves_one_event_loop_after_the_other() -> None:
    inspector = PillowInspector()
    pids = []
    for _ in range(3):
        asyncio.run(inspector.decode(small()))
        pids.append(inspector.decoder_pid)
    inspector.close()
    assert len(set(pids)) == 1
