"""A table names the tests that its rows had, whichever they are."""

import pytest

from experiments.report.statistical_tests import LONG, SHORT, describe_tests


@pytest.mark.parametrize("words", [SHORT, LONG])
def test_each_test_and_each_mix_is_named_by_all_of_its_tests_and_no_other(words):
    names = {"mcnemar": "McNemar", "randomization": "andomization"}
    mixes = [{"mcnemar"}, {"randomization"}, {"mcnemar", "randomization"}]
    for mix in mixes:
        text = describe_tests([*mix, *mix], words)
        assert {test for test, name in names.items() if name in text} == mix


@pytest.mark.parametrize("tests", [["mcnemar", "wilcoxon"], ["wilcoxon"], []])
def test_a_test_without_words_is_an_error(tests):
    with pytest.raises(ValueError, match="no words"):
        describe_tests(tests, SHORT)
