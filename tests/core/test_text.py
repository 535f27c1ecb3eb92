"""What a match is: folding, words, entries, the tiers of a search, and words that others may have meant."""

from __future__ import annotations

import unicodedata

import pytest

from watchly_core.text import (
    LEAST_CLOSENESS,
    MAX_KEY,
    MAX_SIMILAR,
    MAX_WORD,
    Search,
    Term,
    Tier,
    entries,
    exchanges,
    fold,
    matches,
    similar,
    title_key,
    trigrams,
    vocabulary,
    words,
)

# ruff: noqa: RUF001 - letters that look like others are the point


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("", ""),
        ("Heat", "heat"),
        ("HEAT 2!", "heat 2!"),
        ("Amélie", "amelie"),
        ("Ame\u0301lie", "amelie"),
        ("Léon", "leon"),
        ("Ÿœü", "yoeu"),
        ("Straße STRASSE ẞ", "strasse strasse ss"),
        ("ﬁlm ﬀ ﬆ Ǆ ĳ", "film ff st dz ij"),
        ("Ærø Æther Œuvre", "aero aether oeuvre"),
        ("Łódź", "lodz"),
        ("Đặng ðe Þór Ħal Ŧ", "dang de thor hal t"),
        ("İstanbul Iğdır ılık", "istanbul igdir ilik"),
        ("ΣΊΣΥΦΟΣ Σίσυφος", "σισυφοσ σισυφοσ"),
        ("Ёлка ЁЛКА Йод", "елка елка иод"),
        ("기생충", "기생충"),
        (unicodedata.normalize("NFD", "기생충"), "기생충"),
        ("ｶﾞﾗｽ ガラス カ\u3099ラス", "ガラス ガラス ガラス"),
        ("ハハ パパ ババ", "ハハ パパ ババ"),
        ("あ\u3099", "あ\u3099"),
        ("हिन्दी", "हिनदी"),
        ("मां", "मां"),
        ("ที่นี่", "ทีนี"),
        ("مُحَمَّد أحمد", "محمد احمد"),
        ("שָׁלוֹם", "שלום"),
        ("ＦＵＬＬ\u3000Ｗｉｄｔｈ １２３", "full width 123"),
        ("Ⅷ ① № ㎏ ℌ", "viii 1 no kg h"),
        ("8½ ½ ½½ 1½", "8 1⁄2 1⁄2 1⁄2 1⁄2 1 1⁄2"),
        ("Alien³ x¹⁰ ² H₂O", "alien 3 x 10 2 h2o"),
        ("Batman™ a℠b", "batman ab"),
        ("Hawaiʻi Hawaiʼi", "hawai'i hawai'i"),
        ("\u202aHeat\u202c \u200eHe\u00adat\u200b", "heat heat"),
        ("می\u200cخواهم", "میخواهم"),
        ("葛\U000e0100飾", "葛飾"),
        ("\ufeff\u3164\u200d", ""),
        ("\U0001f3ac❤\ufe0f", "\U0001f3ac❤"),
        ("a\x00b\tc\nd\x85", "a\x00b\tc\nd\x85"),
        ("\ud800É", "\ud800e"),
        ("\ue000É", "\ue000e"),
    ],
    ids=ascii,
)
def test_folding(text: str, folded: str) -> None:
    assert fold(text) == folded
    assert fold(folded) == folded
    assert fold(unicodedata.normalize("NFD", text)) == folded


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ハハ", "パパ"),
        ("かき", "がき"),
        ("मां", "मीं"),
        ("기생", "기새"),
        ("е", "e"),
        ("ب", "ت"),
    ],
)
def test_what_folding_keeps_apart(one: str, other: str) -> None:
    assert fold(one) != fold(other)


def test_folding_is_the_same_with_and_without_the_short_cut_for_ascii() -> None:
    text = "".join(map(chr, range(128)))
    assert fold(text) == fold(text + "é").removesuffix("e")


