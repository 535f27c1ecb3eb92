"""How the server starts and stops, seen from outside: each test runs this file as a service."""

import asyncio
import gc
import http.client
import itertools
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec
import pytest
import structlog
from tests.services import Program

from watchly_adapters.metrics import Metrics
from watchly_core.errors import Misconfigured, Unavailable
from watchly_http import server
from watchly_http.drain import LOOK_EVERY, UNHEARD, draining
from watchly_http.front import Front
from watchly_http.problems import KINDS, Problem

if TYPE_CHECKING:
    from litestar.types import LifeSpanReceive, LifeSpanScope, LifeSpanSend, Receive, Scope, Send

PATIENCE = 60.0
"""Seconds for anything that is to happen; far more than it takes."""


class Plan(msgspec.Struct):
    """What the service of a test is to do."""

    host: str = "127.0.0.1"
    port: int = 0
    workers: int = 2
    drain_timeout: float = PATIENCE
    notice: float = 0.0
    fail: str = ""
    gate: str = ""
    user: int = 0
    keep: str = ""
    silence: float = PATIENCE
    connections: int = 1_000


# ---- the service ----


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())  # one write: the lines of several processes do not mix


class App:
    """The smallest application that shows how a stop treats it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.front = Front(self.answer, by_origin=False, metrics=Metrics().requests)
        self.started = False

    async def __call__(
        self,
        scope: "Scope | LifeSpanScope",
        receive: "Receive | LifeSpanReceive",
        send: "Send | LifeSpanSend",
    ) -> None:
        if scope["type"] == "lifespan":
            await self.live(receive, send)  # type: ignore[arg-type]  # the scope says which they are
        else:
            await self.front(scope, receive, send)  # type: ignore[arg-type]  # as above

    async def live(self, receive: "LifeSpanReceive", send: "LifeSpanSend") -> None:
        await receive()
        match self.plan.fail:
            case "startup":
                raise Unavailable("database", "connection refused")
            case "bug":
                raise ZeroDivisionError("a bug")
            case "stuck":
                say("starting")
                await asyncio.Event().wait()
            case "slow":
                say("starting")
                try:
                    await asyncio.Event().wait()
                finally:
                    await asyncio.sleep(3 * LOOK_EVERY)  # as long as that is what it tries
                    say("cleared")
            case "deaf":
                asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
            case "crash":
                asyncio.get_running_loop().call_later(0.01, os._exit, 3)
        await send({"type": "lifespan.startup.complete"})
        self.started = True
        say(f"started {os.getpid()}")
        watch = asyncio.create_task(self.watch())
        await receive()
        await watch
        say("stopped")
        await send({"type": "lifespan.shutdown.complete"})

    async def watch(self) -> None:
        while not draining():  # noqa: ASYNC110  # it is written by another process
            await asyncio.sleep(0.005)
        say("draining")

    async def answer(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        path = scope["path"]
        status = 503 if path == "/health/ready" and draining() else 200
        match path:
            case "/hang":
                say("hanging")
                await asyncio.Event().wait()
            case "/stubborn":
                say("hanging")
                with suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
                await asyncio.Event().wait()
            case "/blocked":
                say("hanging")
                threading.Event().wait()
            case "/upload":
                say("hanging")
                while (await receive()).get("more_body"):
                    pass
            case "/drain":
                say("hanging")
                await asyncio.to_thread(Path(self.plan.gate).read_bytes)
        await send({"type": "http.response.start", "status": status, "headers": []})
        if path == "/stream":
            say("hanging")
            while True:
                await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
                await asyncio.sleep(0.01)
        await send({"type": "http.response.body", "body": what_is_at(path), "more_body": False})


def what_is_at(path: str) -> bytes:
    if path == "/big":
        return bytes(50_000_000)
    if path == "/collector":
        return msgspec.json.encode([gc.get_freeze_count(), *gc.get_threshold()])
    return str(os.getpid()).encode()


def pester(app: App) -> None:
    """Send this process signals for as long as it starts: any moment may be the bad one."""
    while not app.started:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.0001)


def keep(plan: Plan, numbers: Iterator[int]) -> None:
    number = next(numbers)
    say(f"kept {number} {draining()}")
    if plan.keep == "wait":
        Path(plan.gate).read_bytes()
    if plan.keep == "fail" and number % 4:
        raise Unavailable("database", f"no luck,\nnumber {number}")


def main() -> int:
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    structlog.configure(logger_factory=structlog.WriteLoggerFactory())  # one write, as in `say`
    if plan.user:
        "x".encode("idna")  # loads the codec, from where this user may not read
        os.setuid(plan.user)

    def load() -> App:
        if plan.fail == "load":
            raise Misconfigured("DATABASE_URL: no such thing")
        app = App(plan)
        if plan.fail == "signals":
            threading.Thread(target=pester, args=(app,)).start()
        return app

    server.KEEP_EVERY = 0.01
    try:
        return server.serve(
            load,
            host=plan.host,
            port=plan.port,
            workers=plan.workers,
            drain_timeout=plan.drain_timeout,
            notice=plan.notice,
            on_listening=lambda url: say(f"listening {url}"),
            keep=partial(keep, plan, itertools.count()) if plan.keep else None,
            silence=plan.silence,
            connections=plan.connections,
        )
    except Misconfigured as error:
        sys.stderr.write(f"{error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())


# ---- the tests ----


class Service:
    """A service in a session of its own, with no patience for what never happens."""

    def __init__(self, plan: Plan, errors: IO[bytes]) -> None:
        self.plan, self._errors = plan, errors
        self.lines: list[str] = []
        self._program = Program(
            "tests.http.test_server",
            msgspec.json.encode(plan).decode(),
            variables=os.environ,
            errors=errors.fileno(),
            apart=True,
        )
        self.process = self._program.process
        self.pid = self.process.pid

    def close(self) -> None:
        for pid in left_behind(self.pid):
            os.kill(pid, signal.SIGKILL)
        with self._program:
            pass
        self._errors.close()

    def heard(self, start: str, times: int = 1) -> list[str]:
        """Wait until so many lines began so (from the first line on), and return them."""
        while len(found := [line for line in self.lines if line.startswith(start)]) < times:
            assert self.hear(), f"ended without {start!r}: {self.lines} {self.errors}"
        return found

    def hear(self) -> str:
        """Wait for the next line, empty at the end."""
        if line := self._program.heard():
            self.lines.append(line)
        return line

    def connect(self) -> http.client.HTTPConnection:
        url = urlsplit(self.heard("listening")[0].split()[1])
        return http.client.HTTPConnection(url.hostname or "", url.port, timeout=PATIENCE)

    def ask(self, path: str) -> http.client.HTTPConnection:
        connection = self.connect()
        connection.request("GET", path)
        return connection

    def ended(self) -> int:
        """Wait for the end, and check that it was one."""
        code = self.process.wait(PATIENCE)
        gone(left_behind(self.pid))
        self.lines += self._program.output.read().decode().split("\n")
        return code

    @property
    def errors(self) -> list[str]:
        self._errors.seek(0)
        return self._errors.read().decode().splitlines()


def left_behind(session: int) -> list[int]:
    """Find the living processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, sid = stat.read_text().rpartition(")")[2].split()[:4]
            if int(sid) == session and state != "Z":
                found.append(int(stat.parent.name))
    return found


