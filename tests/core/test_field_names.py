"""Keys of objects are judged: names of fields, or data."""

import random
import string

import pytest

from asyncfc_mcp.core.field_names import LONGEST_NAME, Key, are_numbered, is_identifier, judge, most_tokens, words_of
from asyncfc_mcp.core.field_words import DATA_WORDS, FIELD_WORDS, NUMBERED_WORDS
from tests.support.tokens import count_tokens


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (
            "id total flights price booking_id bookingId created_at HTTPStatus sha256 line1 _id x URL categories",
            Key.FIELD,
        ),
        ("content-type @id $schema user-agent", Key.HIDDEN),
        ("zorp jdoe quux f1 deadbeef acmeCorp mkowalski", Key.UNKNOWN),
        (
            "alice Bob user_alice monday 2024-01-01 y2024_01_01 user_17 a@b.de /etc/passwd a.b 42 -1 item10 a3f9",
            Key.DATA,
        ),
        ("ghp_16C7e42F292c6912E7710c838347Ae178B4a sk-live-4eC39HqLyjWDarjtT1zdp7dc 0b5e-44", Key.DATA),
        ("größe 名前 {x} `y` <b>", Key.DATA),
    ],
)
def test_a_key_is_judged_by_its_form_and_words(keys: str, expected: Key):
    """Public words are a field, digits as in IDs, dates, paths, addresses, given names and other scripts are data."""
    assert {key: judge(key) for key in keys.split()} == dict.fromkeys(keys.split(), expected)


def test_keys_that_are_empty_or_long_are_data():
    """Whatever their words; so are those with spaces that are no words."""
    assert judge("") is judge("id_" * 20) is judge("total\n") is judge(" ") is Key.DATA
    assert judge("First Name") is Key.HIDDEN


def test_words_of_the_tools_own_entry_are_public():
    """They are in the listing anyway: in the singular or the plural, also in identifiers."""
    public = words_of("Ride a zorp with a quuxFactor. E.g. for carol")
    assert {judge(key, public) for key in ("zorp", "zorps", "quux_factors", "quux", "carol")} == {Key.FIELD}
    assert judge("blorp", public) is Key.UNKNOWN


def test_numbered_keys_are_told_from_names_that_end_in_a_digit():
    """One such name may be a field; several are a row."""
    assert are_numbered(["q1", "q2"])
    assert not are_numbered(["q1", "id"])
    assert not are_numbered(["address1", "address2", "line1", "line2"])


def test_the_words_are_what_they_should_be():
    """No word is both; all are lower-case ASCII."""
    assert not FIELD_WORDS & DATA_WORDS
    assert all(word.isascii() and word.isalnum() and word == word.lower() for word in FIELD_WORDS | NUMBERED_WORDS)
    assert {"alice", "bob", "carol", "dave", "eve", "monday", "december"} <= DATA_WORDS


def test_an_identifier_is_ascii_and_short():
    """It stands in a description, so nothing else may."""
    assert is_identifier("a" * LONGEST_NAME)
    for name in ("", "a" * (LONGEST_NAME + 1), "a b", "1a", "a\n", "ünï", "a-b", None, 7):
        assert not is_identifier(name)


def test_the_estimate_of_tokens_is_not_below_the_count():
    """Single words, compound names, and letters at random."""
    chance = random.Random(7)
    words = sorted(FIELD_WORDS)
    names = [*words, *("_".join(chance.sample(words, 3)) for _ in range(500))]
    names += ["".join(chance.choice(string.ascii_letters) for _ in range(chance.randint(1, 20))) for _ in range(500)]
    low = [name for name in names if most_tokens(name) < count_tokens(f"{{ {name}") - count_tokens("{")]
    assert len(low) < len(names) / 100, low  # the bound of a whole text has room for a few
    assert all(most_tokens(name) >= count_tokens(f"{{ {name}") - count_tokens("{") - 1 for name in names)
