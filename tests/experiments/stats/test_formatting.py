import math

import pytest

from experiments.stats.formatting import (
    few_units_note,
    format_count,
    format_estimate,
    format_interval,
    format_p,
    format_p_number,
    format_share,
    format_signed,
    join_words,
)


@pytest.mark.parametrize(
    ("p", "words"), [(0.0004, "< .001"), (0.0049, ".005"), (0.0496, ".050"), (0.0312, ".031"), (0.61, ".61"), (1, "1")]
)
def test_p_is_printed_without_rounding_over_the_level(p, words):
    assert format_p_number(p) == words


def test_p_values_read_as_sentences():
    assert (format_p(0.0001), format_p(0.032)) == ("p < .001", "p = .032")


def test_one_is_printed_in_the_singular():
    assert (format_count(1, "shot"), format_count(0, "shot"), format_count(1200, "sample")) == (
        "1 shot",
        "0 shots",
        "1,200 samples",
    )
    assert (format_count(1, "query", "queries"), format_count(2, "query", "queries")) == ("1 query", "2 queries")


def test_shares_and_differences():
    assert (format_share(0.8714), format_share(1.0), format_share(math.nan)) == (".871", "1.000", "–")
    assert (format_signed(0.036), format_signed(-0.12), format_signed(0.0), format_signed(-0.0001)) == (
        "+.036",
        "−.120",
        "±.000",
        "−.000",
    )
    assert format_interval(-0.01, 0.018) == "[−.010, +.018]"


def test_lists_read_as_prose():
    assert [join_words(list(words)) for words in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]


def test_an_asymmetric_interval_at_the_edge_is_printed_by_its_ends():
    assert format_estimate(0.64, 0.6, 0.68, 2) == ".64 ±.04"
    assert format_estimate(1.0, 0.963, 1.0) == "1.000 [.963, 1.000]"
    assert format_estimate(0.0, 0.0, 0.037, 2) == ".00 [.00, .04]"
    assert format_estimate(0.99, 0.93, 0.998, 2) == ".99 [.93, 1.00]"


def test_both_ends_are_printed_where_the_mean_is_not_the_center_to_the_digits_shown():
    assert format_estimate(0.208, 0.091, 0.408) == ".208 [.091, .408]"
    assert format_estimate(0.64, 0.571, 0.703) == ".640 [.571, .703]"
    assert format_estimate(0.64, 0.571, 0.703, 2) == ".64 ±.07"
    assert format_estimate(0.5, 0.4604, 0.5404) == ".500 ±.040"


def test_few_units_have_a_note_and_many_or_none_do_not():
    assert few_units_note([29, 40]).startswith("some intervals are based on only 29 independent units")
    assert few_units_note([0, 30]) == few_units_note([]) == ""


def test_one_unit_is_named_in_the_singular():
    assert few_units_note([1, 40]).startswith("some intervals are based on only 1 independent unit (a query or a group")
    assert few_units_note([30, 31]) == ""


@pytest.mark.parametrize(
    ("p", "words"), [(0.001, ".001"), (0.0994, ".099"), (0.0995, ".10"), (0.9949, ".99"), (0.995, "1"), (math.nan, "–")]
)
def test_p_has_three_digits_below_a_tenth_and_two_above(p, words):
    assert format_p_number(p) == words


def test_missing_numbers_are_dashes():
    assert (format_signed(math.nan), format_p(math.nan)) == ("–", "p = –")
