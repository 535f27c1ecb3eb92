"""AVIF: boxes that say where in the file its pictures are.

Of the media data, what no picture uses is overwritten, whatever it was. Orientation is a property of the
image here: EXIF data do not count, and go.
"""

# ruff: noqa: PLR2004 - the numbers are those of the format

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final

from watchly_adapters.metadata.boxes import FREE, Box, Tables, boxes
from watchly_adapters.metadata.parts import PROFILE_HEAD, Parts, is_profile

#: What is kept of the boxes in a box; the others become free.
_KEPT: Final[Mapping[bytes, frozenset[bytes]]] = {
    kind: frozenset(kept.split())
    for kind, kept in {
        b"meta": b"hdlr pitm iloc iinf iref iprp idat grpl dinf",
        b"iinf": b"infe",
        b"iprp": b"ipco ipma",
        b"ipco": b"ispe pixi av1C colr irot imir clap pasp auxC clli mdcv cclv amve reve ndwt a1op a1lx lsel",
        b"moov": b"mvhd trak",
        b"trak": b"tkhd edts tref mdia",
        b"edts": b"elst",
        b"mdia": b"mdhd hdlr minf",
        b"minf": b"vmhd nmhd dinf stbl",
        b"stbl": b"stsd stts ctts stss stsc stsz stco co64 sgpd sbgp",
        b"stsd": b"av01",
        b"av01": b"av1C colr pasp clap ccst auxi clli mdcv cclv amve",
    }.items()
}

#: Items that pictures are made of, and what has a track of them.
_PICTURES: Final = frozenset({b"av01", b"grid", b"iovl", b"iden", b"tmap", b"sato"})
_TRACKS: Final = frozenset({b"pict", b"auxv", b"vide"})

#: Tables are held in memory; those of a thousand pictures take a tenth of this.
_MOST_TABLES: Final = 1024 * 1024


def clean(file: Parts) -> int:
    """Overwrite the boxes, the items and the media data that do not matter."""
    media: list[tuple[int, int]] = []
    tables: dict[bytes, Tables] = {}
    for box in boxes(file, file.read, 0, file.size):
        if box.kind == b"mdat":
            media.append((box.start, box.end))
        elif box.kind in {b"meta", b"moov"}:
            if box.kind in tables or box.end - box.start > _MOST_TABLES:
                raise file.broken(f"has a {box.kind.decode()} box that is too large, or two of them")
            tables[box.kind] = Tables(file, box)
        elif box.at:  # the first one says that this is an AVIF
            file.write(box.at + 4, FREE)
            file.fill(box.start, box.end)
    if b"meta" not in tables:
        raise file.broken("has no meta box")
    used = [*_items(file, tables[b"meta"], media)]
    if b"moov" in tables:
        used += _samples(file, tables[b"moov"])
    for table in tables.values():
        table.save()
    _fill_unused(file, media, used)
    return file.size


def _kept(tables: Tables, kind: bytes, start: int, end: int) -> Iterator[Box]:
    """The boxes in a box of this kind, and those in them, without texts and times; others are freed."""
    for box in tables.boxes(start, end):
        if box.kind not in _KEPT[kind] or (box.kind == b"colr" and not _says_colours(tables, box)):
            tables.free(box)
            continue
        if box.kind == b"hdlr":
            tables.erase(box, 24)
        elif box.kind == b"av01":
            tables.erase(box, 42, 74)
        elif box.kind in {b"mvhd", b"tkhd", b"mdhd"}:
            tables.erase(box, 4, 20 if tables.fields(box).number(1) else 12)
        yield box
        if box.kind in _KEPT:
            yield from _kept(tables, box.kind, box.start + _head(tables, box), box.end)


def _says_colours(tables: Tables, box: Box) -> bool:
    """Whether a box says by numbers or by a profile which colours are meant."""
    size = box.end - box.start - 4
    content = tables.fields(box).take(4 + min(max(size, 0), PROFILE_HEAD))
    if content[:4] == b"nclx":
        return size <= 7
    return content[:4] in {b"prof", b"rICC"} and is_profile(content[4:], size)


def _head(tables: Tables, box: Box) -> int:
    """How many bytes of a box come before the boxes in it: a version, a count, fields."""
    if box.kind == b"iinf":
        return 8 if tables.fields(box).number(1) else 6
    return {b"stsd": 8, b"av01": 78}.get(box.kind, 0)


