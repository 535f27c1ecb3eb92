"""The relay, on the fake and on PostgreSQL: nothing is lost, a movie's messages keep their order."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
from tests.houses import ADA

from watchly_adapters.databases import Database
from watchly_adapters.memory import MemoryDatabase
from watchly_core import Catalogue
from watchly_core.dispatch import Dispatch
from watchly_core.errors import (
    InvalidTarget,
    Overloaded,
    PublishRejected,
    RelaySuperseded,
    TargetNotFound,
    Unavailable,
    WatchlyError,
)
from watchly_core.events import KINDS, MAX_CHANGES, ChangeQuery
from watchly_core.imports import Row
from watchly_core.messages import LetterCount, Message, Target, message_of
from watchly_core.ports import Publisher
from watchly_core.relays import MAX_ATTEMPTS, PATIENCE, Relay, Round
from watchly_core.tasks import cancelled
from watchly_core.traces import traced_by
from watchly_core.webhooks import Webhooks

pytestmark = pytest.mark.anyio

START = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
LONG = dt.timedelta(hours=2)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Clock:
    """A time that is moved by hand."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> dt.datetime:
        return self.now


class Broker:
    """A target that keeps what it takes.

    Attributes:
        taken: the messages, repeats as well.
        asked: how often it was asked.
        fault: why it does not take a message, if so.
    """

    def __init__(self) -> None:
        self.taken: list[Message] = []
        self.asked = 0
        self.closed = False
        self.fault: Callable[[Message], WatchlyError | None] = lambda _: None

    async def publish(self, message: Message) -> None:
        self.asked += 1
        await asyncio.sleep(0)
        if (error := self.fault(message)) is not None:
            raise error
        self.taken.append(message)

    async def close(self) -> None:
        self.closed = True

    @property
    def ids(self) -> list[str]:
        return [message.id for message in self.taken]

    @property
    def versions(self) -> Mapping[int, list[int]]:
        """Of each movie the versions in the order in which they came."""
        found: dict[int, list[int]] = {}
        for message in self.taken:
            found.setdefault(message.movie_id, []).append(int(message.id.partition("-")[2]))
        return found


class Post:
    """A catalogue, a relay and the one target that it tells."""

    def __init__(self, database: Database) -> None:
        self.clock, self.broker, self.database = Clock(), Broker(), database
        self.catalogue = Catalogue(database.queries, database.transactions)
        self.relay = self.another()

    def another(self) -> Relay:
        return Relay(
            self.catalogue, self.database.transactions, source="https://films.example", clock=self.clock
        )

    async def add(self, count: int = 1) -> list[int]:
        return [(await self.catalogue.add({"title": f"Film {number}"})).id for number in range(count)]

    async def revise(self, movie_id: int, times: int = 1) -> None:
        for _ in range(times):
            year = (await self.catalogue.get(movie_id)).version + 1900
            await self.catalogue.revise(movie_id, {"release_year": year})

    async def round(self) -> Round:
        return await self.relay.round("nats", self.broker)

    async def rounds(self) -> list[Round]:
        """Rounds until there is nothing to do at this time."""
        done = [await self.round()]
        while not done[-1].wait:
            done.append(await self.round())
        return done

    async def target(self) -> Target:
        async with self.database.transactions() as tx:
            return await tx.relays.get("nats")

    async def letters(self) -> tuple[int, int]:
        async with self.database.transactions() as tx:
            count = await tx.relays.count("nats")
        return count.waiting, count.dead


@pytest.fixture(params=["memory", "postgres"])
def database(request: pytest.FixtureRequest) -> Database:
    found: Database = MemoryDatabase() if request.param == "memory" else request.getfixturevalue("postgres")
    return found


@pytest.fixture
async def post(database: Database) -> Post:
    made = Post(database)
    async with made.database.transactions() as tx:
        await tx.relays.add(Target("nats"))
    return made


def unless(
    condition: Callable[[Message], bool], error: WatchlyError | None = None
) -> Callable[[Message], WatchlyError | None]:
    """A fault of all messages that do not meet the condition."""
    return lambda message: None if condition(message) else error or Unavailable("broker", "busy")


