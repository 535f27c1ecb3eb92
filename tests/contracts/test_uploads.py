"""Direct uploads: by tickets to this service, and to a store elsewhere."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import IO, TypedDict
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.houses import ADA, NOON, PNG, Crash, Failing, Fuse, FusedTransactions, House, chunks

from watchly_adapters.testing import samples
from watchly_adapters.testing.stores import events_of
from watchly_core.errors import (
    IllegalTransition,
    ImageNotFound,
    ImageRejected,
    ImageTooLarge,
    ImageTypeUnsupported,
    ImageUnreadable,
    MovieNotFound,
    SignatureRejected,
    Unavailable,
    UploadConflict,
    VersionConflict,
)
from watchly_core.images import ImageState, StoredImage, Ticket, new_key
from watchly_core.journey import PENDING_FOR
from watchly_core.movies import Movie
from watchly_core.ports import ImageStore, ImageUploads
from watchly_core.sweeper import SweepReport
from watchly_core.uploads import TICKET_FOR, DirectUploads

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("house", ["memory", "postgres", "blocking"], indirect=True),
]


class Signature(TypedDict):
    expires: str
    signature: str


def signed(ticket: Ticket) -> Signature:
    """What a ticket's URL says beside its address."""
    query = parse_qs(urlsplit(ticket.url).query, strict_parsing=True)
    (expires,), (signature,) = query["expires"], query["signature"]
    return {"expires": expires, "signature": signature}


async def send(
    uploads: DirectUploads, ticket: Ticket, content: bytes = PNG, *, start: int = 0, total: int | None = None
) -> tuple[int, int]:
    media_type = ticket.headers["Content-Type"]
    return await uploads.receive(
        ticket.key, chunks(content), media_type, start=start, total=total, **signed(ticket)
    )


async def issued(house: House, content: bytes = PNG) -> tuple[Movie, DirectUploads, Ticket]:
    movie, uploads = await house.movie(), house.gallery().uploads
    return movie, uploads, await uploads.issue(movie.id, "image/png", len(content))


async def test_an_image_comes_by_a_ticket(house: House) -> None:
    movie, uploads, ticket = await issued(house)
    assert ticket.expires_at == NOON.replace(microsecond=0) + TICKET_FOR
    assert (ticket.method, ticket.fields) == ("PUT", {})
    assert ticket.url.startswith(f"https://films.example/images/{ticket.key}?")
    assert await send(uploads, ticket) == (len(PNG), len(PNG))
    assert await house.states() == ["pending"]
    assert (await house.catalogue().get(movie.id)).image is None

    shown = await uploads.complete(movie.id, ticket.key, version=1, actor=ADA)

    assert shown.image is not None
    assert (shown.version, shown.image.key, shown.image.bytes) == (2, ticket.key, len(PNG))
    assert (shown.image.width, shown.image.height) == (samples.WIDTH, samples.HEIGHT)
    assert await house.movies() == [shown]
    assert (await events_of(house.catalogue(), movie.id))[0].actor == "user:7"
    assert await house.content(ticket.key) == PNG
    assert await house.kept() == {ticket.key: len(PNG)}
    house.wait(dt.timedelta(days=999))
    assert await house.gallery().sweep() == SweepReport(0, 0)
    assert await house.unsettled() == []


async def test_an_upload_goes_on_where_it_broke_off(house: House) -> None:
    movie, uploads, ticket = await issued(house)

    async def torn() -> AsyncIterator[bytes]:
        yield PNG[:50]
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await uploads.receive(ticket.key, torn(), "image/png", **signed(ticket))
    assert await uploads.received(ticket.key, **signed(ticket)) == (50, len(PNG))
    with pytest.raises(UploadConflict) as conflict:
        await uploads.complete(movie.id, ticket.key)
    assert conflict.value.received == 50
    for start in (0, 49, 51):
        if start:
            with pytest.raises(UploadConflict):
                await send(uploads, ticket, PNG[start:], start=start, total=len(PNG))
    assert await send(uploads, ticket, PNG[50:60], start=50, total=len(PNG)) == (60, len(PNG))
    assert await send(uploads, ticket, PNG[60:], start=60, total=len(PNG)) == (len(PNG), len(PNG))
    assert (await uploads.complete(movie.id, ticket.key)).version == 2
    assert await house.content(ticket.key) == PNG