def gone(pids: list[int]) -> None:
    """Wait for the end of processes."""
    for pid in pids:
        with suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            ready, _, _ = select.select([handle], [], [], PATIENCE)
            os.close(handle)
            assert ready, f"process {pid} lives on"


@pytest.fixture
def run(tmp_path: Path) -> Iterator["Runner"]:
    runner = Runner(tmp_path / "stderr")
    yield runner
    runner.end()


class Runner:
    """Starts services, and leaves none behind."""

    def __init__(self, errors: Path) -> None:
        self._errors, self._services = errors, list[Service]()

    def __call__(self, plan: Plan) -> Service:
        errors = self._errors.with_suffix(f".{len(self._services)}").open("a+b")  # read while it is written
        self._services.append(Service(plan, errors))
        return self._services[-1]

    def end(self) -> None:
        for service in self._services:
            service.close()


def assert_refused(response: http.client.HTTPResponse, path: str) -> None:
    """The reply is the problem that a stop cuts a request with."""
    kind = KINDS["unavailable"]
    assert response.status == kind.status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["retry-after"] == "1"
    problem = msgspec.json.decode(response.read(), type=Problem)
    assert (problem.code, problem.title, problem.status) == (kind.code, kind.title, kind.status)
    assert (problem.type, problem.instance) == (f"/problems/{kind.code}", path)
    assert problem.detail == "The service is stopping."
    assert problem.request_id == response.headers["x-request-id"] != ""