def of_movie(movie_id: int) -> Callable[[Message], bool]:
    return lambda message: message.movie_id == movie_id


# What is sent


async def test_a_message_is_a_cloud_event_that_holds_the_change(post: Post) -> None:
    (movie_id,) = await post.add()
    await post.catalogue.remove(movie_id, actor=ADA)
    await post.rounds()
    (change,) = (await post.catalogue.changes(ChangeQuery(after=1))).data
    message = post.broker.taken[1]
    assert json.loads(message.body) == {
        "specversion": "1.0",
        "id": f"{movie_id}-2",
        "source": "https://films.example",
        "type": "watchly.movie_removed",
        "subject": f"movies/{movie_id}",
        "time": change.event.at.isoformat().replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": {
            "seq": 2,
            "kind": "movie_removed",
            "movie_id": movie_id,
            "version": 2,
            "at": change.event.at.isoformat().replace("+00:00", "Z"),
            "actor": "user:7",
            "movie": json.loads(post.broker.taken[0].body)["data"]["movie"],
        },
    }
    assert (message.id, message.seq, message.kind) == (f"{movie_id}-2", 2, "movie_removed")
    assert message == message_of(change, "https://films.example")
    assert message.kind in KINDS


async def test_a_message_says_what_its_event_was_made_in(post: Post) -> None:
    with traced_by(TRACE):
        (movie_id,) = await post.add()
    await post.revise(movie_id)
    # Also after it was kept as a letter.
    post.broker.fault = unless(lambda message: message.id != f"{movie_id}-1", PublishRejected("no"))
    await post.rounds()
    post.broker.fault = lambda _: None
    await post.relay.revive()
    await post.rounds()
    plain, traced = post.broker.taken
    assert (plain.trace, traced.trace) == (None, TRACE)
    body = json.loads(traced.body)
    assert (body["id"], body["traceparent"]) == (f"{movie_id}-1", TRACE)
    # The rest is as it is without.
    without = json.loads(plain.body)
    assert body.keys() - without.keys() == {"traceparent"}
    assert list(body["data"]) == list(without["data"])
    assert list(body["data"]) == ["seq", "kind", "movie_id", "version", "at", "actor", "movie"]
    (change, _) = (await post.catalogue.changes()).data
    assert traced == message_of(change, "https://films.example")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'{"traceparent":null}',
        b'{"traceparent":7}',
        b'{"traceparent":"00-1-2-01\\r\\nX: y"}',
        b'{"traceparent":"%s"}' % TRACE.upper().encode(),
    ],
)
async def test_what_is_no_trace_is_none(body: bytes) -> None:
    assert Message("7-3", 12, 7, "movie_revised", body).trace is None


async def test_everything_is_sent_once_in_the_order_of_each_movie(post: Post) -> None:
    movies = await post.add(30)
    for movie_id in movies:
        await post.revise(movie_id, 7)
    assert sum(done.sent for done in await post.rounds()) == 240
    assert post.broker.versions == {movie_id: list(range(1, 9)) for movie_id in movies}
    assert (await post.target()).position == 240
    before = post.broker.asked
    await post.rounds()
    assert post.broker.asked == before
    await post.revise(movies[0])
    await post.rounds()
    assert post.broker.ids[240:] == [f"{movies[0]}-9"]


# What is not taken


async def test_what_is_not_taken_holds_up_its_own_movie_only(post: Post) -> None:
    poor, *others = await post.add(5)
    await post.revise(poor, 2)
    post.broker.fault = unless(lambda message: message.movie_id != poor)
    (done, *_) = await post.rounds()
    assert (done.sent, done.failed, done.dead, done.reason) == (4, 1, 0, "broker: busy")
    assert set(post.broker.versions) == set(others)
    # What comes later waits behind it, or goes on.
    await post.revise(poor)
    for movie_id in others:
        await post.revise(movie_id)
    await post.rounds()
    assert post.broker.versions == {movie_id: [1, 2] for movie_id in others}
    assert await post.letters() == (4, 0)
    post.broker.fault = lambda _: None
    post.clock.now += LONG
    await post.rounds()
    assert post.broker.versions[poor] == [1, 2, 3, 4]
    assert await post.letters() == (0, 0)


