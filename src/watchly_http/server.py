"""The supervisor of `watchly serve`: starts the workers, replaces the fallen, stops them all in order."""

import contextlib
import errno
import functools
import gc
import math
import multiprocessing
import multiprocessing.connection
import multiprocessing.util
import os
import resource
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from multiprocessing.process import BaseProcess

from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings
from granian.server import MPServer
from granian.server.mp import WorkerProcess

from watchly_core.errors import Misconfigured, WatchlyError
from watchly_http import drain, logs
from watchly_http.drain import Application, Drained, Phase
from watchly_http.watchdog import SILENCE, Watchdog, is_traced

# Many of them may be streams, which cost little. One more waits in the queue of the system (BACKLOG) until
# another ends, as those do that nobody has used for half a minute.
CONNECTIONS_PER_WORKER, BACKLOG = 4_000, 2_048
SPARE_DESCRIPTORS = 124  # for all that is no connection
KEEP_EVERY, KEEP_AT_LEAST = 1.0, 15.0  # seconds between calls of `keep`; those between failures double
# Requests leave few cycles behind: at Python's own pace, which is 700 objects, the collector takes a third of
# the time of a write, and tens of milliseconds at once.
COLLECT_EVERY = (50_000, 20, 20)
CRASHES, CRASH_WINDOW = 3, 5.0  # deaths in a row, each within so many seconds of the start, are the end


def serve(  # noqa: PLR0913  # each is a setting of its own
    load_app: Callable[[], Application],
    *,
    host: str,
    port: int,
    workers: int,
    drain_timeout: float,
    notice: float = 0.0,
    on_listening: Callable[[str], None] | None = None,
    on_birth: Callable[[int], None] | None = None,
    on_death: Callable[[int], None] | None = None,
    keep: Callable[[], None] | None = None,
    silence: float = SILENCE,
    connections: int = CONNECTIONS_PER_WORKER,
) -> int:
    """Run workers until SIGTERM, SIGINT or SIGHUP; a second signal cuts what still runs.

    A worker that dies is replaced, and so is one that does nothing any more: its requests are lost.

    After the return the signals stay caught and change nothing, so that the caller can stop in peace
    what the workers needed.

    Args:
        load_app: builds the application; called in each worker, after the fork.
        host: an address or a name; a name with addresses of both kinds means the IPv4 one.
        port: 0 picks a free one.
        workers: how many processes answer requests.
        drain_timeout: seconds from the signal after which running requests are cut.
        notice: seconds in which readiness says 503 while requests are still taken, for a gateway to
            look away; part of `drain_timeout`.
        on_listening: called once, with a base URL that answers, when every worker is ready.
        on_birth: called in each worker, before `load_app`, with its number: from 0 on, and one that replaces
            another has the number of that one.
        on_death: called with the number of a worker that died, before another takes its place.
        keep: called about every second until the stop, to look after what the workers need. Signals and
            dead workers wait for its return. A WatchlyError of it is reported once until it succeeds again.
        silence: seconds after which a worker whose event loop does not run is killed, unless a debugger holds
            it; time in which the supervisor itself could not look does not count.
        connections: how many a worker takes at a time, if the system lets it; others wait.

    Returns:
        The exit code: 0 after a signal, 1 when the workers could not start or kept dying.

    Raises:
        Misconfigured: nothing can listen there.
    """
    address, port, claim = _claim(host, port)
    with claim:
        supervisor = _Supervisor(
            load_app,
            address,
            port,
            workers,
            drain_timeout=drain_timeout,
            silence=silence,
            connections=_possible(connections),
        )
        supervisor.notice, supervisor.on_listening = notice, on_listening
        supervisor.on_birth, supervisor.on_death, supervisor.keep = on_birth, on_death, keep
        with contextlib.suppress(SystemExit), contextlib.closing(supervisor):  # the code to exit with is ours
            supervisor.serve(target_loader=supervisor.load, wrap_loader=False)
    return supervisor.exit_code