def refused(service: Service) -> bool:
    """Wait until the service listens or has ended, and tell which."""
    while line := service.hear():
        if line.startswith("listening"):
            return False
    return True


@contextmanager
def reply(connection: http.client.HTTPConnection) -> Iterator[http.client.HTTPResponse]:
    response = connection.getresponse()
    try:
        yield response
    finally:
        response.close()
        connection.close()


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("workers", [1, 3])
def test_with_nothing_running_a_signal_ends_it_cleanly(run: Runner, sign: int, workers: int) -> None:
    service = run(Plan(workers=workers))
    service.heard("listening")
    service.process.send_signal(sign)
    assert service.ended() == 0
    assert len(service.heard("stopped", workers)) == workers
    assert service.errors == []


def test_a_worker_whose_server_misses_the_stop_leaves_once_nobody_is_connected(run: Runner) -> None:
    service = run(Plan(fail="deaf", workers=1))
    client = service.ask("/")
    with reply(client) as response:  # the connection is kept alive
        assert response.status == 200
        response.read()
        service.process.send_signal(signal.SIGTERM)
        service.heard("draining")
        with pytest.raises(subprocess.TimeoutExpired):
            service.process.wait(4 * UNHEARD)
    assert service.ended() == 0
    assert len(service.heard("stopped")) == 1
    assert service.errors == []


def test_ctrl_c_in_a_terminal_reaches_every_process_and_ends_it_cleanly(run: Runner) -> None:
    service = run(Plan())
    service.heard("listening")
    os.killpg(service.pid, signal.SIGINT)
    assert service.ended() == 0
    assert len(service.heard("stopped", 2)) == 2
    assert service.errors == []


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_running_request_finishes_during_the_drain(run: Runner, tmp_path: Path, sign: int) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    service = run(Plan(gate=str(gate)))
    request = service.ask("/drain")
    service.heard("hanging")
    os.killpg(service.pid, sign)
    service.heard("draining", 2)
    service.heard("stopped")
    gate.write_bytes(b"go on")
    with reply(request) as response:
        assert response.status == 200
        assert response.read().isdigit()
    assert service.ended() == 0
    assert len(service.heard("stopped", 2)) == 2
    assert service.errors == []


@pytest.mark.parametrize("path", ["/hang", "/stubborn"])
def test_a_request_that_never_ends_is_cut_at_the_deadline(run: Runner, path: str) -> None:
    service = run(Plan(drain_timeout=0.2))
    request = service.ask(path)
    service.heard("hanging")
    service.process.terminate()
    with reply(request) as response:
        assert_refused(response, path)
    assert service.ended() == 0
    assert len(service.heard("stopped", 2)) == 2
    assert service.errors == []


def test_an_upload_that_stalls_is_cut_at_the_deadline(run: Runner) -> None:
    service = run(Plan(drain_timeout=0.2))
    connection = service.connect()
    connection.putrequest("POST", "/upload")
    connection.putheader("Content-Length", "1000")
    connection.endheaders(b"the first bytes")
    service.heard("hanging")
    service.process.terminate()
    with reply(connection) as response:
        assert_refused(response, "/upload")
    assert service.ended() == 0
    assert len(service.heard("stopped", 2)) == 2


def test_an_endless_stream_is_cut_and_the_client_can_tell(run: Runner) -> None:
    service = run(Plan(drain_timeout=0.2))
    request = service.ask("/stream")
    with reply(request) as response:
        assert response.read(9) == b"data: 1\n\n"
        service.process.terminate()
        with pytest.raises(http.client.IncompleteRead):
            response.read()
    assert service.ended() == 0
    assert len(service.heard("stopped", 2)) == 2
    assert service.errors == []


