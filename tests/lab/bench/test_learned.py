"""The table of learned demonstrations, from numbers whose differences are known."""

from lab.bench.learned import Measured, summarize, with_values


def test_parameters_go_to_the_innermost_task():
    node = {"name": "corrupted", "by": "noise", "of": {"name": "mislabeled", "of": {"name": "gated", "queries": 3}}}
    assert with_values(node, queries=5, split="train") == {
        **node,
        "of": {"name": "mislabeled", "of": {"name": "gated", "queries": 5, "split": "train"}},
    }


def test_a_method_is_compared_on_its_own_queries_under_its_own_seed():
    learned = {"a": 1.0, "b": 1.0, "c": 0.0}
    first = Measured({"learned": learned, "knn": {"a": 0.0, "b": 1.0, "c": 0.0}, "oracle": {"a": 1.0}}, COSTS, 0.5)
    second = Measured({"learned": learned, "knn": learned, "oracle": {"c": 1.0}}, COSTS, 0.7)
    probe, *rows = [(what, figure) for what, figure, _ in summarize("t", [first, second])]
    assert probe[1] == "0.60"
    assert rows[0] == ("t: learned, 6 queries", "0.667; 40 calls a seed")
    assert rows[1][0] == "t: knn, 6 queries"
    assert rows[1][1].startswith("0.500; learned +0.167 [")
    assert rows[2][1].startswith("1.000; learned -0.500 [")
    assert rows[2][1].endswith("; 96 calls a seed")


COSTS = {"learned": 40, "knn": 0, "oracle": 96}


def test_without_a_fit_the_methods_are_compared_with_the_oracle():
    right = {"knn": {"a": 0.0, "b": 1.0}, "likelihood_oracle": {"a": 1.0}}
    rows = [*summarize("t", [Measured(right, {"knn": 0, "likelihood_oracle": 64}, None)] * 3)]
    assert [what for what, _, _ in rows] == ["t: knn, 3 queries", "t: likelihood_oracle, 3 queries"]
    assert rows[0][1].startswith("0.000; likelihood_oracle +1.000 [")
    assert rows[1][1] == "1.000; 64 calls a seed"
