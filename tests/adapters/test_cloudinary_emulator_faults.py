"""What the emulator of Cloudinary makes go wrong, and that it goes wrong as it is said to."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Final

import pytest
from tests.emulated import PATIENCE, PNG, Answer, ask, form, send, signed, upload

from watchly_adapters.testing.cloudinary import Action, CloudinaryEmulator, Fault, Faults

ACTIONS: Final[tuple[Action, ...]] = ("upload", "destroy", "resource", "delivery")
#: The same end of a connection, as it shows by chance of timing.
BROKEN: Final = (ConnectionError, http.client.BadStatusLine)


@pytest.fixture
def emulator() -> Iterator[CloudinaryEmulator]:
    with CloudinaryEmulator() as emulator:
        yield emulator


def do(emulator: CloudinaryEmulator, action: Action) -> Answer:
    match action:
        case "upload":
            return send(emulator, signed(emulator))
        case "destroy":
            return send(emulator, signed(emulator), None, action="destroy")
        case "resource":
            return ask(emulator, "GET", "/v1_1/emulated/resources/image/upload/a")
        case "delivery":
            return ask(emulator, "GET", "/emulated/image/upload/a")


def raw(emulator: CloudinaryEmulator) -> socket.socket:
    """A connection on which an upload was asked for."""
    address = ("127.0.0.1", int(emulator.upload_prefix.rpartition(":")[2]))
    connection = socket.create_connection(address, timeout=PATIENCE)
    body, headers = form(signed(emulator), PNG)
    head = f"Content-Type: {headers['Content-Type']}\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(f"POST /v1_1/emulated/image/upload HTTP/1.1\r\n{head}".encode() + body)
    return connection


def hears_nothing(connection: socket.socket) -> bool:
    """Whether no byte comes for a while."""
    connection.settimeout(0.1)
    try:
        return connection.recv(1) == b"never"
    except TimeoutError:
        return True


# Each fault


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(
    ("fault", "status"), [(Fault.RATE_LIMITED, 420), (Fault.TOO_MANY, 429), (Fault.SERVER_ERROR, 500)]
)
def test_a_status_comes_with_its_reason_and_nothing_is_done(
    emulator: CloudinaryEmulator, action: Action, fault: Fault, status: int
) -> None:
    if action == "destroy":
        upload(emulator)
    before = dict(emulator.assets)
    emulator.faults.script(fault)
    answer = do(emulator, action)
    assert answer.status == status
    assert answer.error
    assert dict(emulator.assets) == before
    assert do(emulator, action).status != status


def test_garbage_is_a_good_status_with_a_page(emulator: CloudinaryEmulator) -> None:
    emulator.faults.script(Fault.GARBAGE)
    answer = do(emulator, "upload")
    assert answer.status == 200
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.content)
    assert dict(emulator.assets) == {}


def test_a_lie_is_a_sound_answer_about_something_else(emulator: CloudinaryEmulator) -> None:
    emulator.faults.script(Fault.LYING, Fault.LYING.on("delivery"), Fault.LYING.on("destroy"))
    told = do(emulator, "upload").json
    assert list(emulator.assets) == ["a"]
    assert (told["public_id"], told["format"]) == ("something/else", "png")
    assert told["bytes"] != len(PNG)
    assert do(emulator, "delivery").content != PNG
    assert do(emulator, "destroy").json == {"result": "something else"}
    assert dict(emulator.assets) == {}


@pytest.mark.parametrize("action", ["upload", "delivery"])
def test_a_truncated_answer_ends_in_its_middle(emulator: CloudinaryEmulator, action: Action) -> None:
    upload(emulator)
    before = emulator.assets["a"]
    whole = do(emulator, action).content
    kept = emulator.assets["a"]
    emulator.faults.script(Fault.TRUNCATED)
    with pytest.raises(http.client.IncompleteRead) as raised:
        do(emulator, action)
    partial: bytes = raised.value.partial
    assert partial[:20] == whole[:20]
    assert (len(partial), raised.value.expected) == (len(whole) // 2, len(whole) - len(whole) // 2)
    assert (emulator.assets["a"] != kept != before) is (action == "upload")


def test_a_lost_answer_is_to_something_that_was_done(emulator: CloudinaryEmulator) -> None:
    emulator.faults.script(Fault.LOST)
    with pytest.raises(BROKEN):
        do(emulator, "upload")
    assert list(emulator.assets) == ["a"]


def test_a_refusal_is_no_answer_and_nothing_done(emulator: CloudinaryEmulator) -> None:
    emulator.faults.script(Fault.REFUSED)
    with pytest.raises(BROKEN):
        do(emulator, "upload")
    assert dict(emulator.assets) == {}
    assert do(emulator, "upload").status == 200


def test_a_server_that_is_down_answers_nobody_until_it_is_up(emulator: CloudinaryEmulator) -> None:
    upload(emulator)
    emulator.faults.script(Fault.DOWN.on("resource"))
    assert do(emulator, "delivery").status == 200
    for action in ("resource", *ACTIONS):
        with pytest.raises(BROKEN):
            do(emulator, action)
    with pytest.raises(BROKEN):
        ask(emulator, "OPTIONS", "/")
    emulator.faults.up()
    assert do(emulator, "upload").status == 200
    emulator.faults.down()
    with pytest.raises(BROKEN):
        do(emulator, "upload")
    emulator.faults.clear()
    assert do(emulator, "upload").status == 200
    assert emulator.faults.made == {Fault.DOWN: 7}


def test_silence_lasts_until_the_client_leaves(emulator: CloudinaryEmulator) -> None:
    emulator.faults.script(Fault.TIMEOUT)
    with raw(emulator) as connection:
        assert hears_nothing(connection)
    assert dict(emulator.assets) == {}
    assert do(emulator, "upload").status == 200


def test_a_trickle_is_the_right_answer_byte_by_byte(emulator: CloudinaryEmulator) -> None:
    emulator.faults.pause = 0.0001
    emulator.faults.script(Fault.TRICKLE)
    assert do(emulator, "upload").json["bytes"] == len(PNG)
    emulator.faults.pause = PATIENCE * 2
    emulator.faults.script(Fault.TRICKLE)
    with raw(emulator) as connection:
        assert hears_nothing(connection)
        assert emulator.faults.waiting == 0


@pytest.mark.parametrize("fault", [Fault.TIMEOUT, Fault.TRICKLE])
def test_a_fault_that_would_last_ends_with_the_emulator(fault: Fault) -> None:
    with CloudinaryEmulator() as emulator:
        emulator.faults.pause = PATIENCE * 2
        emulator.faults.script(fault)
        connection = raw(emulator)
        assert hears_nothing(connection)
        begun = time.monotonic()
    assert time.monotonic() - begun < 5
    with closing(connection), suppress(ConnectionResetError):
        assert connection.recv(1) == b""


# Which requests they befall


def test_faults_come_in_their_order_to_those_they_are_for(emulator: CloudinaryEmulator) -> None:
    upload(emulator)
    emulator.faults.script(
        Fault.SERVER_ERROR.on("destroy", "resource"), Fault.TOO_MANY, Fault.RATE_LIMITED.on("resource")
    )
    statuses = [do(emulator, action).status for action in ("delivery", "upload", "resource", "resource")]
    assert statuses == [429, 200, 500, 420]
    assert emulator.faults.waiting == 0
    assert emulator.faults.made == {Fault.SERVER_ERROR: 1, Fault.TOO_MANY: 1, Fault.RATE_LIMITED: 1}


def test_other_requests_meet_no_faults(emulator: CloudinaryEmulator) -> None:
    emulator.faults.script(Fault.SERVER_ERROR)
    assert ask(emulator, "OPTIONS", "/v1_1/emulated/image/upload").status == 200
    assert ask(emulator, "GET", "/").status == 404
    assert emulator.faults.waiting == 1


def drawn(seed: int, rate: float, *kinds: Fault) -> list[Fault | None]:
    faults = Faults()
    if kinds:
        faults.at_random(rate, seed, set(kinds), {"upload"})
        assert faults.take("destroy") is None
    else:
        faults.at_random(rate, seed)
    return [faults.take("upload") for _ in range(2_000)]


def test_chance_is_repeated_by_its_seed() -> None:
    first = drawn(7, 0.3)
    assert drawn(7, 0.3) == first != drawn(8, 0.3)
    assert 500 < len([fault for fault in first if fault]) < 700
    assert set(first) == {None, *Fault} - {Fault.DOWN, Fault.TIMEOUT, Fault.TRICKLE}
    assert set(drawn(7, 0)) == {None}
    assert set(drawn(7, 1, Fault.LOST, Fault.LYING)) == {Fault.LOST, Fault.LYING}


def test_the_script_comes_before_chance_and_both_can_be_cleared() -> None:
    faults = Faults()
    faults.at_random(1, 1, {Fault.GARBAGE})
    faults.script(Fault.LOST, Fault.LYING)
    assert [faults.take("upload") for _ in range(2)] == [Fault.LOST, Fault.LYING]
    assert faults.take("upload") is Fault.GARBAGE
    assert faults.take(None) is None
    faults.script(Fault.LOST)
    faults.clear()
    assert faults.take("upload") is None
    assert faults.made == {Fault.LOST: 1, Fault.LYING: 1, Fault.GARBAGE: 1}


def test_many_at_once_meet_each_fault_once(emulator: CloudinaryEmulator) -> None:
    emulator.faults.script(*[Fault.RATE_LIMITED, Fault.TOO_MANY, Fault.SERVER_ERROR] * 10)
    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(lambda _: do(emulator, "delivery").status, range(60)))
    assert {status: statuses.count(status) for status in set(statuses)} == {
        420: 10,
        429: 10,
        500: 10,
        404: 30,
    }