@pytest.mark.parametrize("path", ["/stream", "/big"])
def test_a_client_that_stops_reading_does_not_outlast_the_deadline(run: Runner, path: str) -> None:
    service = run(Plan(drain_timeout=0.2))
    with reply(service.ask(path)):
        service.process.terminate()
        assert service.ended() == 0
    assert len(service.heard("stopped", 2)) == 2


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHo", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_a_connection_without_a_request_does_not_hold_up_the_stop(run: Runner, sent: bytes) -> None:
    service = run(Plan(drain_timeout=1.0))
    connection = service.connect()
    connection.connect()
    connection.sock.sendall(sent)
    if sent.endswith(b"\r\n\r\n"):
        connection.sock.recv(10_000)
    service.process.terminate()
    assert service.ended() == 0
    assert len(service.heard("stopped", 2)) == 2
    connection.close()


def test_a_second_signal_cuts_at_once(run: Runner) -> None:
    service = run(Plan(drain_timeout=10 * PATIENCE))
    request = service.ask("/hang")
    service.heard("hanging")
    service.process.terminate()
    service.heard("draining", 2)
    service.process.send_signal(signal.SIGINT)
    with reply(request) as response:
        assert response.status == 503
    assert service.ended() == 0
    assert len(service.heard("stopped", 2)) == 2
    assert service.errors == []


def test_requests_are_answered_and_readiness_says_no_during_the_notice(run: Runner) -> None:
    service = run(Plan(drain_timeout=10 * PATIENCE, notice=10 * PATIENCE))
    with reply(service.ask("/health/ready")) as response:
        assert response.status == 200
    service.process.terminate()
    service.heard("draining", 2)
    with reply(service.ask("/health/ready")) as response:
        assert response.status == 503
    with reply(service.ask("/fast")) as response:
        assert response.status == 200
    service.process.terminate()
    assert service.ended() == 0
    assert len(service.heard("stopped", 2)) == 2


def test_a_worker_whose_loop_is_blocked_is_killed_in_the_end(run: Runner) -> None:
    service = run(Plan(drain_timeout=0.1))
    request = service.ask("/blocked")
    service.heard("hanging")
    service.process.terminate()
    assert service.ended() == 0
    assert len(service.heard("stopped")) == 1
    request.close()


def test_workers_give_no_two_requests_the_same_id(run: Runner) -> None:
    """They are made of one process, as it was when they began."""
    service = run(Plan(workers=2))
    service.heard("started", 2)
    workers: set[int] = set()
    ids: list[str | None] = []
    deadline = time.monotonic() + PATIENCE
    while len(workers) < 2 or len(ids) < 20:
        assert time.monotonic() < deadline
        with reply(service.ask("/fast")) as response:
            workers.add(int(response.read()))
            ids.append(response.headers["x-request-id"])
    assert len(set(ids)) == len(ids)
    service.process.terminate()
    assert service.ended() == 0


def test_signals_sent_to_a_worker_alone_change_nothing(run: Runner) -> None:
    service = run(Plan(workers=1))
    worker = int(service.heard("started")[0].split()[1])
    service.heard("listening")
    for sign in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(worker, sign)
    with reply(service.ask("/fast")) as response:
        assert int(response.read()) == worker
    service.process.terminate()
    assert service.ended() == 0


def test_signals_sent_to_a_worker_that_is_starting_change_nothing(run: Runner) -> None:
    service = run(Plan(workers=6, fail="signals"))
    with reply(service.ask("/fast")) as response:
        assert response.status == 200
    service.process.terminate()
    assert service.ended() == 0
    assert service.errors == []


@pytest.mark.parametrize("busy", [False, True])
def test_workers_leave_when_the_supervisor_is_killed(run: Runner, busy: bool) -> None:
    service = run(Plan(drain_timeout=0.2))
    service.heard("listening")
    request = service.ask("/hang") if busy else None
    if busy:
        service.heard("hanging")
    service.process.kill()
    if request is not None:
        with reply(request) as response:
            assert response.status == 503
    assert service.ended() == -signal.SIGKILL
    assert len(service.heard("stopped", 2)) == 2


def test_a_worker_that_was_killed_is_replaced_and_service_goes_on(run: Runner) -> None:
    service = run(Plan())
    service.heard("listening")
    first, other = (int(line.split()[1]) for line in service.heard("started", 2))

    def answering() -> int:
        with reply(service.ask("/fast")) as response:
            return int(response.read())

    while answering() != other:  # it listens a moment after it started; the limit on each test ends it
        pass
    os.kill(first, signal.SIGKILL)
    gone([first])
    while (third := answering()) == other:
        pass
    assert third == int(service.heard("started", 3)[2].split()[1])
    service.process.terminate()
    assert service.ended() == 0
    assert service.errors == [f"watchly: worker {first} died, starting another"]