def test_every_character_folds_once_and_for_all() -> None:
    # Beyond these are only characters for private use and of later versions of Unicode.
    folded = [fold(chr(point)) for point in (*range(0x40000), *range(0xE0000, 0xE1000))]
    assert [text for text in folded if fold(text) != text] == []
    # No letter is left in a case that another one has.
    assert [text for text in folded if text != text.casefold()] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("  \t\n ", []),
        ("The  Godfather: Part II", ["the", "godfather", "part", "ii"]),
        ("to be or not to be", ["to", "be", "or", "not", "to", "be"]),
        ("Spider-Man", ["spider", "man"]),
        ("snake_case__x_", ["snake", "case", "x"]),
        ("E.T.", ["e", "t"]),
        ("8½", ["8", "1", "2"]),
        ("Alien³", ["alien", "3"]),
        ("%_\\'\"&|!():*<->^=$;--", []),
        ("?¿…—«»“”", []),
        ("\U0001f3ac", []),
        ("a\U0001f3acb", ["a", "b"]),
        ("a\x00b\ud800c", ["a", "b", "c"]),
        ("हिन्दी फ़िल्म", ["हिनदी", "फिलम"]),
        ("মা কালী", ["মা", "কালী"]),
        ("あ\u3099あ", ["あ", "あ"]),
        ("\u3099 \u0940 ा", []),
        ("七人の侍", ["七", "人", "の", "侍"]),
        ("基督山・恩仇", ["基", "督", "山", "恩", "仇"]),
        ("ガンダムの夏 기생충", ["ガンダム", "の", "夏", "기생충"]),
        ("\u202aHeat\u202c", ["heat"]),
        ("Zauber\u00adberg", ["zauberberg"]),
    ],
    ids=ascii,
)
def test_words(text: str, found: list[str]) -> None:
    assert words(text) == found


def test_words_have_at_most_64_characters() -> None:
    assert words("é" * 63 + "a" * 200 + " b") == ["e" * 63 + "a", "b"]
    assert MAX_WORD == 64


def test_of_a_text_20_000_characters_are_searched() -> None:
    assert words("é" * 19_998 + " xy") == ["e" * 64, "x"]
    assert words("x " * 9_999 + "end") == ["x"] * 9_999 + ["en"]
    # One character can fold to eighteen.
    assert sum(map(len, words("\ufdfa" * 20_000))) <= 20_000


@pytest.mark.parametrize(
    ("title", "together"),
    [
        ("Spider-Man", "spiderman"),
        ("Spider\u2011Man", "spiderman"),
        ("Spider–Man", "spiderman"),
        ("E.T. the Extra-Terrestrial", "et"),
        ("E.T. the Extra-Terrestrial", "extraterrestrial"),
        ("L'Avventura", "lavventura"),
        ("L’Avventura", "lavventura"),
        ("Rock'n'Roll", "rocknroll"),
        ("Hawaiʻi", "hawaii"),
        ("M*A*S*H", "mash"),
        ("R&B", "rb"),
        ("10,000 BC", "10000"),
        ("3:10 to Yuma", "310"),
        ("Face/Off", "faceoff"),
        ("Col·lecció", "colleccio"),
        ("ジョン・ウィック", "ジョンウィック"),
        ("WALL·E", "walle"),
    ],
    ids=ascii,
)
def test_words_that_marks_join_are_found_as_one_as_well(title: str, together: str) -> None:
    found = entries(title, None)
    assert {together, "=" + together} <= set(found)
    assert set(words(title)) <= set(found)
    assert together in entries("x", f"About {title}.")


@pytest.mark.parametrize(
    ("title", "together"),
    [
        ("Spider - Man", "spiderman"),
        ("Spider--Man", "spiderman"),
        ("a_b", "ab"),
        ("a b", "ab"),
        ("1½", "112"),
    ],
)
def test_other_words_are_not_joined(title: str, together: str) -> None:
    assert together not in entries(title, title)


def test_what_marks_join_is_cut_like_a_word() -> None:
    found = entries(".".join("abcdefghij" * 20), None)
    assert ("abcdefghij" * 7)[:64] in found
    assert max(map(len, vocabulary(found))) == 64


