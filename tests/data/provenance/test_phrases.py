"""Phrases are found as whole words, by one regular expression for a table."""

import pytest

from pipeline.data.provenance.phrases import Phrases
from pipeline.errors import ConfigError


@pytest.mark.parametrize(
    ("phrase", "message"),
    [
        ("/(a)/", "has a capturing group"),
        ("/a(/", "is no regular expression"),
        (f"/{'(?:' * 3000}a{')' * 3000}/", "is no regular expression: .*recursion"),
        ("/a{99999999999999999999}/", "is no regular expression: .*number is too large"),
        ("/(?i)abc/", "is no regular expression: global flags not at the start"),
        ("/a*/", "matches the empty text"),
        ("--", "has no letter and no digit"),
        ("", "has no letter and no digit"),
        ("spec*men", r"has \* inside a word"),
        ("of *", r"has \* inside a word or before one"),
    ],
)
def test_phrases_that_cannot_be_used_are_refused(phrase, message):
    with pytest.raises(ConfigError, match=rf"(?s)t\.x: .* {message}.*Write words, in which"):
        Phrases("t", {"x": ["good", phrase]})


def test_a_phrase_belongs_to_one_class():
    with pytest.raises(ConfigError, match=r"t\.y: 'a b' is also in t\.x"):
        Phrases("t", {"x": ["a b"], "y": ["a b"]})


@pytest.mark.parametrize(
    ("phrase", "text", "found"),
    [
        ("specimen*", "Specimens, a SPECIMEN", ["Specimens", "SPECIMEN"]),
        ("two words", "Two  words", []),  # white space is brought down before
        ("two words", "Two words, two wordsmiths", ["Two words"]),
        ("well-known", "unwell-known, well-known", ["well-known"]),
        ("The Lancet", "the lancet, The Lancet", ["The Lancet"]),
        ("op. cit.", "op. cit., op cit", ["op. cit."]),
        ("I claim", "i claim, I claim", ["I claim"]),
        ("/[a-c]\\d/", "a1 xa1 d4 c3", ["a1", "c3"]),
        ("WHO", "WHO, the WHO. WHO KNOWS", ["WHO", "WHO"]),
        ("élan", "Élan, élan", ["Élan", "élan"]),
    ],
)
def test_phrases_are_found_as_whole_words(phrase, text, found):
    assert [words for _, words in Phrases("t", {"x": [phrase]}).find(text)] == found


def test_an_empty_table_finds_nothing():
    assert list(Phrases("t", {}).find("any text")) == []