def one_for_each_worker(service: Service) -> dict[int, http.client.HTTPConnection]:
    """A connection to each worker, by its process; none is opened anew behind our back."""
    found: dict[int, http.client.HTTPConnection] = {}
    while len(found) < service.plan.workers:  # the limit on each test ends it
        connection = service.ask("/fast")
        worker = int(connection.getresponse().read())
        if found.setdefault(worker, connection) is not connection:
            connection.close()
        connection.auto_open = False
    return found


def test_workers_that_do_nothing_any_more_are_replaced_and_others_answer_meanwhile(run: Runner) -> None:
    service = run(Plan(workers=3, silence=2.0))
    connections = one_for_each_worker(service)
    (blocked, first), (stopped, second), (busy, third) = connections.items()
    first.request("GET", "/blocked")
    service.heard("hanging")
    os.kill(stopped, signal.SIGSTOP)
    second.request("GET", "/fast")
    while len(service.errors) < 4:
        third.request("GET", "/fast")
        assert int(third.getresponse().read()) == busy
        service.hear()  # its line in the log: nobody else reads it
    for lost in (first, second):
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            lost.getresponse()
    assert set(service.errors) == {
        f"watchly: worker {worker} {what}"
        for worker in (blocked, stopped)
        for what in ("does nothing any more, killing it", "died, starting another")
    }
    service.heard("started", 5)
    renewed = one_for_each_worker(service)
    assert set(connections) & set(renewed) == {busy}
    for connection in (*connections.values(), *renewed.values()):
        connection.close()
    service.process.terminate()
    assert service.ended() == 0
    assert len(service.errors) == 4


def test_a_connection_too_much_waits_until_another_ends(run: Runner) -> None:
    service = run(Plan(workers=1, connections=2))
    first, second = service.ask("/fast"), service.ask("/fast")
    for taken in (first, second):
        taken.getresponse().read()
    third = service.ask("/fast")
    for _ in range(20):
        second.request("GET", "/fast")
        assert second.getresponse().read()
    assert select.select([third.sock], [], [], 0) == ([], [], [])
    first.close()
    with reply(third) as response:
        assert response.status == 200
    second.close()
    service.process.terminate()
    assert service.ended() == 0


def test_workers_leave_what_was_there_at_the_start_to_no_collector(run: Runner) -> None:
    service = run(Plan())
    with reply(service.ask("/collector")) as response:
        frozen, *thresholds = msgspec.json.decode(response.read(), type=list[int])
    assert frozen > 10_000
    assert tuple(thresholds) == server.COLLECT_EVERY