async def test_pauses_grow_and_after_the_last_try_the_next_one_has_its_turn(post: Post) -> None:
    poor, other = await post.add(2)
    await post.revise(poor)
    post.broker.fault = unless(lambda message: message.id != f"{poor}-1")
    pauses: list[float] = []
    dead = 0
    while not dead:
        assert len(pauses) < MAX_ATTEMPTS
        # The target is well: it takes another at the same time.
        await post.revise(other)
        done = await post.rounds()
        dead = sum(each.dead for each in done)
        async with post.database.transactions() as tx:
            heads = await tx.relays.heads("nats")
        if poor in heads:
            pauses.append((heads[poor] - post.clock.now).total_seconds())
            # Not a moment earlier.
            post.clock.now = heads[poor] - dt.timedelta(microseconds=1)
            asked = post.broker.asked
            await post.rounds()
            assert post.broker.asked == asked
            post.clock.now = heads[poor]
    assert len(pauses) == MAX_ATTEMPTS - 1
    for number, pause in enumerate(pauses):
        longest = min(2**number, 3600)
        assert 0.75 * longest <= pause <= 1.25 * longest
    assert post.broker.versions == {poor: [2], other: list(range(1, MAX_ATTEMPTS + 2))}
    assert await post.letters() == (0, 1)
    async with post.database.transactions() as tx:
        (letter,) = await tx.relays.dead("nats", 10)
    assert (letter.message.id, letter.attempts, letter.reason) == (f"{poor}-1", MAX_ATTEMPTS, "broker: busy")
    assert json.loads(letter.message.body)["id"] == f"{poor}-1"


async def test_what_will_never_be_taken_is_dead_at_once(post: Post) -> None:
    (movie_id,) = await post.add()
    await post.revise(movie_id, 2)
    post.broker.fault = unless(lambda message: message.id != f"{movie_id}-2", PublishRejected("too\nlarge\0"))
    (done, *_) = await post.rounds()
    assert (done.sent, done.failed, done.dead, done.reason) == (2, 0, 1, "too large\ufffd")
    assert post.broker.versions == {movie_id: [1, 3]}
    assert await post.letters() == (0, 1)


async def test_dead_letters_can_be_tried_again(post: Post) -> None:
    movies = await post.add(3)
    post.broker.fault = unless(of_movie(movies[0]), PublishRejected("no"))
    await post.rounds()
    assert await post.letters() == (0, 2)
    post.broker.fault = lambda _: None
    assert await post.relay.revive() == 2
    assert await post.letters() == (2, 0)
    await post.rounds()
    assert sorted(post.broker.ids) == [f"{movie_id}-1" for movie_id in movies]
    assert await post.letters() == (0, 0)
    assert await post.relay.revive() == 0


async def test_any_number_of_dead_letters_can_be_tried_again(post: Post) -> None:
    await post.catalogue.add_many(_rows(230))
    post.broker.fault = unless(lambda _: False, PublishRejected("no"))
    await post.rounds()
    assert await post.letters() == (0, 230)
    assert await post.relay.revive() == 230
    assert await post.letters() == (230, 0)


async def test_an_adapter_that_breaks_harms_one_message_only(post: Post) -> None:
    poor, other = await post.add(2)

    def broken(message: Message) -> None:
        if message.movie_id == poor:
            raise ZeroDivisionError

    post.broker.fault = broken
    (done, *_) = await post.rounds()
    assert (done.sent, done.failed, done.reason) == (1, 1, "ZeroDivisionError")
    assert post.broker.versions == {other: [1]}


async def test_who_does_not_answer_has_a_deadline(post: Post) -> None:
    poor, other = await post.add(2)
    never = asyncio.Event()

    class Slow(Broker):
        async def publish(self, message: Message) -> None:
            if message.movie_id == poor:
                await never.wait()
            await super().publish(message)

    slow = Slow()
    relay = Relay(post.catalogue, post.database.transactions, clock=post.clock, deadline=0.05)
    done = await relay.round("nats", slow)
    assert (done.sent, done.failed, done.reason) == (1, 1, "no answer within 0.05 s")
    assert slow.versions == {other: [1]}