class _Supervisor(MPServer):
    """granian's server with a loop and a stop of its own; granian spawns and accepts."""

    notice = 0.0
    on_listening: Callable[[str], None] | None = None
    on_birth: Callable[[int], None] | None = None
    on_death: Callable[[int], None] | None = None
    keep: Callable[[], None] | None = None

    def __init__(  # noqa: PLR0913  # each is a thing of its own
        self,
        load_app: Callable[[], Application],
        address: str,
        port: int,
        workers: int,
        *,
        drain_timeout: float,
        silence: float,
        connections: int,
    ) -> None:
        super().__init__(
            "watchly",
            address,
            port,
            interface=Interfaces.ASGI,
            workers=workers,
            http=HTTPModes.http1,  # no browser speaks h2c, and a proxy in front needs none
            # Also the longest that a connection which never finishes its headers holds up a stop.
            http1_settings=HTTP1Settings(header_read_timeout=int(1000 * min(30.0, max(1.0, drain_timeout)))),
            loop=Loops.uvloop,  # beside it asyncio's takes a fifth more for an empty request
            websockets=False,
            backlog=BACKLOG,
            backpressure=connections,  # by default the backlog divided by the workers: 32 at 64
            log_enabled=False,
        )
        self.exit_code = 0
        self._home, self._load_app, self._drain_timeout = os.getpid(), load_app, drain_timeout
        self._watchdog = Watchdog(workers, silence)
        self._stop_at, self._hurry = 0.0, False
        self._crashes: dict[int, int] = {}
        self._keep_at, self._keep_pause = 0.0, KEEP_EVERY
        self._ears, self._mouth = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ears.setblocking(False)  # noqa: FBT003  # its only parameter
        self._leash, self._leash_held = os.pipe()
        multiprocessing.set_start_method("fork", force=True)  # closures travel, memory is shared
        drain.begin()

    def close(self) -> None:
        """End every worker that an error has left, and whatever belongs to them."""
        self._stop_workers()
        self._ears.close()
        self._mouth.close()
        os.close(self._leash)
        os.close(self._leash_held)

    def load(self, number: int) -> Drained:
        """Build the application of a worker, in the worker."""
        os.close(self._leash_held)
        # What `atexit` knows is not for processes that multiprocessing has forked.
        multiprocessing.util.Finalize(None, logs.flush, exitpriority=0)
        drain.hold_signals()
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, self.backpressure + SPARE_DESCRIPTORS), hard))
        try:
            if self.on_birth is not None:
                self.on_birth(number)
            app = self._load_app()
        except Exception as error:  # noqa: BLE001  # reported by the supervisor, once for all workers
            self._report(error)
            sys.exit(1)
        # All that is there by now lives as long as the worker does.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*COLLECT_EVERY)
        return Drained(
            app,
            report=self._report,
            leash=self._leash,
            port=self.bind_port,
            drain_timeout=self._drain_timeout,
            beat=functools.partial(self._watchdog.beat, number),
        )

    def signal_handler_interrupt(self, *_args: object, **_kwargs: object) -> None:
        """Note that a stop is wanted, or wanted at once."""
        if os.getpid() != self._home:
            return  # a worker that has yet to take its signals
        self._hurry = drain.draining()
        if not self._hurry:
            self._stop_at = time.monotonic()
            drain.mark(Phase.DRAINING)
        with contextlib.suppress(OSError):  # full: then it wakes anyway
            self._mouth.send(b"signal", socket.MSG_DONTWAIT)

    signal_handler_reload = signal_handler_interrupt  # SIGHUP: the terminal is gone

    def _report(self, error: BaseException | None) -> None:
        """Tell the supervisor, from a worker, how its start went."""
        why = str(error) if isinstance(error, WatchlyError) else "".join(traceback.format_exception(error))
        self._mouth.send(
            b"ready" if error is None else b"failed " + why.strip().encode(errors="replace")[-60_000:]
        )

    def _heard(self) -> Iterable[str]:
        with contextlib.suppress(BlockingIOError):
            while True:
                yield self._ears.recv(65_536).decode(errors="replace")

    @property
    def _processes(self) -> list[BaseProcess]:
        return [worker.inner for worker in self.wrks]

    def _serve_loop(self, spawn_target: object, target_loader: object) -> None:
        ready = 0
        while not drain.draining() and not self.exit_code:
            sentinels = [process.sentinel for process in self._processes]
            pause = min(self._before_keeping(), self._watchdog.before_look())
            awake = multiprocessing.connection.wait([self._ears, *sentinels], pause)
            for report in self._heard():
                if report == "ready":
                    ready += 1
                    if ready == self.workers and self.on_listening is not None:
                        self.on_listening(self._url())
                elif report.startswith("failed "):
                    self._fail(f"a worker could not start: {report.removeprefix('failed ')}")
                    break
            for index, sentinel in enumerate(sentinels):
                if sentinel in awake and not drain.draining() and not self.exit_code:
                    self._replace(index, spawn_target, target_loader)
            for index in self._watchdog.look():
                self._end(index)
            if self._before_keeping() == 0 and not drain.draining() and not self.exit_code:
                self._call_keep()

    def _spawn_worker(  # type: ignore[override]  # it is as MPServer's, which is not as that one's base has it
        self, idx: int, target: object, callback_loader: Callable[[int], Drained]
    ) -> WorkerProcess:
        return super()._spawn_worker(idx, target, functools.partial(callback_loader, idx))

    def _before_keeping(self) -> float:
        return math.inf if self.keep is None else max(0.0, self._keep_at - time.monotonic())

    def _call_keep(self) -> None:
        pause = KEEP_EVERY
        try:
            if self.keep is not None:
                self.keep()
        except WatchlyError as error:
            if self._keep_pause == KEEP_EVERY:
                sys.stderr.write(f"watchly: {' '.join(str(error).split())}\n")
            pause = min(2 * self._keep_pause, KEEP_AT_LEAST)
        self._keep_at, self._keep_pause = time.monotonic() + pause, pause

    def _end(self, index: int) -> None:
        """Kill a worker that does nothing any more; its death is heard of like any other."""
        process = self._processes[index]
        if process.pid is not None and not is_traced(process.pid):
            sys.stderr.write(f"watchly: worker {process.pid} does nothing any more, killing it\n")
            process.kill()

    def _replace(self, index: int, spawn_target: object, target_loader: object) -> None:
        young = time.monotonic() - self.wrks[index].birth < CRASH_WINDOW
        self._crashes[index] = self._crashes.get(index, 0) + 1 if young else 1
        if self._crashes[index] >= CRASHES:
            self._fail("the workers die soon after they start, giving up")
            return
        sys.stderr.write(f"watchly: worker {self._processes[index].pid} died, starting another\n")
        self._watchdog.forget(index)
        if self.on_death is not None:
            self.on_death(index)
        self._respawn_workers([index], spawn_target, target_loader)

    def _fail(self, why: str) -> None:
        sys.stderr.write(f"watchly: {why}\n")
        self.exit_code = 1

    def _url(self) -> str:
        address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.bind_addr, self.bind_addr)  # noqa: S104
        patience = time.monotonic() + CRASH_WINDOW
        while time.monotonic() < patience:  # a worker listens a moment after its startup
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection((address, self.bind_port), timeout=1).close()
                break
            time.sleep(0.002)
        return f"http://{f'[{address}]' if ':' in address else address}:{self.bind_port}"

    def _stop_workers(self) -> None:
        stop_at = self._stop_at or time.monotonic()
        self._enter(Phase.DRAINING, until=self._stop_at + min(self.notice, self._drain_timeout))
        self._enter(Phase.LEAVING, until=stop_at + self._drain_timeout)
        self._enter(Phase.CUTTING, until=time.monotonic() + drain.KILL_AFTER)
        for process in self._processes:
            process.kill()  # its loop is blocked
            process.join()
        self.wrks.clear()

    def _enter(self, reached: Phase, *, until: float) -> None:
        """Bring the workers to a phase, and wait for them to end or for the next one to be due."""
        drain.mark(max(reached, drain.phase()))
        going = {process.sentinel for process in self._processes}
        for process in self._processes:
            process.terminate()
        while going and (left := until - time.monotonic()) > 0:
            if self._hurry and reached < Phase.CUTTING:
                return
            going.difference_update(multiprocessing.connection.wait([self._ears, *going], left))
            list(self._heard())