def test_what_keeps_the_service_is_called_until_the_stop(run: Runner, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    service = run(Plan(keep="count", gate=str(gate)))
    request = service.ask("/drain")
    service.heard("hanging")
    service.heard("kept", 5)
    service.process.terminate()
    service.heard("draining", 2)
    gate.write_bytes(b"go on")
    with reply(request) as response:
        assert response.status == 200
    assert service.ended() == 0
    assert not [line for line in service.lines if line.startswith("kept") and not line.endswith("False")]
    assert service.errors == []


def test_what_keeps_the_service_complains_once_until_it_succeeds(run: Runner) -> None:
    service = run(Plan(keep="fail"))
    service.heard("kept 9")
    with reply(service.ask("/fast")) as response:
        assert response.status == 200
    service.process.terminate()
    assert service.ended() == 0
    assert service.errors[:3] == [f"watchly: database: no luck, number {number}" for number in (1, 5, 9)]


def test_a_signal_is_seen_while_the_service_is_being_kept(run: Runner, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    service = run(Plan(keep="wait", gate=str(gate)))
    service.heard("kept")
    service.process.terminate()
    service.heard("draining", 2)
    gate.write_bytes(b"")
    assert service.ended() == 0
    assert len([line for line in service.lines if line.startswith("kept")]) == 1
    assert service.errors == []


def test_workers_that_keep_dying_end_the_service(run: Runner) -> None:
    service = run(Plan(workers=1, fail="crash"))
    assert service.ended() == 1
    assert service.errors[-1] == "watchly: the workers die soon after they start, giving up"


@pytest.mark.parametrize(
    ("fail", "line"),
    [
        ("startup", "watchly: a worker could not start: database: connection refused"),
        ("load", "watchly: a worker could not start: DATABASE_URL: no such thing"),
    ],
)
def test_a_startup_that_fails_ends_the_service_with_one_line(run: Runner, fail: str, line: str) -> None:
    service = run(Plan(workers=3, fail=fail))
    assert service.ended() == 1
    assert service.errors == [line]
    assert not [said for said in service.lines if said.startswith("listening")]


def test_a_bug_in_the_startup_shows_where_it_is_once(run: Runner) -> None:
    service = run(Plan(workers=3, fail="bug"))
    assert service.ended() == 1
    assert service.errors[0].startswith("watchly: a worker could not start: Traceback")
    assert [line for line in service.errors if "a bug" in line][1:] == ["ZeroDivisionError: a bug"]


def test_a_startup_that_takes_forever_can_be_stopped(run: Runner) -> None:
    service = run(Plan(fail="stuck", drain_timeout=10 * PATIENCE))
    service.heard("starting", 2)
    os.killpg(service.pid, signal.SIGINT)
    assert service.ended() == 0
    assert service.errors == []


def test_a_startup_that_is_stopped_may_clear_up(run: Runner) -> None:
    service = run(Plan(fail="slow"))
    service.heard("starting", 2)
    os.kill(service.pid, signal.SIGTERM)
    service.heard("cleared", 2)
    assert service.ended() == 0
    assert service.errors == []


def test_a_second_service_on_the_same_port_is_refused(run: Runner) -> None:
    first = run(Plan())
    port = first.connect().port
    second = run(Plan(port=port))
    assert second.ended() == 2
    assert second.errors == [
        f"PORT: {port} on 127.0.0.1 is in use by another program; try another, such as PORT={port + 1}"
    ]
    with reply(first.ask("/fast")) as response:
        assert response.status == 200
    first.process.terminate()
    assert first.ended() == 0


def test_two_services_started_together_do_not_share_a_port(run: Runner) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    rivals = [run(Plan(port=port, workers=1)) for _ in range(3)]
    running = [rival for rival in rivals if not refused(rival)]
    assert len(running) == 1
    running[0].process.terminate()
    assert sorted(rival.ended() for rival in rivals) == [0, 2, 2]


@pytest.mark.parametrize("reuse", [False, True])
def test_a_port_that_another_program_listens_on_is_refused(run: Runner, reuse: bool) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=reuse) as server:
        port = server.getsockname()[1]
        service = run(Plan(port=port))
        assert service.ended() == 2
        assert service.errors[0].startswith(f"PORT: {port} on 127.0.0.1 is in use")
        assert len(service.errors) == 1


@pytest.mark.parametrize(
    ("plan", "start"),
    [
        (Plan(host="no-such-host.invalid"), "HOST: 'no-such-host.invalid' is not an address"),
        (Plan(host="203.0.113.1"), "HOST: 203.0.113.1 is no address of this machine"),
        (Plan(port=1, user=0 if os.geteuid() else 65_534), "PORT: 1 is reserved"),
        (Plan(port=70_000), "PORT: 70000 is not between 0 and 65535"),
    ],
)
def test_an_address_that_cannot_be_had_is_one_line(run: Runner, plan: Plan, start: str) -> None:
    service = run(plan)
    assert service.ended() == 2
    assert service.errors[0].startswith(start)
    assert len(service.errors) == 1


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("::1", "http://[::1]:"),
        ("::", "http://[::1]:"),
        ("0.0.0.0", "http://127.0.0.1:"),  # noqa: S104  # what the test is about
        ("localhost", "http://127.0.0.1:"),
    ],
)
def test_the_url_it_reports_answers(run: Runner, host: str, shown: str) -> None:
    service = run(Plan(host=host))
    assert service.heard("listening")[0].startswith(f"listening {shown}")
    with reply(service.ask("/fast")) as response:
        assert response.status == 200
    service.process.terminate()
    assert service.ended() == 0