# A target that is down


async def test_nothing_is_given_up_while_a_target_is_down_for_hours(post: Post) -> None:
    movies = await post.add(40)
    for movie_id in movies:
        await post.revise(movie_id)
    post.broker.fault = unless(lambda _: False)
    pauses = []
    while post.clock.now < START + dt.timedelta(hours=5):
        done = await post.round()
        assert done.down
        assert done.sent == done.dead == 0
        pauses.append(done.wait)
        assert (await post.round()).wait == done.wait  # and is not asked again before
        post.clock.now += dt.timedelta(seconds=done.wait)
    assert 0.75 <= pauses[0] <= 1.25
    assert all(22 <= pause <= 38 for pause in pauses[6:])
    # It is asked with a few messages, not with all of them.
    assert post.broker.asked <= 10 * len(pauses)
    assert await post.letters() == (0, 0)
    target = await post.target()
    assert (target.position, target.failures, target.failing_since) == (0, len(pauses), START)
    post.broker.fault = lambda _: None
    await post.rounds()
    assert post.broker.versions == {movie_id: [1, 2] for movie_id in movies}
    target = await post.target()
    assert (target.failures, target.failing_since, target.due_at, target.reason) == (0, None, None, "")


async def test_a_target_says_how_long_to_leave_it_alone(post: Post) -> None:
    await post.add()
    post.broker.fault = unless(lambda _: False, Unavailable("broker", "busy", retry_after=600))
    assert (await post.round()).wait == 600
    post.broker.fault = unless(lambda _: False, Unavailable("broker", "busy", retry_after=10**6))
    post.clock.now += LONG
    assert (await post.round()).wait == 3600


async def test_a_message_that_nothing_else_proves_wrong_is_not_in_the_way_for_ever(post: Post) -> None:
    (poor,) = await post.add()
    await post.revise(poor)
    post.broker.fault = unless(lambda message: message.id != f"{poor}-1")
    assert (await post.round()).down
    post.clock.now += PATIENCE - dt.timedelta(seconds=1)
    assert (await post.round()).down
    post.clock.now += dt.timedelta(minutes=1)
    await post.rounds()
    assert await post.letters() == (2, 0)
    for _ in range(MAX_ATTEMPTS):
        post.clock.now += PATIENCE
        await post.rounds()
    assert post.broker.versions == {poor: [2]}
    assert await post.letters() == (0, 1)


async def test_letters_are_not_given_up_while_a_target_is_down(post: Post) -> None:
    poor, other = await post.add(2)
    await post.revise(poor)
    # It goes down in the middle of a round, and nothing else is written until it is back.
    post.broker.fault = unless(lambda message: message.movie_id == other)
    await post.rounds()
    assert await post.letters() == (2, 0)
    post.broker.fault = unless(lambda _: False)
    while post.clock.now < START + dt.timedelta(hours=20):
        done = await post.rounds()
        assert 0 < done[-1].wait <= 60
        post.clock.now += dt.timedelta(minutes=1)
    # Its being down is shown, and does not keep it from what is new.
    target = await post.target()
    assert (target.failing_since is not None, target.due_at) == (True, None)
    post.broker.fault = lambda _: None
    post.clock.now += LONG
    await post.rounds()
    assert post.broker.versions == {poor: [1, 2], other: [1]}
    assert await post.letters() == (0, 0)
    assert (await post.target()).failing_since is None


async def test_a_try_counts_if_something_was_taken_since_the_last(post: Post) -> None:
    poor, other = await post.add(2)
    await post.revise(poor)
    post.broker.fault = unless(lambda message: message.id != f"{poor}-1")
    for _ in range(MAX_ATTEMPTS):
        # Never both in one round.
        await post.revise(other)
        await post.rounds()
        post.clock.now += LONG
        for _ in range(3):
            await post.rounds()
            post.clock.now += LONG
    assert post.broker.versions[poor] == [2]
    assert await post.letters() == (0, 1)