def _items(file: Parts, meta: Tables, media: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Where the data of the pictures are; those in the meta box are added to the media data."""
    kept = [*_kept(meta, b"meta", 4, meta.end)]
    previews = {item for box in kept if box.kind == b"iref" for item in _previews(meta, box)}
    pictures = {_picture(file, meta, box, previews) for box in kept if box.kind == b"infe"}
    inside = [(meta.place(box.start), meta.place(box.end)) for box in kept if box.kind == b"idat"]
    media += inside
    for box in kept:
        if box.kind != b"iloc":
            continue
        for item, is_inside, offset, length in _extents(file, meta, box):
            first, last = (inside or [(0, 0)])[0] if is_inside else (0, file.size)
            start = first + offset
            end = start + length if length else last  # none stands for all that there is
            if not start <= end <= last:
                raise file.broken("has an item that lies outside of it")
            if item in pictures:
                yield start, end


def _previews(meta: Tables, box: Box) -> Iterator[int]:
    """The items that are smaller ones of others."""
    wide = 4 if meta.fields(box).number(4) >> 24 else 2
    for reference in meta.boxes(box.start + 4, box.end):
        if reference.kind == b"thmb":
            yield meta.fields(reference).number(wide)


def _picture(file: Parts, meta: Tables, box: Box, previews: set[int]) -> int | None:
    """The id of an item that a picture is made of; another item becomes one of no use."""
    fields = meta.fields(box)
    version = fields.number(4) >> 24
    if version not in {2, 3}:
        raise file.broken("has an item of an unknown version")
    wide = 2 * (version - 1)
    item, _, kind = fields.number(wide), fields.number(2), fields.take(4)
    meta.erase(box, 10 + wide)
    if kind in _PICTURES and item not in previews:
        return item
    meta.rename(box.start + 6 + wide, FREE)
    return None


def _extents(file: Parts, meta: Tables, box: Box) -> Iterator[tuple[int, bool, int, int]]:
    """The items' extents: of which item, whether in the meta box, from where, how long."""
    fields = meta.fields(box)
    version, sizes = fields.number(4) >> 24, fields.number(2)
    of_offset, of_length, of_base, of_index = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    wide = 4 if version == 2 else 2
    for _ in range(fields.number(wide)):
        file.part()
        item = fields.number(wide)
        method = fields.number(2) & 15 if version else 0
        if version > 2 or method > 1:
            raise file.broken("has items at places of an unknown kind")
        fields.take(2)
        base = fields.number(of_base)
        for _ in range(fields.number(2)):
            file.part()
            fields.take(of_index if version else 0)
            yield item, method == 1, base + fields.number(of_offset), fields.number(of_length)


def _samples(file: Parts, moov: Tables) -> Iterator[tuple[int, int]]:
    """Where the pictures of the tracks are; other tracks are freed."""
    tracks: list[dict[bytes, Box]] = []
    for box in _kept(moov, b"moov", 0, moov.end):
        if box.kind == b"trak":
            tracks.append({})
        if tracks:
            tracks[-1].setdefault(box.kind, box)
    for track in tracks:
        handler = track.get(b"hdlr")
        if handler is None or moov.fields(handler, 8).take(4) not in _TRACKS:
            moov.free(track[b"trak"])
            continue
        if not track.keys() >= {b"stsz", b"stsc"} or not track.keys() & {b"stco", b"co64"}:
            raise file.broken("has a track without pictures")
        yield from _chunks(file, moov, track)


def _chunks(file: Parts, moov: Tables, track: Mapping[bytes, Box]) -> Iterator[tuple[int, int]]:
    """Where the chunks of a track are: some pictures one after the other."""
    fields = moov.fields(track[b"stsz"], 4)
    size, count = fields.number(4), fields.number(4)
    file.allow_pictures(count)
    lengths = iter([size or fields.number(4) for _ in range(count)])
    fields = moov.fields(track[b"stsc"], 4)
    runs: dict[int, int] = {}
    for _ in range(fields.number(4)):
        first, runs[first], _ = (fields.number(4) for _ in range(3))
    wide, kind = (4, b"stco") if b"stco" in track else (8, b"co64")
    fields = moov.fields(track[kind], 4)
    pictures = 0
    for chunk in range(1, fields.number(4) + 1):
        pictures = runs.get(chunk, pictures)
        start = fields.number(wide)
        end = start + sum(islice(lengths, pictures))
        file.require(end)
        yield start, end


def _fill_unused(file: Parts, media: list[tuple[int, int]], used: list[tuple[int, int]]) -> None:
    """Overwrite the media data but for what is used."""
    used.sort(reverse=True)
    at = 0
    for start, end in sorted(media):
        at = max(at, start)
        while used and used[-1][0] < end:
            used_start, used_end = used.pop()
            file.fill(at, used_start)
            at = max(at, used_end)
        file.fill(at, end)
