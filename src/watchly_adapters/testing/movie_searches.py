"""What a store of movies promises of a search: what it finds, in which order, and what writes do to it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import permutations
from typing import Final

import msgspec
import pytest

from watchly_adapters.testing.movie_lists import add, assert_agreed, listed, paged
from watchly_adapters.testing.stores import HEAT, LATER, NOON, Failure, Store, StoreContract
from watchly_core.movies import Movie, MovieDraft
from watchly_core.queries import MAX_WORDS, Cursor, MovieQuery, Sort
from watchly_core.text import MAX_KEY, MAX_SIMILAR, MAX_WORD

__all__ = ["MovieSearchContract"]

_KNOWN: Final = (
    MovieDraft(title="The Godfather", description="An offer by Coppola.", genre="Crime", release_year=1972),
    MovieDraft(title="The Shawshank Redemption", genre="Drama", release_year=1994),
    MovieDraft(title="The Matrix", description="Neo wakes up.", genre="Action", release_year=1999),
    MovieDraft(title="Amélie", description="A waitress in Montmartre."),
    MovieDraft(title="Léon", description="A cleaner and a plant.", genre="Crime", release_year=1994),
    HEAT,
)


async def _titles(store: Store, q: str) -> list[str]:
    """The titles that `q` finds, by relevance; count, genres and export tell the same."""
    await assert_agreed(store, MovieQuery(q=q))
    return [movie.title for movie in await listed(store, MovieQuery(q=q))]


async def _titled(store: Store, *titles: str) -> Sequence[Movie]:
    return await add(store, *(MovieDraft(title=title) for title in titles))


class MovieSearchContract(StoreContract):
    """Searches. Supply `store`."""

    # What is found

    @pytest.mark.parametrize(
        ("text", "searches"),
        [
            ("Amélie", ["amelie", "AMÉLIE", "ame\u0301lie", "Amel", "a", "\uff21\uff2d\uff25"]),
            ("Le\u0301on", ["leon", "léon", "LÉ"]),
            ("Spider-Man", ["spider man", "man spider", "spider-man", "spiderman", "spiderm", "Spider–M"]),
            ("L'Avventura", ["avventura", "lavventura", "l’avventura", "L AVV"]),
            ("E.T.", ["et", "e.t.", "e t", "E. T."]),
            ("8½", ["8", "8½", "8 1 2", "8 1/2"]),
            ("ΣΊΣΥΦΟΣ", ["σισυφος", "σίσυφοσ", "ΣΙΣ"]),
            ("Die Straße", ["strasse", "STRASSE", "straß", "die"]),
            ("İstanbul, ılık", ["istanbul", "ISTANBUL", "ilik"]),
            ("Łódź – Æon ﬁlm", ["lodz", "łódź", "aeon", "film aeon lodz"]),
            ("東京物語", ["東京", "東"]),
            ("हिन्दी", ["हिन्दी", "हि"]),
            ("snake_case", ["snake", "case", "snake_case", "_case", "SNAKE CA"]),
        ],
    )
    async def test_words_begin_with_what_is_searched_whatever_case_and_accents(
        self, store: Store, text: str, searches: list[str]
    ) -> None:
        titled, _, described = await add(
            store,
            MovieDraft(title=text),
            MovieDraft(title="Unrelated", description="Nor this."),
            MovieDraft(title="Other", description=f"Nothing but ({text})!"),
        )
        for q in searches:
            assert await listed(store, MovieQuery(q=q)) == (titled, described), q

    async def test_every_word_has_to_match_in_title_or_description(self, store: Store) -> None:
        await add(store, HEAT, MovieDraft(title="Thief"), MovieDraft(title="Detective", description="Heat"))
        assert await _titles(store, "heat thief") == ["Heat"]
        assert await _titles(store, "THIEF hea det") == ["Heat"]
        assert await _titles(store, "heat det") == ["Heat", "Detective"]
        assert await _titles(store, "heat heat") == ["Heat", "Detective"]
        assert await _titles(store, "heat thief amelie") == []

    async def test_the_middle_of_a_word_is_no_match(self, store: Store) -> None:
        await _titled(store, "Amélie", "Melie")
        assert await _titles(store, "melie") == ["Melie"]

    @pytest.mark.parametrize("q", [None, "", " ", "\t\n", "\u3000"])
    async def test_blanks_search_for_nothing(self, store: Store, q: str | None) -> None:
        movies = await add(store, *_KNOWN)
        assert await listed(store, MovieQuery(q=q)) == tuple(movies)
        await assert_agreed(store, MovieQuery(q=q))

    @pytest.mark.parametrize(
        "q",
        [
            *(
                "%",
                "_",
                "\\",
                "'",
                "''",
                '"',
                "&|!():*",
                ":*",
                "!",
                "<->",
                "--",
                "/*",
                ";",
                "$$",
                "*",
                "^",
                "=",
            ),
            *("\0", "\0\0", " \0 ", "\U0001f3ac", "\u200b", "\u0301", "…", "¿?", "。", "-", "."),
            *("%" * 10_240, "'" * 10_240),
        ],
        ids=lambda q: ascii(q)[:20],
    )
    async def test_what_holds_no_word_finds_nothing(self, store: Store, q: str) -> None:
        await add(store, *_KNOWN, MovieDraft(title=q.replace("\0", "")[:255]))
        assert await _titles(store, q) == []

    @pytest.mark.parametrize(
        "q",
        [
            *("heat'", '"heat"', "heat:*", "'heat':A", "!heat", "(heat", "heat & thief", "heat <-> thief"),
            *(
                "heat\0",
                "heat\0thief",
                "\\heat\\",
                "heat\\'",
                "%heat%",
                "he%th",
                "thief=heat",
            ),
            *("^heat", "=heat", "{heat}", "$$heat$$", "heat\n\tthief", "heat\U0001f3acthief"),
            "a " * 31 + "heat",
        ],
        ids=lambda q: ascii(q)[:20],
    )
    async def test_marks_of_any_kind_only_part_words(self, store: Store, q: str) -> None:
        await add(store, *_KNOWN, MovieDraft(title="%", description="' & | ! : * \\ ^ = \U0001f3ac"))
        assert await _titles(store, q) == ["Heat"]

    @pytest.mark.parametrize("q", ["heat'; DROP TABLE movies; --", "' OR 1=1 --", "heat | matrix", "%s heat"])
    async def test_marks_mean_nothing(self, store: Store, q: str) -> None:
        movies = await add(store, *_KNOWN)
        assert await _titles(store, q) == []
        assert await listed(store, MovieQuery()) == tuple(movies)

    async def test_a_word_of_any_length_is_searched(self, store: Store) -> None:
        long, _ = await add(
            store, MovieDraft(title="Scream", description="a" * 10_000), MovieDraft(title="a" * 60)
        )
        for size in (61, 100, 10_240):
            assert await listed(store, MovieQuery(q="a" * size)) == (long,), size
        assert await _titles(store, "b" * 10_240) == []
        assert await _titles(store, "xy" * 5_120) == []

    async def test_thirty_two_words_are_searched(self, store: Store) -> None:
        words = [f"{letter}{letter}{number}word" for number in range(16) for letter in "xy"]
        await add(store, MovieDraft(title="Many", description=" ".join(words)), *_KNOWN)
        assert await _titles(store, " ".join(words)) == ["Many"]
        assert await _titles(store, " ".join(word[:-1] for word in words)) == ["Many"]
        assert await _titles(store, " ".join([*words[:31], "wrong"])) == []
        assert await _titles(store, " ".join(word.replace("word", "wrod") for word in words)) == ["Many"]
        assert await _titles(store, " ".join(f"{number}" + "zq" * 40 for number in range(32))) == []

    async def test_of_a_search_longer_than_any_title_every_word_has_to_match(self, store: Store) -> None:
        title = " ".join(letter * 63 for letter in "abcd")
        assert len(title) == MAX_KEY
        await add(store, MovieDraft(title=title, genre="Crime"), *_KNOWN)
        assert await _titles(store, title) == [title]
        assert await _titles(store, f"{title} zzz") == []
        (asleep,) = await add(store, MovieDraft(title=title, description="Zzz.", genre="Drama"))
        assert await listed(store, MovieQuery(q=f"{title} zzz")) == (asleep,)
        await assert_agreed(store, MovieQuery(q=f"{title} zzz"))

    @pytest.mark.parametrize(
        ("title", "q"),
        [
            ("\ufdfa" * 255, "\u0635\u0644\u0649"),
            ("\ufdfa" * 255, "\ufdfa"),
            ("\U0001d56c" * 255, "a" * 64),
            ("\u0390" * 255, "\u03b9" * 20),
            ("\ufb03" * 255, "ffiffi"),
        ],
        ids=ascii,
    )
    async def test_titles_that_grow_by_folding_are_found(self, store: Store, title: str, q: str) -> None:
        movies = await add(store, MovieDraft(title=title), *_KNOWN, MovieDraft(title=title))
        assert await listed(store, MovieQuery(q=q)) == (movies[0], movies[-1])
        assert await listed(store, MovieQuery(q=q, sort=(Sort("title"),))) == (movies[0], movies[-1])
        await assert_agreed(store, MovieQuery(q=q))

    @pytest.mark.parametrize(
        ("description", "q"),
        [
            ("\ufdfa" * 10_000, "\u0635\u0644\u0649"),
            ("\xe9" * 10_000, "e" * 64),
            ("\U0001d56c" * 10_000, "aa"),
            ("\U0001f3ac" * 9_996 + "here", "here"),
            ("z-" * 5_000, "z zz"),
            ("/".join(map(chr, range(0x4E00, 0x4E00 + 5_000))), "\u4e00 \u5000"),
            ("".join(map(chr, range(0x4E00, 0x4E00 + 10_000))), "\u4e00\u4e01"),
            ("\u0301" * 9_999 + "x", "x"),
            ("'" * 9_999 + "x", "x"),
        ],
        ids=lambda text: ascii(text)[:20],
    )
    async def test_descriptions_of_ten_thousand_characters_without_a_space_are_found(
        self, store: Store, description: str, q: str
    ) -> None:
        (movie, *_) = await add(store, MovieDraft(title="Long", description=description), *_KNOWN)
        assert await listed(store, MovieQuery(q=q)) == (movie,)
        assert (await store.queries.get(movie.id)).description == description

    # In which order

    async def test_the_title_counts_more_than_its_beginning_its_words_and_the_description(
        self, store: Store
    ) -> None:
        in_order = (
            *(("Heat", None), ("HEAT!", "Heat."), ("héat", "")),  # the title
            *(("Heat 2", None), ("Heathers", "Heat."), ("Heat Wave", None)),  # its beginning
            *(("The Heat", None), ("Dead-Heat", "Heat."), ("A Heatwave", None)),  # words of it
            *(("Ronin", "Heat."), ("Thief", "A heathen."), ("Léon", "In the heat.")),
        )
        groups = [in_order[start : start + 3] for start in range(0, 12, 3)]
        by_turns = [group[place] for place in range(3) for group in groups[::-1]]
        await add(store, *(MovieDraft(title=title, description=text) for title, text in by_turns))
        assert await _titles(store, "heat") == [title for title, _ in in_order]

    async def test_several_words_are_ranked_like_one(self, store: Store) -> None:
        await add(
            store,
            MovieDraft(title="Man", description="The third."),
            MovieDraft(title="The Man", description="A third."),
            MovieDraft(title="A Man, the Third"),
            MovieDraft(title="The Thirdly Man"),
            MovieDraft(title="The Third Manual"),
            MovieDraft(title="The-Third Man!"),
            MovieDraft(title="Third"),
        )
        assert await _titles(store, "the third man") == [
            "The-Third Man!",
            "The Third Manual",
            "A Man, the Third",
            "The Thirdly Man",
            "Man",
            "The Man",
        ]

    async def test_equals_are_by_ascending_id_whenever_they_were_written(self, store: Store) -> None:
        movies = [movie for _ in range(3) for movie in await _titled(store, "Heat", "The Heat", "Heats")]
        async with store.transactions() as tx:
            await tx.movies.replace(msgspec.structs.replace(movies[0], genre="Crime", version=2))
        found = await listed(store, MovieQuery(q="heat"))
        assert [movie.id for movie in found] == [movies[place].id for place in (0, 3, 6, 2, 5, 8, 1, 4, 7)]

    async def test_a_sort_takes_the_place_of_relevance(self, store: Store) -> None:
        await add(
            store,
            MovieDraft(title="Ronin", description="Heat.", release_year=1998),
            MovieDraft(title="The Heat", release_year=2013),
            MovieDraft(title="Matrix", release_year=1999),
            MovieDraft(title="Heat", release_year=1995),
        )
        for q in ("heat", "haet"):
            by_title = await listed(store, MovieQuery(q=q, sort=(Sort("title"),)))
            assert [movie.title for movie in by_title] == ["Heat", "Ronin", "The Heat"]
            by_year = await listed(store, MovieQuery(q=q, sort=(Sort("release_year", descending=True),)))
            assert [movie.title for movie in by_year] == ["The Heat", "Ronin", "Heat"]

    # Similar words

    @pytest.mark.parametrize(
        ("q", "title"),
        [
            ("godfahter", "The Godfather"),
            ("the GODFAHTER", "The Godfather"),
            ("godfater copola", "The Godfather"),
            ("shawshenk", "The Shawshank Redemption"),
            ("shawshenk redemtion", "The Shawshank Redemption"),
            ("matirx", "The Matrix"),
            ("mtarix", "The Matrix"),
            ("neo matirx", "The Matrix"),
            ("amleie", "Amélie"),
            ("AMÉLEI", "Amélie"),
            ("montmarte", "Amélie"),
            ("loen", "Léon"),
            ("haet", "Heat"),
            ("heat theif", "Heat"),
        ],
    )
    async def test_mistyped_words_find_similar_ones(self, store: Store, q: str, title: str) -> None:
        await add(store, *_KNOWN)
        assert await _titles(store, q) == [title]

    async def test_words_too_different_find_nothing(self, store: Store) -> None:
        await add(store, *_KNOWN)
        for q in ("xylophone", "godfahter xylophone", "matirx shawshenk", "q", "zz"):
            assert await _titles(store, q) == [], q

    async def test_similar_words_are_left_alone_where_any_movie_matches(self, store: Store) -> None:
        await add(
            store,
            MovieDraft(title="Heat", genre="Crime", release_year=1995),
            MovieDraft(title="Haet", genre="Drama", release_year=2001),
        )
        assert await _titles(store, "heat") == ["Heat"]
        # Filters do not bring them back.
        for query in (MovieQuery(q="heat", genre="Drama"), MovieQuery(q="heat", release_year=2001)):
            assert await listed(store, query) == ()
            await assert_agreed(store, query)
        assert await _titles(store, "heta") == ["Heat"]

    async def test_similar_words_are_ranked_by_closeness_first_in_titles(self, store: Store) -> None:
        await add(
            store,
            MovieDraft(title="Ronin", description="The matrix."),
            MovieDraft(title="Léon", description="A matir."),
            MovieDraft(title="The Matrix"),  # two characters exchanged, few trigrams shared
            MovieDraft(title="The Matir"),
            MovieDraft(title="Matrixes", description="Nothing of the kind."),
            MovieDraft(title="Matir"),
        )
        assert await _titles(store, "matirx") == ["The Matir", "Matir", "The Matrix", "Léon", "Ronin"]

    async def test_each_word_is_as_close_as_the_least_close(self, store: Store) -> None:
        await _titled(store, "Matrix Heat", "Matir Heats", "Haze", "Matir Heat")
        assert await _titles(store, "matirx heatt") == ["Matir Heats", "Matir Heat", "Matrix Heat"]

    async def test_a_list_of_similar_words_has_one_order_page_by_page_and_as_a_whole(
        self, store: Store
    ) -> None:
        # The closer word of the second movie is not in its title: both are of the same tier.
        movies = await add(
            store,
            MovieDraft(title="Matrix"),
            MovieDraft(title="Matrix", description="A matir."),
            MovieDraft(title="Matrix"),
        )
        assert await listed(store, MovieQuery(q="matirx")) == tuple(movies)
        await assert_agreed(store, MovieQuery(q="matirx"))

    async def test_as_many_and_as_long_words_as_there_can_be_have_similar_ones(self, store: Store) -> None:
        letters = [chr(0x10428 + number) for number in range(40)]  # of four bytes each

        def changed(*places: int) -> str:
            """The longest word, with another letter in these places."""
            word = [letters[place % 20] for place in range(MAX_WORD)]
            for place in places:
                word[place % MAX_WORD] = letters[20 + place // MAX_WORD]
            return "".join(word)

        known = [changed(number) for number in range(3 * MAX_SIMILAR)]
        movies = await add(
            store, *(MovieDraft(title="Many", description=" ".join(known[start::2])) for start in range(2))
        )
        query = MovieQuery(q=" ".join(changed(place, place + 1) for place in range(MAX_WORDS)))
        assert await listed(store, query) == tuple(movies)
        assert await store.queries.count(query) == len(movies)

    async def test_of_many_similar_words_the_closest_count_then_by_code_point(self, store: Store) -> None:
        titles = [f"zyxwv{number:03}" for number in range(MAX_SIMILAR + 50)]
        drafts = [MovieDraft(title=title) for title in reversed(titles)]
        async with store.transactions() as tx:
            await tx.movies.add_many([*drafts, MovieDraft(title="zyxwvuz")], NOON)
        found = [movie.title for movie in await listed(store, MovieQuery(q="zyxwvu1"))]
        assert found[0] == "zyxwvuz"
        assert sorted(found[1:]) == titles[: MAX_SIMILAR - 1]

    @pytest.mark.parametrize("sort", [(), (Sort("title", descending=True),)])
    async def test_a_list_goes_on_with_similar_words_when_a_match_comes(
        self, store: Store, sort: tuple[Sort, ...]
    ) -> None:
        await _titled(store, "Heat", "Heat", "The Heat", "Heat", "Haze")
        query = MovieQuery(q="haet", sort=sort)
        whole = await listed(store, query)
        page = await store.queries.find(msgspec.structs.replace(query, limit=2))
        assert page.next_cursor is not None
        (match,) = await _titled(store, "Haet")
        rest = msgspec.structs.replace(query, cursor=Cursor.decode(page.next_cursor))
        assert [movie for movie in await paged(store, rest) if movie != match] == list(whole[2:])
        assert await listed(store, query) == (match,)

    @pytest.mark.parametrize("sort", [(), (Sort("title", descending=True),)])
    async def test_a_list_goes_on_without_similar_words_when_no_match_is_left(
        self, store: Store, sort: tuple[Sort, ...]
    ) -> None:
        matches = await _titled(store, "Haet", "The Haet", "Haet", "Haet")
        similar = await _titled(store, "Heat", "The Heat", "Heat")
        query = MovieQuery(q="haet", sort=sort)
        page = await store.queries.find(msgspec.structs.replace(query, limit=2))
        assert page.next_cursor is not None
        async with store.transactions() as tx:
            for movie in matches:
                await tx.movies.remove(movie.id)
        rest = msgspec.structs.replace(query, cursor=Cursor.decode(page.next_cursor))
        assert await listed(store, rest) == ()
        assert sorted(movie.id for movie in await listed(store, query)) == [movie.id for movie in similar]

    # What writes do

    async def test_a_movie_is_found_however_it_was_added(self, store: Store) -> None:
        async with store.transactions() as tx:
            one = await tx.movies.add(HEAT, NOON)
            many = await tx.movies.add_many([HEAT] * 3, NOON)
        for q in ("heat", "thief heat", "haet", "detcetive"):
            assert await listed(store, MovieQuery(q=q)) == (one, *many), q

    async def test_a_revised_movie_is_found_by_its_new_words_alone(self, store: Store) -> None:
        (movie,) = await add(store, HEAT)
        ronin = msgspec.structs.replace(movie, title="Ronin", description="A case.", version=2)
        async with store.transactions() as tx:
            await tx.movies.replace(ronin)
        for q in ("ronin", "case", "ronni", "a"):
            assert await listed(store, MovieQuery(q=q)) == (ronin,), q
        for q in ("heat", "thief", "detective", "haet"):
            assert await _titles(store, q) == [], q
        silent = msgspec.structs.replace(ronin, description=None, version=5, updated_at=LATER)
        async with store.transactions() as tx:
            await tx.movies.replace(silent)
        assert await _titles(store, "case") == []
        assert await listed(store, MovieQuery(q="ronin")) == (silent,)
        async with store.transactions() as tx:
            await tx.movies.replace(movie)
        assert await listed(store, MovieQuery(q="thief haet")) == (movie,)
        assert await _titles(store, "ronin") == []

    async def test_a_movie_whose_other_fields_change_is_found_as_before(self, store: Store) -> None:
        (movie,) = await add(store, HEAT)
        for version in (2, 3):
            movie = msgspec.structs.replace(
                movie, genre=f"Crime {version}", image_url="/x", updated_at=LATER, version=version
            )
            async with store.transactions() as tx:
                await tx.movies.replace(movie)
            for query in (MovieQuery(q="heat"), MovieQuery(q="haet"), MovieQuery(sort=(Sort("title"),))):
                assert await listed(store, query) == (movie,)

    async def test_a_removed_movie_is_not_found(self, store: Store) -> None:
        removed, kept = await add(store, HEAT, HEAT)
        async with store.transactions() as tx:
            await tx.movies.remove(removed.id)
        for q in ("heat", "haet"):
            assert await listed(store, MovieQuery(q=q)) == (kept,)
        async with store.transactions() as tx:
            await tx.movies.remove(kept.id)
        for q in ("heat", "haet"):
            assert await _titles(store, q) == []

    async def test_what_a_transaction_undid_is_not_found(self, store: Store) -> None:
        (movie,) = await add(store, HEAT)
        with pytest.raises(Failure):
            async with store.transactions() as tx:
                await tx.movies.replace(msgspec.structs.replace(movie, title="Ronin", version=2))
                await tx.movies.add(MovieDraft(title="Ronin"), NOON)
                await tx.movies.add_many([MovieDraft(title="Ronin")] * 3, NOON)
                raise Failure
        for q in ("ronin", "ronni"):
            assert await _titles(store, q) == []
        assert await _titles(store, "heat") == ["Heat"]

    async def test_what_is_not_committed_is_not_found(self, store: Store) -> None:
        (movie,) = await add(store, HEAT)
        async with store.transactions() as tx:
            await tx.movies.replace(msgspec.structs.replace(movie, title="Ronin", version=2))
            await tx.movies.add(MovieDraft(title="Ronin"), NOON)
            for q in ("ronin", "ronni"):
                assert await _titles(store, q) == []
            assert await listed(store, MovieQuery(q="haet")) == (movie,)
        for q in ("ronin", "ronni"):
            assert await _titles(store, q) == ["Ronin", "Ronin"]

    async def test_a_word_that_was_undone_or_removed_is_known_when_it_comes_back(self, store: Store) -> None:
        draft = MovieDraft(title="Zardoz")
        with pytest.raises(Failure):
            async with store.transactions() as tx:
                await tx.movies.add(draft, NOON)
                raise Failure
        for _ in range(2):
            (movie,) = await add(store, draft)
            assert await listed(store, MovieQuery(q="zradoz")) == (movie,)
            assert await listed(store, MovieQuery(q="zardos")) == (movie,)
            async with store.transactions() as tx:
                await tx.movies.remove(movie.id)
            assert await _titles(store, "zardos") == []

    async def test_words_that_many_add_at_once_are_known_to_all(self, store: Store) -> None:
        orders = permutations(("Zardoz", "Solaris", "Stalker"))

        async def write(titles: Sequence[str]) -> None:
            async with store.transactions() as tx:
                for title in titles:
                    await tx.movies.add(MovieDraft(title=title), NOON)
                    await asyncio.sleep(0)

        await asyncio.wait_for(asyncio.gather(*map(write, orders)), 30)
        for q, title in (("zardos", "Zardoz"), ("solarus", "Solaris"), ("stalkre", "Stalker")):
            assert await _titles(store, q) == [title] * 6