async def test_a_target_that_has_too_much_to_do_gets_all_of_it_in_its_time(post: Post) -> None:
    movies = await post.add(200)
    for movie_id in movies:
        await post.revise(movie_id)
    taken = 0

    def limited(_: Message) -> WatchlyError | None:
        nonlocal taken
        taken += 1
        return Overloaded("webhook", "it answered 429", retry_after=60) if taken > 10 else None

    post.broker.fault = limited
    most = 0
    while len(post.broker.taken) < 400:
        taken, asked = 0, post.broker.asked
        done = await post.rounds()
        # It is left alone at once, and for as long as it says.
        assert post.broker.asked - asked <= 10 + 8
        assert done[-1].wait in {60, 5} or len(post.broker.taken) == 400
        most = max(most, sum(await post.letters()))
        post.clock.now += dt.timedelta(seconds=60)
        assert post.clock.now < START + dt.timedelta(hours=1)
    assert post.broker.versions == {movie_id: [1, 2] for movie_id in movies}
    assert len(post.broker.taken) == 400
    # What waits stays in the log, not beside it.
    assert most < 200


async def test_many_that_fail_do_not_hide_that_others_would_not(post: Post) -> None:
    movies = await post.add(60)
    good = set(movies[50:])
    post.broker.fault = unless(lambda message: message.movie_id in good)
    for _ in range(200):
        await post.rounds()
        post.clock.now += dt.timedelta(minutes=1)
        if set(post.broker.versions) == good:
            break
    assert set(post.broker.versions) == good


# Crashes, and other relays


async def test_a_relay_that_dies_repeats_what_it_did_not_note(post: Post) -> None:
    movies = await post.add(20)
    for movie_id in movies:
        await post.revise(movie_id)
    task = asyncio.create_task(post.round())

    def killed(_: Message) -> None:
        if len(post.broker.taken) == 25:
            task.cancel()

    post.broker.fault = killed
    with pytest.raises(asyncio.CancelledError):
        await task
    sent = len(post.broker.ids)
    assert 25 <= sent < 40
    post.broker.fault = lambda _: None
    await post.rounds()
    assert len(post.broker.ids) == sent + 40
    firsts = dict.fromkeys(post.broker.ids)
    assert sorted(firsts) == sorted(f"{movie_id}-{version}" for movie_id in movies for version in (1, 2))
    for movie_id in movies:
        assert [name for name in firsts if name.startswith(f"{movie_id}-")] == [
            f"{movie_id}-1",
            f"{movie_id}-2",
        ]


async def test_of_two_relays_at_once_one_steps_down(post: Post) -> None:
    await post.add(3)
    arrived, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Broker):
        async def publish(self, message: Message) -> None:
            arrived.set()
            await go_on.wait()
            await super().publish(message)

    slow = asyncio.create_task(post.another().round("nats", Slow()))
    async with asyncio.timeout(10):
        await arrived.wait()
        await post.rounds()
        go_on.set()
        with pytest.raises(RelaySuperseded):
            await slow
    assert (await post.target()).position == 3


async def test_what_was_pruned_is_passed_over_and_said(post: Post) -> None:
    (movie_id,) = await post.add()
    await post.revise(movie_id, 4)
    await post.catalogue.changes()  # what has no number yet is not pruned
    async with post.database.transactions() as tx:
        assert await tx.events.prune(dt.datetime(2100, 1, 1, tzinfo=dt.UTC), 3) == 3
    done = await post.rounds()
    assert done[0].reason == "changes 1 to 3 were pruned before they were sent"
    assert post.broker.versions == {movie_id: [4, 5]}


async def test_a_target_that_was_removed_is_not_found(post: Post) -> None:
    async with post.database.transactions() as tx:
        await tx.relays.remove("nats")
    with pytest.raises(TargetNotFound):
        await post.round()


# Webhooks


@pytest.fixture
def webhooks(post: Post) -> Webhooks:
    return Webhooks(post.catalogue, post.database.transactions)


