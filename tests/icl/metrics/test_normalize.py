"""Tests of the two normalizations and of numbers, on cases derived by hand from the published rules."""

import pytest

from icl.metrics.normalize import is_number, normalize_text, normalize_vqa, parse_numbers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Red. ", "red"),
        ("two\n words", "two words"),
        ("3.5", "3.5"),
        ("Wait...", "wait.."),
        ("Red .", "red"),
        ("ＲＥＤ", "red"),
        ("Straße", "strasse"),
        ("", ""),
    ],
)
def test_plain_forgives_case_blanks_and_one_full_stop(text, expected):
    assert normalize_text(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Red Car", "red car"),
        ("two", "2"),
        ("None", "0"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("yes, it is", "yes it is"),  # the comma touches a blank: deleted
        ("red/blue", "red blue"),  # the slash touches none: a blank
        ("red/blue, green/ yellow", "redblue green yellow"),  # one slash touches a blank: both go
        ("1,000", "1000"),
        ("1,000 t-shirts", "1000 tshirts"),  # a digit,digit anywhere deletes every mark
        ("3.5", "3.5"),
        ("it is 3.", "it is 3"),
        ("a.m.", "am"),
        ("yes" + 34 * ".", "yes.."),  # 32 of them go
        ("-3", "3"),  # the sign is lost
        ("an apple a day", "apple day"),
    ],
)
def test_vqa_follows_the_official_script_with_its_quirks(text, expected):
    assert normalize_vqa(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", 3),
        ("the answer is -3.", -3),
        ("minus seven", -7),
        ("−4", -4),
        ("3-2", 3),
        ("twenty-one dogs", 21),
        ("twenty one", 21),
        ("thirteen", 13),
        ("1,234.5 km", 1234.5),
        ("- 5 is a list item", 5),
        ("someone", None),
        ("none", None),
        ("", None),
    ],
)
def test_number_is_the_first_with_its_sign(text, expected):
    assert next(iter(parse_numbers(text)), None) == expected


def test_a_number_is_the_whole_answer():
    assert all(map(is_number, ["3", "-3", "three", "Minus three.", "3.5", "ninety-nine"]))
    assert not any(map(is_number, ["3 dogs", "red", "", "one way"]))


@pytest.mark.parametrize(
    ("written", "normalized"),
    [("twas", "'twas"), ("ow's'at", "'ow's'at"), ("'ows'at", "'ow's'at"), ("'ow'sat", "'ow's'at"),
     ("somebody'd", "somebodyd"), ("youve", "you've"), ("let's", "let's")],
)  # fmt: skip
def test_contractions_are_those_of_the_official_table(written, normalized):
    assert normalize_vqa(written) == normalized