async def test_an_upload_can_be_begun_anew(house: House) -> None:
    movie, uploads, ticket = await issued(house)
    await send(uploads, ticket, bytes(50))
    await send(uploads, ticket)
    assert (await uploads.complete(movie.id, ticket.key)).version == 2


async def test_completing_twice_changes_nothing(house: House) -> None:
    movie, uploads, ticket = await issued(house)
    await send(uploads, ticket)
    first = await uploads.complete(movie.id, ticket.key)
    assert await uploads.complete(movie.id, ticket.key) == first
    assert len(await events_of(house.catalogue(), movie.id)) == 2


async def test_of_many_completions_at_once_one_counts(house: House) -> None:
    movie, uploads, ticket = await issued(house)
    await send(uploads, ticket)
    results = await asyncio.gather(
        *(uploads.complete(movie.id, ticket.key) for _ in range(8)), return_exceptions=True
    )
    assert {type(result) for result in results} <= {Movie, Unavailable, UploadConflict, ImageNotFound}
    assert any(isinstance(result, Movie) for result in results)
    assert len(await events_of(house.catalogue(), movie.id)) == 2
    assert await house.unsettled() == []


# What is refused


async def test_a_ticket_is_for_what_the_catalogue_keeps(house: House) -> None:
    movie = await house.movie()
    uploads = house.gallery(max_bytes=1_000).uploads
    with pytest.raises(ImageTypeUnsupported):
        await uploads.issue(999, "image/svg+xml", 1)
    with pytest.raises(MovieNotFound):
        await uploads.issue(999, "image/png", 9_999)
    with pytest.raises(ImageTooLarge):
        await uploads.issue(movie.id, "image/png", 1_001)
    assert (await uploads.issue(movie.id, "image/png", 1_000)).key in house.keys
    assert await house.states() == ["pending"]


async def test_a_ticket_is_signed_and_ends(house: House) -> None:
    movie, uploads, ticket = await issued(house)
    other = await uploads.issue(movie.id, "image/png", len(PNG))
    expires, signature = signed(ticket)["expires"], signed(ticket)["signature"]
    for forged in (
        Signature(expires=expires, signature="0" * 64),
        Signature(expires=expires, signature=""),
        Signature(expires=str(int(expires) + 1), signature=signature),
        Signature(expires="", signature=signature),
        signed(other),
    ):
        with pytest.raises(SignatureRejected):
            await uploads.receive(ticket.key, chunks(PNG), "image/png", **forged)
        with pytest.raises(SignatureRejected):
            await uploads.received(ticket.key, **forged)
    with pytest.raises(SignatureRejected):
        await uploads.receive(new_key(), chunks(PNG), "image/png", **signed(ticket))
    house.wait(TICKET_FOR)
    with pytest.raises(SignatureRejected):
        await send(uploads, ticket)
    assert await house.kept() == {}


async def test_a_ticket_is_for_one_image(house: House) -> None:
    _, uploads, ticket = await issued(house)
    with pytest.raises(ImageTypeUnsupported):
        await uploads.receive(ticket.key, chunks(PNG), "image/gif", **signed(ticket))
    with pytest.raises(ImageUnreadable):
        await send(uploads, ticket, PNG[:9], total=len(PNG) + 1)
    with pytest.raises(ImageTooLarge):
        await send(uploads, ticket, PNG + b"x")
    assert await uploads.received(ticket.key, **signed(ticket)) == (0, len(PNG))
    assert await house.kept() == {}


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (samples.UPRIGHT["gif"], ImageUnreadable),
        (b"<html>" + bytes(100), ImageTypeUnsupported),
        (PNG[:-5] + bytes(5), ImageUnreadable),
    ],
)
async def test_what_is_no_such_image_is_discarded(
    house: House, content: bytes, error: type[ImageRejected]
) -> None:
    movie, uploads, ticket = await issued(house, content)
    await send(uploads, ticket, content)
    with pytest.raises(error):
        await uploads.complete(movie.id, ticket.key)
    assert await house.movies() == [movie]
    assert (await house.kept(), await house.states()) == ({}, ["discarded"])
    with pytest.raises(IllegalTransition):
        await uploads.complete(movie.id, ticket.key)
    with pytest.raises(IllegalTransition):
        await send(uploads, ticket, content)
    assert await house.gallery().sweep() == SweepReport(0, 0)
    house.wait(TICKET_FOR)
    assert await house.gallery().sweep() == SweepReport(1, 0)
    assert (await house.kept(), await house.records()) == ({}, {})