def test_entries_are_the_words_those_of_the_title_once_more_and_the_title() -> None:
    assert entries("The Heat, the", "Heat in L.A.") == [
        "<t",
        "<th",
        "<the",
        "=heat",
        "=the",
        "^the heat the",
        "a",
        "heat",
        "in",
        "l",
        "la",
        "the",
    ]
    heat = ["<h", "<he", "<hea", "=heat", "^heat", "heat"]
    assert entries("Heat", None) == entries("Heat", "") == entries("HEAT!", "heat") == heat
    assert entries("É", None) == ["<e", "=e", "^e", "e"]
    assert entries("A Bé", None)[:3] == ["<a", "<a ", "<a b"]


@pytest.mark.parametrize("title", ["", "???", "\U0001f3ac", "_"])
def test_a_title_without_a_word_is_found_by_the_description_alone(title: str) -> None:
    assert entries(title, None) == []
    assert entries(title, "Heat") == ["heat"]


def test_a_whole_title_has_at_most_255_characters() -> None:
    (whole,) = (entry for entry in entries("word " * 1_000, None) if entry[0] == "^")
    assert whole == "^" + ("word " * 51)[:255]
    assert MAX_KEY == 255


def test_the_vocabulary_is_the_plain_words() -> None:
    assert vocabulary(entries("L'Avventura", "Two.")) == ["avventura", "l", "lavventura", "two"]


def test_titles_sort_by_what_they_fold_to() -> None:
    titles = [
        "zebra",
        "Ångström",
        "apple",
        "Éclair",
        "éclair 2",
        "Øre",
        "\u200eHeat",
        "½ Mile",
        "Alien³",
        "Aliens",
    ]
    assert sorted(titles, key=title_key) == [
        "½ Mile",
        "Alien³",
        "Aliens",
        "Ångström",
        "apple",
        "Éclair",
        "éclair 2",
        "\u200eHeat",
        "Øre",
        "zebra",
    ]
    assert len(title_key("\ufdfa" * 300)) == len(title_key("x" * 300)) == 255


# Searching.


def tier_of(q: str, title: str, description: str | None = None) -> int | None:
    """The tier of the words as they are in which the movie is."""
    found = entries(title, description)
    return next((tier.number for tier in Search.of(q).tiers() if matches(found, tier.pattern)), None)


@pytest.mark.parametrize(
    ("q", "title", "tier"),
    [
        ("amelie", "Amélie", 0),
        ("AMÉLIE!", "Amélie", 0),
        ("leon", "Léon", 0),
        ("leon", "Léon: The Professional", 1),
        ("léon the pro", "Léon: The Professional", 1),
        ("the god", "The Godfather", 1),
        ("the professional", "Léon: The Professional", 2),
        ("professional leon", "Léon: The Professional", 2),
        ("godf", "The Godfather", 2),
        ("spiderman", "Spider-Man", 2),
        ("spider man", "Spider-Man", 0),
        ("spider-man", "Spider-Man", 0),
        ("lavventura", "L'Avventura", 2),
        ("avventura", "L'Avventura", 2),
        ("et", "E.T.", 2),
        ("e.t.", "E.T.", 0),
        ("8 1/2", "8½", 0),
        ("8½", "8 1/2", 0),
        ("alien 3", "Alien³", 0),
        ("alien³", "Alien 3", 0),
        ("istanbul", "İSTANBUL", 0),
        ("strasse", "Die Straße", 2),
        ("σισυφος", "ΣΊΣΥΦΟΣ", 0),
        ("기생", "기생충", 1),
        ("がらす", "からす", None),
        ("father", "The Godfather", None),
        ("the heat", "Heat", None),
        ("hea", "The", None),
        ("?", "?", None),
        ("\U0001f3ac", "\U0001f3ac", None),
    ],
    ids=ascii,
)
def test_relevance_to_a_title(q: str, title: str, tier: int | None) -> None:
    assert tier_of(q, title) == tier


def test_relevance_goes_from_the_title_itself_to_the_description() -> None:
    movies = [
        ("Heat", "Cops."),
        ("Heat Wave", None),
        ("The Heat", None),
        ("Ronin", "More heat."),
        ("Jaws", "Cold."),
    ]
    assert [tier_of("heat", *movie) for movie in movies] == [0, 1, 2, 3, None]
    # What is in the title may be said with what is in the description.
    assert tier_of("cops heat", "Heat", "Cops and robbers.") == 3