def _possible(connections: int) -> int:
    """So many connections, if a worker can have them: each is a descriptor."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(connections, hard - SPARE_DESCRIPTORS)


def _claim(host: str, port: int) -> tuple[str, int, socket.socket]:
    """Find where to listen and keep other Watchlys from it.

    granian's sockets share their port (SO_REUSEPORT), with a second Watchly too. A lock named after the
    address keeps that one out, from here on and as long as a worker lives; the socket that could listen
    for a moment says that nobody else does.
    """
    if not 0 <= port <= 65_535:  # noqa: PLR2004  # getaddrinfo would take it modulo 65,536
        raise Misconfigured(f"PORT: {port} is not between 0 and 65535; try PORT=5000")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise Misconfigured(f"HOST: {host!r} is not an address and no name that resolves: {error}") from error
    family, *_, where = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    address = str(where[0])
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
            port = int(probe.getsockname()[1])
            claim.bind(f"\0watchly/{address}/{port}")
            probe.listen()
    except OSError as error:
        claim.close()
        raise Misconfigured(_fault(host, port, error)) from error
    return address, port, claim


def _fault(host: str, port: int, error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"PORT: {port} on {host} is in use by another program; try another, such as PORT={port + 1}"
            )
        case errno.EACCES:
            return f"PORT: {port} is reserved for privileged programs; try another, such as PORT=5000"
        case errno.EADDRNOTAVAIL:
            return f"HOST: {host} is no address of this machine; try HOST=127.0.0.1"
        case _:
            return f"HOST, PORT: cannot listen on {host}, port {port}: {error.strerror or error}"