async def test_a_key_without_a_ticket_completes_nothing(house: House) -> None:
    movie, uploads, ticket = await issued(house)
    other = await house.with_image()
    await send(uploads, ticket)
    for movie_id, key in (
        (999, ticket.key),
        (movie.id, new_key()),
        (other.id, ticket.key),
        (other.id, house.keys[1]),
    ):
        with pytest.raises(ImageNotFound):
            await uploads.complete(movie_id, key)
    assert await house.disagreements() == []


@pytest.mark.parametrize("purge", [False, True])
async def test_a_ticket_goes_with_its_movie(house: House, *, purge: bool) -> None:
    movie, uploads, ticket = await issued(house)
    await send(uploads, ticket)
    await house.catalogue().remove(movie.id, purge=purge)
    assert await house.states() == (["discarded"] if purge else ["pending"])
    with pytest.raises(MovieNotFound):
        await uploads.complete(movie.id, ticket.key)
    assert await house.states() == ["discarded"]
    with pytest.raises(IllegalTransition):
        await send(uploads, ticket)
    house.wait(TICKET_FOR)
    assert await house.gallery().sweep() == SweepReport(1, 0)
    assert (await house.kept(), await house.records()) == ({}, {})


async def test_what_can_be_loaded_already_cannot_be_sent_anew(house: House) -> None:
    """A key names the same bytes for ever, and those of a failed completion may have been loaded."""
    movie, uploads, ticket = await issued(house)
    await send(uploads, ticket)
    fused = FusedTransactions(house.store.transactions, Fuse(4))
    with pytest.raises(Crash):
        await house.gallery(transactions=fused).uploads.complete(movie.id, ticket.key)
    assert await house.content(ticket.key) == PNG
    assert await house.states() == ["pending"]
    with pytest.raises(IllegalTransition):
        await send(uploads, ticket)
    assert (await uploads.complete(movie.id, ticket.key)).version == 2


async def test_a_stale_completion_can_be_tried_again(house: House) -> None:
    movie, uploads, ticket = await issued(house)
    await send(uploads, ticket)
    await house.catalogue().revise(movie.id, {"genre": "Crime"})
    with pytest.raises(VersionConflict):
        await uploads.complete(movie.id, ticket.key, version=1)
    assert (await uploads.complete(movie.id, ticket.key, version=2)).version == 3
    assert await house.unsettled() == []


async def test_an_upload_that_was_cleaned_can_be_completed_again(house: House) -> None:
    """What follows a JPEG is cut off, in the place where it was uploaded."""
    tailed = samples.UPRIGHT["jpeg"] + bytes(99)
    movie, uploads = await house.movie(), house.gallery().uploads
    ticket = await uploads.issue(movie.id, "image/jpeg", len(tailed))
    await send(uploads, ticket, tailed)
    for _ in range(2):
        with pytest.raises(VersionConflict):
            await uploads.complete(movie.id, ticket.key, version=9)
    shown = await uploads.complete(movie.id, ticket.key)
    assert shown.image is not None
    assert shown.image.bytes == len(samples.UPRIGHT["jpeg"])
    assert await house.unsettled() == []


async def test_a_ticket_that_is_not_used_leaves_nothing(house: House) -> None:
    movie, uploads, ticket = await issued(house)
    await send(uploads, ticket, PNG[:99])
    house.wait(TICKET_FOR + PENDING_FOR)
    assert await house.gallery().sweep() == SweepReport(1, 0)
    assert (await house.kept(), await house.records()) == ({}, {})
    with pytest.raises(ImageNotFound):
        await uploads.complete(movie.id, ticket.key)