def test_the_end_of_a_word_is_not_needed_and_its_beginning_is() -> None:
    assert tier_of("wor", "Hello", "A world.") == 3
    assert tier_of("orld", "Hello", "A world.") is None


def test_a_long_word_of_a_search_is_cut_like_a_word_of_a_movie() -> None:
    assert tier_of("x" * 300, "x" * 200) == 0
    assert tier_of("x" * 63, "x" * 200) == 1
    assert tier_of("word " * 30, "Word " * 60) == 1


def test_of_a_search_longer_than_a_title_every_word_has_to_match() -> None:
    title = " ".join(letter * 63 for letter in "abcd")
    assert len(title) == MAX_KEY
    assert tier_of(title, title) == 0
    assert tier_of(f"{title} zzz", title) is None
    assert tier_of(f"{title} zzz", title, "Zzz.") == 0
    assert tier_of(f"{title} zzz", f"{title} zzz") == 0
    assert tier_of(f"{title} zzz", f"{title} yyy zzz") == 0
    assert tier_of(f"{title[:-1]}e zzz", title, "Zzz.") is None


@pytest.mark.parametrize("q", ["", "  ", "?!", "%", "\U0001f3ac", "''", "\x00", "_"], ids=ascii)
def test_a_search_without_words_has_no_tiers(q: str) -> None:
    search = Search.of(q)
    assert search.words == ()
    assert search.tiers() == []
    assert search.similar_tiers({}) == []


def test_a_pattern_is_one_of_the_terms_of_each_member() -> None:
    found = ["=ab", "ab", "cd"]
    ab, cd, e = Term("ab", prefix=False), Term("cd", prefix=False), Term("e", prefix=True)
    assert matches(found, ((ab,), (cd,)))
    assert matches(found, ((e, ab),))
    assert matches(found, ((Term("c", prefix=True),),))
    assert not matches(found, ((Term("c", prefix=False),),))
    assert not matches(found, ((ab,), (e,)))
    assert not matches(found, ((Term("b", prefix=True),),))
    assert not matches([], ((ab,),))
    assert not matches(found, ((),))


# Words that others may have meant.


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("cat", ["  c", " ca", "cat", "at "]),
        ("a", ["  a", " a "]),
        ("aaaa", ["  a", " aa", "aaa", "aa "]),
        ("七人", ["  七", " 七人", "七人 "]),
    ],
)
def test_trigrams_are_those_of_the_manual(word: str, found: list[str]) -> None:
    assert trigrams(word) == found


@pytest.mark.parametrize(
    ("word", "meant", "closeness"),
    [
        ("heat", "heat", 10),
        ("shawshenk", "shawshank", 5),
        ("terminater", "terminator", 6),
        ("godfather", "godfathers", 7),
        ("godfahter", "godfather", 4),  # six of fourteen
        ("haet", "heat", 3),  # by exchange alone
    ],
)
def test_how_close_a_word_is(word: str, meant: str, closeness: int) -> None:
    assert similar(word, [meant, "zzz"])[meant] == closeness


@pytest.mark.parametrize(
    ("word", "other"), [("heat", "jaws"), ("leon", "neon"), ("a", "b"), ("侍", "七人の侍")]
)
def test_words_with_too_little_in_common_are_not_similar(word: str, other: str) -> None:
    assert other not in similar(word, [other])


def test_what_exchanged_neighbours_spell_is_meant_as_well() -> None:
    assert exchanges("jwas") == ["wjas", "jaws", "jwsa"]
    assert exchanges("aab") == ["aba"]
    assert exchanges("aa") == exchanges("a") == []
    assert similar("jwas", ["jaws", "laws", "wasj"]) == {"jaws": LEAST_CLOSENESS}
    assert similar("jwas", []) == {}
    # It is as close as its trigrams say where those say more.
    assert similar("godfahter", ["godfather"]) == {"godfather": 4}


