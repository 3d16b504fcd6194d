"""Answers: removed, permuted, flipped, symbolized, renamed, wrong by a share."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest

from icl.errors import ConfigError, PlanError
from icl.registry import build
from icl.types import Context

Make = Callable[..., Context]


def _answers(of: Context) -> list[str]:
    """By rank."""
    return [demo.example.answer for demo in sorted(of.demos, key=lambda demo: demo.rank)]


def test_answers_are_removed_without_reading_them(transformed: Make) -> None:
    done = transformed({"name": "answers", "how": "removed"}, "ab")
    assert _answers(done) == ["", ""]
    assert done.provenance == ("answers: removed",)


def test_permuted_answers_differ_if_possible(transformed: Make) -> None:
    assert _answers(transformed("answers", ["yes", "no", "yes", "no"])) == ["no", "yes", "no", "yes"]
    same = transformed("answers", ["yes", "yes"])
    assert same.provenance == ("answers: permuted, 0% changed, saw labels",)


def test_random_answers_are_uniform_over_the_options(transformed: Make) -> None:
    node = {"name": "answers", "how": "random"}
    answers = [word for i in range(200) for word in _answers(transformed(node, "ab", "abc", query=f"q{i}"))]
    assert all(abs(answers.count(word) - 400 / 3) < 40 for word in "abc")


def test_flipped_labels_are_the_next_ones_and_the_gold_stays(transformed: Make) -> None:
    done = transformed("flip_labels", ["red", "blue", "red"], ["red", "green", "blue"])
    assert _answers(done) == ["green", "red", "green"]
    assert done.label_map == {"red": "green", "green": "blue", "blue": "red"}
    assert (done.relabels_gold, done.query.options) == (False, ("red", "green", "blue"))
    assert _answers(transformed("flip_labels", ["yes", "no", "yes"])) == ["no", "yes", "no"]


def test_one_label_cannot_be_flipped_and_the_mark_says_so(transformed: Make) -> None:
    done = transformed("flip_labels", ["yes", "Yes."])
    assert (_answers(done), done.label_map) == (["yes", "Yes."], {})
    assert done.provenance == ("flip_labels: fewer than two labels, nothing is flipped, saw labels",)


def test_symbols_keep_equal_answers_equal_and_rename_the_options(transformed: Make) -> None:
    done = transformed("symbols", ["red", "blue", "red"], ["blue", "red"])
    first, second, third = _answers(done)
    assert first == third != second
    assert done.query.options == (second, first)
    assert done.label_map == {"red": first, "blue": second}
    assert done.relabels_gold
    assert not {first, second} & {"red", "blue", "which", "q0"}


def test_symbols_depend_on_the_query(transformed: Make) -> None:
    assert len({_answers(transformed("symbols", ["red"], query=f"q{i}"))[0] for i in range(20)}) > 15


def test_synonyms_are_scored_too(transformed: Make) -> None:
    done = transformed({"name": "synonyms", "words": {"red": "crimson"}}, ["red", "blue"], ["red", "blue"])
    assert _answers(done) == ["crimson", "blue"]
    assert (done.query.options, done.relabels_gold) == (("crimson", "blue"), True)


@pytest.mark.parametrize(
    ("words", "says"),
    [({"red": "x", "blue": "X."}, "'x' is the name of two"), ({"red": "a", "Red": "b"}, "'red' is renamed twice")],
)
def test_synonyms_keep_answers_apart(words: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build("transform", {"name": "synonyms", "words": words})


def test_a_synonym_may_not_be_another_answer(transformed: Make) -> None:
    with pytest.raises(PlanError, match="query 'q' would have two answers called 'blue'"):
        transformed({"name": "synonyms", "words": {"red": "blue"}}, ["red"], ["red", "blue"])


@pytest.mark.parametrize(("share", "wrong"), [(0, 0), (0.1, 1), (0.25, 1), (0.5, 3), (1, 5)])
def test_exactly_a_share_is_wrong(transformed: Make, share: float, wrong: int) -> None:
    done = transformed({"name": "noisy_labels", "share": share}, "aabba", "abc")
    assert sum(a != b for a, b in zip(_answers(done), "aabba", strict=True)) == wrong
    assert done.provenance == ((f"noisy_labels: {wrong} of 5 wrong, saw labels",) if wrong else ())


def test_errors_are_nested_in_the_share(transformed: Make) -> None:
    def wrong(share: float) -> dict[int, str]:
        answers: Sequence[str] = _answers(transformed({"name": "noisy_labels", "share": share}, "abcabc"))
        return {i: word for i, word in enumerate(answers) if word != "abcabc"[i]}

    shares = [wrong(share) for share in (0.2, 0.5, 0.8, 1)]
    assert [len(wrong_places) for wrong_places in shares] == [1, 3, 5, 6]
    assert all(small.items() <= large.items() for small, large in pairwise(shares))


def test_the_mark_reports_demonstrations_without_a_wrong_answer(transformed: Make) -> None:
    done = transformed("noisy_labels", ["yes", "yes"])
    assert done.provenance == ("noisy_labels: 1 of 1 have no other answer to give, saw labels",)


def test_the_query_s_class_is_unlearned(transformed: Make) -> None:
    done = transformed("unlearn", ["cat", "dog", "cat"], ["cat", "dog", "emu"], gold="cat")
    assert _answers(done) == ["dog", "dog", "dog"]
    assert (done.label_map, done.relabels_gold) == ({"cat": "dog"}, False)
    assert done.provenance == ("unlearn: 2 relabeled, saw labels, saw the gold",)
    assert transformed("unlearn", ["dog"], ["cat", "dog"], gold="cat").label_map == {}
    assert transformed({"name": "unlearn", "classes": ["dog"]}, ["cat"], ["cat", "dog"], gold="cat").label_map == {}


def test_symbols_may_come_from_a_list_of_words(transformed: Make) -> None:
    node = {"name": "symbols", "words": ["dax", "wug", "red"]}
    done = transformed(node, ["red", "blue"])
    assert sorted(_answers(done)) == ["dax", "wug"]
    with pytest.raises(PlanError, match="needs 3 words for its answers, and 2 of the 3 given"):
        transformed(node, ["red", "blue", "green"])


def test_each_kind_of_question_flips_among_its_own_answers(transformed: Make) -> None:
    context = transformed("questions", ["yes", "no", "red", "blue"])
    kinds = [("yes", "no"), ("yes", "no"), ("red", "blue"), ("red", "blue")]
    demos = tuple(replace(d, example=replace(d.example, options=kinds[d.rank])) for d in context.demos)
    done = build("transform", "flip_labels").transform(replace(context, demos=demos))
    assert _answers(done) == ["no", "yes", "blue", "red"]
    noisy = build("transform", {"name": "noisy_labels", "share": 1}).transform(replace(context, demos=demos))
    assert _answers(noisy) == ["no", "yes", "blue", "red"]


def test_noise_after_symbols_is_in_symbols(transformed: Make) -> None:
    symbols = transformed("symbols", ["red", "blue"], ["red", "blue"])
    noisy = build("transform", {"name": "noisy_labels", "share": 1}).transform(symbols)
    assert _answers(noisy) == _answers(symbols)[::-1]
    assert noisy.relabels_gold


def test_flipped_labels_may_become_symbols_but_not_the_other_way_round(transformed: Make) -> None:
    flipped = transformed("flip_labels", ["red", "blue"], ["red", "blue"])
    both = build("transform", "symbols").transform(flipped)
    assert _answers(both) == [both.label_map["red"], both.label_map["blue"]]
    for name in ("flip_labels", "unlearn"):
        with pytest.raises(PlanError, match=f"{name} does not change the gold answer, so it must come before symbols"):
            build("transform", name).transform(both)


def test_wrong_answers_are_drawn_independently(transformed: Make) -> None:
    node = {"name": "noisy_labels", "share": 1}
    answers = [tuple(_answers(transformed(node, "aa", "abc", query=f"q{i}"))) for i in range(80)]
    assert set(answers) == {("b", "b"), ("b", "c"), ("c", "b"), ("c", "c")}
    assert all(abs(answers.count(pair) - 20) < 15 for pair in set(answers))


def test_the_mark_of_new_answers_is_the_share_that_changed(transformed: Make) -> None:
    shares = set()
    for query in map(str, range(12)):
        done = transformed({"name": "answers", "how": "random"}, ["a"], options=["a", "b"], query=query)
        (answer,) = (demo.example.answer for demo in done.demos)
        mark = f"answers: random, {'0' if answer == 'a' else '100'}% changed, saw labels"
        assert done.provenance == (mark,)
        shares.add(mark)
    assert len(shares) == 2


def test_the_mark_of_permuted_answers_is_a_share_of_all(transformed: Make) -> None:
    assert transformed("answers", "abcd").provenance == ("answers: permuted, 100% changed, saw labels",)
    assert transformed("answers", "aaab").provenance == ("answers: permuted, 50% changed, saw labels",)