async def test_a_purged_image_goes_when_its_ticket_ends(house: House) -> None:
    """Until then somebody could send it again, and nobody would know of it."""
    movie, uploads, ticket = await issued(house)
    await send(uploads, ticket)
    await uploads.complete(movie.id, ticket.key)
    await house.gallery().detach(movie.id, purge=True)
    assert await house.gallery().sweep() == SweepReport(0, 0)
    house.wait(TICKET_FOR)
    assert await house.gallery().sweep() == SweepReport(1, 0)
    assert (await house.kept(), await house.records()) == ({}, {})


async def test_a_completion_that_crashes_at_any_step_can_be_tried_again(house: House) -> None:
    for steps in count():
        movie, uploads, ticket = await issued(house)
        await send(uploads, ticket)
        fused = FusedTransactions(house.store.transactions, Fuse(steps))
        crashed = False
        try:
            await house.gallery(transactions=fused).uploads.complete(movie.id, ticket.key)
        except Crash:
            crashed = True
        assert await house.disagreements() == [], f"after {steps} steps"
        assert (await uploads.complete(movie.id, ticket.key)).version == 2
        assert await house.unsettled() == [], f"after {steps} steps"
        if not crashed:
            break
    assert steps >= 3


# A store elsewhere, to which clients send straight


class Elsewhere(Failing):
    """Takes uploads itself, and says what it has."""

    def __init__(self, real: ImageStore) -> None:
        super().__init__(real)
        self.has: dict[str, StoredImage] = {}
        self.tells: str | None = None

    async def stat(self, key: str) -> StoredImage | None:
        return self.has.get(key)

    async def delete(self, key: str) -> None:
        await super().delete(key)
        self.has.pop(key, None)

    def notified(self, body: bytes, *_: object) -> str | None:
        if body != b"signed":
            raise SignatureRejected("it is not")
        return self.tells


ARRIVED = StoredImage(len(PNG), 6, 4, "png")


async def elsewhere(house: House) -> tuple[Elsewhere, Movie, DirectUploads, Ticket]:
    store, movie = Elsewhere(house.images), await house.movie()
    uploads = house.gallery(images=store).uploads
    return store, movie, uploads, await uploads.issue(movie.id, "image/png", len(PNG))


async def test_what_a_store_elsewhere_confirms_is_shown(house: House) -> None:
    store, movie, uploads, ticket = await elsewhere(house)
    with pytest.raises(UploadConflict):
        await uploads.complete(movie.id, ticket.key)
    store.has[ticket.key] = ARRIVED
    shown = await uploads.complete(movie.id, ticket.key, version=1)
    assert shown.image is not None
    assert (shown.image.key, shown.image.width, shown.image.bytes) == (ticket.key, 6, len(PNG))
    assert await uploads.complete(movie.id, ticket.key) == shown
    (record,) = (await house.records()).values()
    assert (record.state, record.image.height) == (ImageState.ATTACHED, 4)


@pytest.mark.parametrize(
    ("stored", "error"),
    [
        (StoredImage(len(PNG), 6, 4, "gif"), ImageUnreadable),
        (StoredImage(3 * len(PNG) + 65_536, 6, 4, "png"), ImageTooLarge),
        (StoredImage(len(PNG), 10_001, 10_000, "png"), ImageTooLarge),
        (StoredImage(len(PNG), 0, 4, "png"), ImageUnreadable),
        (StoredImage(len(PNG)), ImageUnreadable),
    ],
)
async def test_what_a_ticket_does_not_allow_is_discarded_there(
    house: House, stored: StoredImage, error: type[ImageRejected]
) -> None:
    store, movie, uploads, ticket = await elsewhere(house)
    store.has[ticket.key] = stored
    with pytest.raises(error):
        await uploads.complete(movie.id, ticket.key)
    assert (store.has, await house.states()) == ({}, ["discarded"])
    assert await house.movies() == [movie]