def test_the_closest_words_are_meant_and_then_those_first_in_code_points() -> None:
    known = [f"heater{number:03}" for number in range(300)]
    found = similar("heater", [*reversed(known), "heater", "heaters"])
    assert len(found) == MAX_SIMILAR < len(known)
    assert list(found) == ["heater", "heaters", *known[: MAX_SIMILAR - 2]]
    assert found == similar("heater", ["heaters", *known, "heater"])


def test_the_order_in_which_words_are_known_does_not_matter() -> None:
    known = ["shawshank", "shaw", "shawl", "hawk", "shank"]
    assert similar("shawshenk", known) == similar("shawshenk", known[::-1])


def similar_tier_of(q: str, title: str, description: str | None = None, *, also: str = "") -> int | None:
    """The tier of similar words in which the movie is, in a catalogue with these other words."""
    found = entries(title, description)
    known = {*vocabulary(found), *also.split()}
    search = Search.of(q)
    tiers = search.similar_tiers({word: similar(word, known) for word in search.words})
    return next((tier.number for tier in tiers if matches(found, tier.pattern)), None)


#: The numbers of the tiers whose words have to be this close, in titles and anywhere.
IN_TITLE = {closeness: 14 - closeness for closeness in range(3, 11)}
ANYWHERE = {closeness: 22 - closeness for closeness in range(3, 11)}


@pytest.mark.parametrize(
    ("q", "title", "description", "tier"),
    [
        ("godfahter", "The Godfather", None, IN_TITLE[4]),
        ("shawshenk", "The Shawshank Redemption", None, IN_TITLE[5]),
        ("teh godfahter", "The Godfather", None, IN_TITLE[3]),
        ("the godfahter", "The Godfather", None, IN_TITLE[4]),
        ("haet", "Heat", None, IN_TITLE[3]),
        ("amleie", "Amélie", None, IN_TITLE[3]),
        ("shawshenk", "Prison", "Shawshank.", ANYWHERE[5]),
        ("shawshenk prison", "Prison", "Shawshank.", ANYWHERE[5]),
        ("shawshenk red", "Shawshank", "Redemption.", ANYWHERE[5]),
        ("spidreman", "Spider-Man", None, IN_TITLE[4]),
        ("shawshenk jaws", "The Shawshank Redemption", None, None),
        ("xyzzy", "The Godfather", "Heat.", None),
        ("", "", None, None),
    ],
)
def test_relevance_of_mistyped_words(q: str, title: str, description: str | None, tier: int | None) -> None:
    assert tier_of(q, title, description) is None
    assert similar_tier_of(q, title, description) == tier
    # Whatever else is in the catalogue, the number is the same: a cursor may hold it.
    assert similar_tier_of(q, title, description, also="shawshenks godfahte shaw god heather hea x") == tier


def test_tiers_are_numbered_alike_whatever_is_known() -> None:
    search = Search.of("godfahter shawshenk")
    some = search.similar_tiers({"godfahter": {"godfather": 4}, "shawshenk": {"shawshank": 5}})
    assert [tier.number for tier in some] == [4, 9, 10, 12, 17, 18]
    none = search.similar_tiers({"godfahter": {}, "shawshenk": {}})
    assert [tier.number for tier in none] == [4, 12]
    every = search.similar_tiers({word: {f"w{near}": near for near in range(3, 11)} for word in search.words})
    assert [tier.number for tier in every] == list(range(4, 20))
    assert [tier.number for tier in search.tiers()] == [0, 1, 2, 3]


def test_a_tier_of_similar_words_holds_the_closest_and_those_of_the_tiers_before_it() -> None:
    tiers = Search.of("heta").similar_tiers({"heta": {"heat": 3, "het": 5}})
    word, het, heat = Term("=heta", prefix=True), Term("=het", prefix=False), Term("=heat", prefix=False)
    assert [tier for tier in tiers if tier.number < 12] == [
        Tier(4, ((word,),)),
        Tier(IN_TITLE[5], ((word, het),)),
        Tier(IN_TITLE[3], ((word, heat, het),)),
    ]
