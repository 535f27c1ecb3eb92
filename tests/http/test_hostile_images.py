"""What people send as images: refused without a trace, or shown upright."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from PIL import Image
from tests.hostile import CORPUS, HIDING, QUARTERS, SHOWN, SHOWN_SIZE, harmful
from tests.http.conftest import Client, movie_in, problem_in

from watchly_http.problems import KINDS

pytestmark = pytest.mark.anyio

#: Images of `SHOWN` that show the quarters' lightness only, and those of which that cannot be told either.
GREY = {"jpeg grey", "png L", "png LA"}
PLAIN = {"png 1", "png 16 bit"}


@pytest.fixture
def spools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where uploads wait; everything there can be seen."""
    folder = tmp_path / "spools"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    return folder


@pytest.mark.parametrize("name", CORPUS)
async def test_what_is_no_image_is_refused_and_leaves_nothing(
    fake_client: Client, spools: Path, name: str
) -> None:
    hostile = CORPUS[name]
    movie = await fake_client.added()
    address = f"/api/movies/{movie.id}/image"

    raw = await fake_client.put(
        address, content=hostile.content, headers={"Content-Type": hostile.media_type}
    )
    form = await fake_client.put(
        address, files={"image": ("../../odd\0name.jpg", hostile.content, hostile.media_type)}
    )
    added = await fake_client.post(
        "/api/movies",
        data={"title": "Heat"},
        files={"image": ("x" * 300 + ".png", hostile.content, hostile.media_type)},
    )

    for response in (raw, form, added):
        assert response.status_code in hostile.statuses, response.text
        problem_in(response, response.json()["code"])
        assert KINDS[response.json()["code"]].code != "malformed_request"
    assert await fake_client.current(movie.id) == movie
    assert fake_client.ledger(movie.id) == {}
    assert fake_client.ledger(0) == {}
    assert len((await fake_client.get("/api/movies")).json()["data"]) == 1
    assert os.listdir(spools) == []  # noqa: PTH208 - at once


@pytest.mark.parametrize("name", HIDING)
async def test_what_hides_in_an_image_is_not_served(fake_client: Client, name: str) -> None:
    movie = await fake_client.added()
    sent = await fake_client.put(
        f"/api/movies/{movie.id}/image",
        content=HIDING[name],
        headers={"Content-Type": f"image/{name.partition(' ')[0]}"},
    )

    assert sent.status_code == 200, sent.text
    served = await fake_client.get(sent.json()["image_url"])
    assert len(served.content) == len(HIDING[name])
    assert not harmful(served.content)


@pytest.mark.parametrize("name", SHOWN)
async def test_odd_images_are_shown_upright(fake_client: Client, name: str) -> None:
    format_ = name.partition(" ")[0]
    movie = await fake_client.added()

    response = await fake_client.put(
        f"/api/movies/{movie.id}/image",
        content=SHOWN[name],
        headers={"Content-Type": f"image/{format_}"},
    )

    assert response.status_code == 200, response.text
    shown = movie_in(response).image
    assert shown is not None
    assert (shown.width, shown.height) == SHOWN_SIZE
    original = await fake_client.get(response.json()["image_url"])
    assert original.headers["content-type"] == f"image/{format_}"
    card = await fake_client.get(shown.variants["card"])
    assert (card.status_code, card.headers["content-type"]) == (200, "image/webp")
    with Image.open(io.BytesIO(card.content)) as picture:
        assert picture.size == SHOWN_SIZE
        assert not picture.getexif()
        colours = picture.convert("RGB")
        width, height = SHOWN_SIZE
        corners = [colours.getpixel((x, y)) for y in (3, height - 4) for x in (3, width - 4)]
    for corner, quarter in zip(corners, QUARTERS, strict=True):
        assert isinstance(corner, tuple)
        expected = (_grey(quarter),) * 3 if name in GREY else quarter
        if name not in PLAIN:
            assert max(abs(a - b) for a, b in zip(corner, expected, strict=True)) < 60, (corners, name)


def _grey(colour: tuple[int, int, int]) -> int:
    red, green, blue = colour
    return (299 * red + 587 * green + 114 * blue) // 1000