async def test_a_webhook_is_told_of_what_changes_from_now_on(post: Post, webhooks: Webhooks) -> None:
    await post.add(3)
    late = await webhooks.add("https://films.example/hook")
    early = await webhooks.add("https://films.example/hook", everything=True)
    await post.add(1)
    brokers = {}
    for target in (late, early):
        brokers[target.name] = broker = Broker()
        await post.relay.round(target.name, broker)
    assert [len(brokers[target.name].taken) for target in (late, early)] == [1, 4]
    assert (late.position, early.position) == (3, 0)


async def test_the_end_is_found_in_a_log_of_any_length_and_behind_what_was_pruned(
    post: Post, webhooks: Webhooks
) -> None:
    (movie_id,) = await post.add()
    await post.catalogue.add_many(_rows(MAX_CHANGES + 10))
    await post.revise(movie_id, 2)
    await post.catalogue.changes()  # what has no number yet is not pruned
    async with post.database.transactions() as tx:
        assert await tx.events.prune(dt.datetime(2100, 1, 1, tzinfo=dt.UTC), 10) == 2
    assert (await webhooks.add("https://films.example/")).position == MAX_CHANGES + 13


async def _rows(count: int) -> AsyncIterator[Row]:
    for number in range(count):
        yield Row(number + 1, {"title": f"Film {number}"})


async def test_webhooks_are_listed_and_removed(post: Post, webhooks: Webhooks) -> None:
    first, second = (
        await webhooks.add("https://a.example/"),
        await webhooks.add("http://b.example:8080/x?y=%20"),
    )
    names = sorted([first.name, second.name])
    assert [each.target.name for each in await webhooks.listed()] == names
    assert {each.letters for each in await webhooks.listed()} == {LetterCount(0, 0)}
    assert first.secret != second.secret
    await webhooks.remove(first.name)
    assert [each.target for each in await webhooks.listed()] == [second]
    for name in (first.name, "nats", ""):
        with pytest.raises(TargetNotFound):
            await webhooks.remove(name)
    assert (await post.target()).name == "nats"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "films.example",
        "ftp://films.example/",
        "file:///etc/passwd",
        "http://",
        "http://:80/",
        "https://films.example:0/",
        "https://films.example:99999/",
        "https://user:password@films.example/",
        "https://user@films.example/",
        "https://films.example/#there",
        "https://films.example/a b",
        "https://films.example/\r\nX: y",
        "https://fílms.example/",
        "https://[::1/",
        "https://films.example/" + "a" * 2_000,
    ],
)
async def test_what_is_no_url_is_refused(webhooks: Webhooks, url: str) -> None:
    with pytest.raises(InvalidTarget, match="url"):
        await webhooks.add(url)
    assert list(await webhooks.listed()) == []


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "whsec_c2hvcnQ=", "c2VjcmV0" * 5, "whsec_" + "A" * 100, "whsec_é"]
)
async def test_what_is_no_secret_is_refused_and_not_repeated(webhooks: Webhooks, secret: str) -> None:
    with pytest.raises(InvalidTarget, match="secret") as raised:
        await webhooks.add("https://films.example/", secret)
    assert secret in {"", "whsec_"} or secret not in str(raised.value)


async def test_a_secret_that_is_given_is_kept_and_not_shown(webhooks: Webhooks) -> None:
    secret = "whsec_" + "c2VjcmV0" * 4
    target = await webhooks.add("https://films.example/", secret)
    assert target.secret == secret
    assert secret not in repr(target)


# All targets at once


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what is waited for is a list
            await asyncio.sleep(0.005)  # between looks, not in place of one


@asynccontextmanager
async def dispatched(
    post: Post, brokers: Mapping[str, Publisher], hooks: Mapping[str, Publisher] = {}
) -> AsyncIterator[asyncio.Task[None]]:
    dispatch = Dispatch(
        Relay(post.catalogue, post.database.transactions),
        post.database.transactions,
        post.database.signal,
        brokers={name: partial(brokers.__getitem__, name) for name in brokers},
        webhook=lambda target: hooks[target.url or ""],
    )
    stop = asyncio.Event()
    task = asyncio.create_task(dispatch.run(stop))
    try:
        yield task
    finally:
        stop.set()
        await asyncio.wait({task}, timeout=1)
        await cancelled(task)


