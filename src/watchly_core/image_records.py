"""What happens in the ledger of images when movies change."""

from __future__ import annotations

from datetime import datetime

from watchly_core.errors import ImageNotFound
from watchly_core.images import Image, ImageState
from watchly_core.ports import Transaction


async def discard_images(
    tx: Transaction, movie_id: int, due_at: datetime, *, purge: bool, tickets: bool = False
) -> None:
    """Discard the image that a movie shows, to be swept at `due_at`.

    With `purge` earlier ones are discarded as well, and with `tickets` what is being uploaded by them.
    """
    for record in await tx.images.of_movie(movie_id):
        if (
            record.state is ImageState.ATTACHED
            or (purge and record.state is ImageState.DISCARDED)
            or (tickets and record.state is ImageState.PENDING and record.open_until is not None)
        ):
            await tx.images.replace(record.moved(ImageState.DISCARDED, due_at=due_at))


async def recall_image(tx: Transaction, movie_id: int, image: Image | None, due_at: datetime) -> Image | None:
    """Let a movie show an image that it showed before, and discard the one that it shows, due at `due_at`.

    None if it is to show none, or the store may have lost that one: it then shows none.
    """
    for record in await tx.images.of_movie(movie_id):
        if record.state is ImageState.ATTACHED and (image is None or record.image.key != image.key):
            await tx.images.replace(record.moved(ImageState.DISCARDED, due_at=due_at))
    if image is None:
        return None
    try:
        record = await tx.images.get(image.key)
    except ImageNotFound:
        return None
    if record.state is ImageState.DISCARDED:
        await tx.images.replace(record.moved(ImageState.ATTACHED, due_at=None))
    elif record.state is not ImageState.ATTACHED:
        return None
    return record.image