async def test_the_word_of_a_store_completes_a_ticket(house: House) -> None:
    store, movie, uploads, ticket = await elsewhere(house)
    store.tells = ticket.key
    with pytest.raises(UploadConflict):
        await uploads.notified(b"signed", {})
    store.has[ticket.key] = ARRIVED
    with pytest.raises(SignatureRejected):
        await uploads.notified(b"forged", {})
    for _ in range(2):
        await uploads.notified(b"signed", {})
    shown = await house.catalogue().get(movie.id)
    assert shown.image is not None
    assert (shown.version, shown.image.key) == (2, ticket.key)
    assert await uploads.complete(movie.id, ticket.key) == shown


async def test_words_of_a_store_that_concern_nobody_are_passed_over(house: House) -> None:
    store, movie, uploads, ticket = await elsewhere(house)
    other = await house.with_image()
    store.has[ticket.key] = StoredImage(len(PNG), 6, 4, "gif")
    for key in (None, new_key(), house.keys[1], ticket.key, ticket.key):
        store.tells = key
        await uploads.notified(b"signed", {})
    assert await house.movies() == [movie, other]
    with pytest.raises(ImageNotFound):
        await house.gallery().uploads.notified(b"signed", {})


async def test_a_client_and_a_store_that_complete_at_once_make_one_event(house: House) -> None:
    store, movie, uploads, ticket = await elsewhere(house)
    store.has[ticket.key], store.tells = ARRIVED, ticket.key
    await asyncio.gather(
        *(uploads.complete(movie.id, ticket.key) for _ in range(4)),
        *(uploads.notified(b"signed", {}) for _ in range(4)),
    )
    assert len(await events_of(house.catalogue(), movie.id)) == 2
    assert await house.states() == ["attached"]


async def test_a_service_that_takes_no_uploads_says_so(house: House) -> None:
    _, _, uploads, ticket = await elsewhere(house)
    with pytest.raises(ImageNotFound):
        await send(uploads, ticket)


@pytest.mark.usefixtures("one_loop")
async def test_a_late_completion_does_not_bring_back_what_was_replaced(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, movie, uploads, ticket = await elsewhere(house)
    store.has[ticket.key], store.tells = ARRIVED, ticket.key
    asked, answered, stat = asyncio.Event(), asyncio.Event(), store.stat

    async def slow(key: str) -> StoredImage | None:
        asked.set()
        await answered.wait()
        return await stat(key)

    monkeypatch.setattr(store, "stat", slow)  # the first one to ask waits for its answer
    late = asyncio.create_task(uploads.complete(movie.id, ticket.key))
    await asked.wait()
    monkeypatch.undo()
    await uploads.complete(movie.id, ticket.key)
    replaced = await house.gallery().attach(movie.id, chunks(PNG), "image/png")
    answered.set()
    with pytest.raises(IllegalTransition):
        await late
    assert await house.movies() == [replaced]
    assert await house.states() == ["discarded", "attached"]
    assert store.has == {ticket.key: ARRIVED}, "it can come back"


async def test_a_completion_whose_upload_was_just_used_leaves_the_image(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    movie, uploads, ticket = await issued(house)
    await send(uploads, ticket)
    images = house.images
    assert isinstance(images, ImageUploads)
    uploaded = images.uploaded

    @asynccontextmanager
    async def overtaken(key: str) -> AsyncIterator[IO[bytes]]:
        monkeypatch.undo()
        await house.gallery().uploads.complete(movie.id, key)
        async with uploaded(key) as file:
            yield file

    monkeypatch.setattr(images, "uploaded", overtaken)
    assert (await uploads.complete(movie.id, ticket.key)).version == 2
    assert await house.kept() == {ticket.key: len(PNG)}
    assert await house.unsettled() == []


async def test_an_upload_that_is_begun_anew_after_a_failure_has_to_be_whole_again(house: House) -> None:
    movie, uploads, ticket = await issued(house)
    await send(uploads, ticket)
    with pytest.raises(VersionConflict):
        await uploads.complete(movie.id, ticket.key, version=9)
    await send(uploads, ticket, PNG[:50], total=len(PNG))
    with pytest.raises(UploadConflict) as conflict:
        await uploads.complete(movie.id, ticket.key)
    assert conflict.value.received == 50
    await send(uploads, ticket, PNG[50:], start=50, total=len(PNG))
    assert (await uploads.complete(movie.id, ticket.key)).version == 2
    assert await house.unsettled() == []