async def test_a_target_that_hangs_holds_up_no_other(post: Post, webhooks: Webhooks) -> None:
    await webhooks.add("https://hangs.example/", everything=True)
    await webhooks.add("https://fails.example/", everything=True)
    hanging = asyncio.Event()

    class Hanging(Broker):
        async def publish(self, _: Message) -> None:
            hanging.set()
            await asyncio.Event().wait()

    failing = Broker()
    failing.fault = unless(lambda _: False)
    hooks = {"https://hangs.example/": Hanging(), "https://fails.example/": failing}
    await post.add(3)
    async with dispatched(post, {"nats": post.broker}, hooks):
        async with asyncio.timeout(30):
            await hanging.wait()
        for _ in range(10):
            await post.add()
            count = len(await _ids(post))
            await until(lambda count=count: len(post.broker.taken) == count)  # type: ignore[misc] # a default of its own
        await until(lambda: failing.asked > 0)
    assert all(broker.closed for broker in (post.broker, *hooks.values()))


async def _ids(post: Post) -> list[str]:
    changes = await post.catalogue.changes(ChangeQuery(limit=MAX_CHANGES))
    return [f"{change.event.movie_id}-{change.event.version}" for change in changes.data]


async def test_a_change_is_told_when_it_is_made(post: Post) -> None:
    async with dispatched(post, {"nats": post.broker}):
        for count in range(1, 6):
            await post.add()
            async with asyncio.timeout(2):
                while len(post.broker.taken) < count:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.005)


async def test_targets_come_and_go_while_it_runs(post: Post, webhooks: Webhooks) -> None:
    hook = Broker()
    async with dispatched(post, {}, {"https://films.example/": hook}):
        target = await webhooks.add("https://films.example/", everything=True)
        await post.add()
        await until(lambda: len(hook.taken) == 1)
        await webhooks.remove(target.name)
        await until(lambda: hook.closed)
        await post.add()
    assert len(hook.taken) == 1
    # A broker that is not configured is not told, and keeps its place.
    assert post.broker.taken == []


async def test_a_webhook_that_is_removed_is_not_told_what_is_under_way(
    post: Post, webhooks: Webhooks
) -> None:
    arrived = asyncio.Event()

    class Hanging(Broker):
        async def publish(self, _: Message) -> None:
            arrived.set()
            await asyncio.Event().wait()

    hanging = Hanging()
    await post.add()
    async with dispatched(post, {}, {"https://films.example/": hanging}) as task:
        target = await webhooks.add("https://films.example/", everything=True)
        async with asyncio.timeout(10):
            await arrived.wait()
            await webhooks.remove(target.name)
            await until(lambda: hanging.closed)
        assert not task.done()


async def test_a_relay_that_is_not_given_time_ends_with_all_that_it_began(
    post: Post, webhooks: Webhooks
) -> None:
    arrived = asyncio.Event()

    class Stubborn(Broker):
        """Loses a cancellation, as libraries do."""

        async def publish(self, _: Message) -> None:
            arrived.set()
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            await asyncio.Event().wait()

    stubborn = Stubborn()
    await webhooks.add("https://films.example/", everything=True)
    await post.add()
    async with dispatched(post, {}, {"https://films.example/": stubborn}) as task:
        async with asyncio.timeout(10):
            await arrived.wait()
            await cancelled(task)
        assert stubborn.closed


async def test_a_relay_that_is_told_to_stop_lets_messages_arrive_that_are_under_way(post: Post) -> None:
    await post.add()
    arrived = asyncio.Event()

    class Slow(Broker):
        async def publish(self, message: Message) -> None:
            arrived.set()
            await asyncio.sleep(0.2)  # longer than it takes to tell the relay
            await super().publish(message)

    slow = Slow()
    async with dispatched(post, {"nats": slow}):
        await arrived.wait()
    assert len(slow.taken) == 1
    assert (await post.target()).position == 1
