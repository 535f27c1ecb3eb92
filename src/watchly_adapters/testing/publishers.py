"""What a publisher promises: what it says it has handed over, its target has.

::

    class TestMyBroker(PublisherContract):
        @pytest.fixture
        async def post(self):
            ...
            yield Post(publisher, told, become, too_large=1_000_000)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final, Literal, NamedTuple, TypeAlias

import pytest

from watchly_adapters.testing.suites import Suite
from watchly_core.errors import PublishRejected, Unavailable
from watchly_core.messages import Message
from watchly_core.ports import Publisher
from watchly_core.traces import traced_by

__all__ = ["Mood", "Post", "PublisherContract", "Told", "message"]

#: What a target is like: it takes messages, says that it cannot now, does not answer, or is not there.
Mood: TypeAlias = Literal["takes", "refuses", "hangs", "gone"]

#: Seconds within which a publisher says that there was no answer, which has a deadline of its own.
LONG: Final = 30.0

MADE: Final = f"00-{1:032x}-{1:016x}-01"
SENT: Final = f"00-{1:032x}-{2:016x}-01"


class Told(NamedTuple):
    """What a target was told: the id and the body of a message, and the trace beside it."""

    id: str
    body: bytes
    trace: str | None


class Post(NamedTuple):
    """A publisher, and its target as a test sees it.

    Attributes:
        publisher: the one under test.
        told: all that the target has taken, in the order in which it did; repeats may be left out.
        become: makes the target another.
        too_large: bytes of a body that the target never takes.
    """

    publisher: Publisher
    told: Callable[[], Awaitable[Sequence[Told]]]
    become: Callable[[Mood], Awaitable[None]]
    too_large: int


def message(version: int, movie_id: int = 7, body: bytes | None = None) -> Message:
    """A message of a movie."""
    if body is None:
        body = '{"specversion":"1.0","data":"é 🎬 VERSION"}'.replace("VERSION", str(version)).encode()
    kind = "movie_added" if version == 1 else "movie_revised"
    return Message(f"{movie_id}-{version}", 100 + version, movie_id, kind, body)


class PublisherContract(Suite):
    """Telling one target. Supply `post`."""

    @pytest.fixture
    def post(self) -> Iterator[Post]:
        """A publisher, and a target that was told nothing."""
        raise NotImplementedError("supply a fixture `post`: a publisher, and a target that was told nothing")

    async def test_what_was_handed_over_is_there_to_the_letter(self, post: Post) -> None:
        bodies = [
            b"{}",
            '{"data":"é 🎬 \\u0000"}'.encode(),
            b' {"data":"%s"}\r\n\r\n.\r\n\t',
            b"x" * 100_000,
        ]
        for version, body in enumerate(bodies, 1):
            await post.publisher.publish(message(version, body=body))
            told = await post.told()
            assert [(each.id, each.body) for each in told] == [
                (f"7-{number}", each) for number, each in enumerate(bodies[:version], 1)
            ]

    async def test_messages_come_in_the_order_in_which_they_were_handed_over(self, post: Post) -> None:
        for version in range(1, 21):
            await post.publisher.publish(message(version))
        assert [each.id for each in await post.told()] == [f"7-{version}" for version in range(1, 21)]

    async def test_a_message_may_be_handed_over_again(self, post: Post) -> None:
        """Whoever gets it twice can tell by its id."""
        for _ in range(3):
            await post.publisher.publish(message(1))
        await post.publisher.publish(message(2))
        told = await post.told()
        assert {each.id for each in told} == {"7-1", "7-2"}
        assert {each.body for each in told if each.id == "7-1"} == {message(1).body}
        assert told[-1].id == "7-2"

    async def test_messages_of_several_movies_at_once(self, post: Post) -> None:
        messages = [message(1, movie_id) for movie_id in range(1, 41)]
        await asyncio.gather(*map(post.publisher.publish, messages))
        told = await post.told()
        assert sorted((each.id, each.body) for each in told) == sorted(
            (each.id, each.body) for each in messages
        )

    async def test_a_message_goes_on_in_a_trace(self, post: Post) -> None:
        """That of who sends it, or else that of its event."""
        traced = b'{"traceparent":"%s"}' % MADE.encode()
        await post.publisher.publish(message(1))
        await post.publisher.publish(message(2, body=traced))
        with traced_by(SENT):
            await post.publisher.publish(message(3, body=traced))
            await post.publisher.publish(message(4))
        await post.publisher.publish(message(5))
        assert [each.trace for each in await post.told()] == [None, MADE, SENT, SENT, None]

    async def test_what_is_too_large_is_so_for_good(self, post: Post) -> None:
        await post.publisher.publish(message(1))
        for _ in range(2):
            with pytest.raises(PublishRejected):
                await post.publisher.publish(message(2, body=b"x" * post.too_large))
        # The next one has nothing to do with it.
        await post.publisher.publish(message(3))
        assert [each.id for each in await post.told()] == ["7-1", "7-3"]

    @pytest.mark.parametrize("mood", ["refuses", "hangs", "gone"])
    async def test_who_does_not_take_it_now_may_later(self, post: Post, mood: Mood) -> None:
        await post.publisher.publish(message(1))
        await post.become(mood)
        for version in (2, 3):
            with pytest.raises(Unavailable):
                async with asyncio.timeout(LONG):
                    await post.publisher.publish(message(version))
        await post.become("takes")
        await post.publisher.publish(message(2))
        await post.publisher.publish(message(4))
        told = [each.id for each in await post.told()]
        # Of what it gave no answer to, the target may have heard all the same.
        assert [each for each in told if each != "7-3"][:1] == ["7-1"]
        assert told[-1] == "7-4"
        assert {"7-1", "7-2", "7-4"} <= set(told) <= {"7-1", "7-2", "7-3", "7-4"}

    @pytest.mark.parametrize("mood", ["refuses", "hangs", "gone"])
    async def test_who_does_not_take_the_first_may_later(self, post: Post, mood: Mood) -> None:
        await post.become(mood)
        with pytest.raises(Unavailable):
            async with asyncio.timeout(LONG):
                await post.publisher.publish(message(1))
        await post.become("takes")
        await post.publisher.publish(message(2))
        assert (await post.told())[-1].id == "7-2"

    async def test_of_many_at_once_each_is_told_that_there_is_no_answer(self, post: Post) -> None:
        await post.publisher.publish(message(1))
        await post.become("hangs")
        async with asyncio.timeout(LONG):
            messages = [message(1, movie_id) for movie_id in range(1, 6)]
            outcomes = await asyncio.gather(*map(post.publisher.publish, messages), return_exceptions=True)
        assert all(isinstance(each, Unavailable) for each in outcomes)
        await post.become("takes")
        await post.publisher.publish(message(2))
        assert (await post.told())[-1].id == "7-2"

    async def test_who_leaves_spoils_nobody_elses_message(self, post: Post) -> None:
        await post.become("hangs")
        leaver = asyncio.create_task(post.publisher.publish(message(1)))
        await asyncio.sleep(0.05)  # so that it is under way
        leaver.cancel()
        async with asyncio.timeout(LONG):
            await asyncio.wait({leaver})
        await post.become("takes")
        await post.publisher.publish(message(2))
        assert (await post.told())[-1].id == "7-2"

    async def test_closing_twice_is_no_error(self, post: Post) -> None:
        await post.publisher.publish(message(1))
        for _ in range(2):
            await post.publisher.close()
        assert [each.id for each in await post.told()] == ["7-1"]

    async def test_who_never_said_anything_is_closed_as_well(self, post: Post) -> None:
        await post.publisher.close()
        assert list(await post.told()) == []
