import pandas as pd
import pytest

from experiments.stats.compare import compare, verdicts
from experiments.stats.findings import page_comparisons
from experiments.stats.pairs import UnpairedError
from icl.errors import ConfigError

AXES = ("task", "shots", "retriever", "decoding")


@pytest.fixture
def grid(arm):
    """Two tasks; 0 shots shared by the retrievers; greedy and vcd."""

    def make(setting, scores, vote=None):
        return arm(scores, **dict(zip(AXES, setting, strict=True)), vote=vote)

    parts = [
        make(("a", 0, None, "greedy"), [0, 0, 0, 1, 0, 0]),
        make(("a", 4, "random", "greedy"), [1, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0]),
        make(("a", 4, "knn", "greedy"), [1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0]),
        make(("a", 4, "random", "vcd"), [1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]),
        make(("a", 4, "knn", "vcd"), [1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]),
        make(("b", 0, None, "greedy"), [1, 1, 0, 1, 0, 1]),
        make(("b", 4, "random", "greedy"), [1, 1, 0, 1, 0, 1], [0, 0, 0, 0, 0, 0]),
        make(("b", 4, "random", "vcd"), [1, 1, 0, 1, 0, 1], [0, 0, 0, 0, 0, 0]),
    ]
    return pd.concat(parts, ignore_index=True)


def rows_of(table):
    return {tuple(row[axis] for axis in AXES): row for row in table.to_dict("records")}


def test_each_arm_is_compared_with_the_arm_that_differs_in_the_named_axis_alone(grid):
    table = rows_of(compare(grid, {"decoding": "greedy"}, axes=AXES))
    assert set(table) == {("a", 4, "random", "vcd"), ("a", 4, "knn", "vcd"), ("b", 4, "random", "vcd")}
    worse = table["a", 4, "random", "vcd"]
    assert (worse["difference"], worse["reference_mean"], worse["mean"]) == pytest.approx((-1 / 6, 2 / 6, 1 / 6))
    assert (worse["right_to_wrong"], worse["wrong_to_right"], worse["reference"]) == (1, 0, "greedy")


def test_all_retrievers_share_the_arm_at_zero_shots(grid):
    table = rows_of(compare(grid, {"shots": 0}, axes=AXES))
    assert set(table) == {("a", 4, "random", "greedy"), ("a", 4, "knn", "greedy"), ("b", 4, "random", "greedy")}
    knn = table["a", 4, "knn", "greedy"]
    assert (knn["wrong_to_right"], knn["right_to_wrong"]) == (4, 0)
    assert knn["p"] == pytest.approx(2 / 16)


def test_the_arm_at_zero_shots_has_no_retriever_to_compare(grid):
    assert set(compare(grid, {"retriever": "random"}, axes=AXES)["shots"]) == {4}


def test_every_arm_is_compared_with_the_vote_of_its_demonstrations(grid):
    table = rows_of(compare(grid, {"baseline": "vote"}, axes=AXES))
    assert ("a", 0, "none", "greedy") not in table
    assert table["a", 4, "knn", "greedy"]["difference"] == pytest.approx(2 / 6)
    assert table["a", 4, "knn", "greedy"]["reference"] == "vote"


def test_holm_is_over_the_whole_table_or_within_an_axis(grid):
    whole, within = compare(grid, {"shots": 0}, axes=AXES), compare(grid, {"shots": 0}, by=["task"], axes=AXES)
    assert (set(whole["family"]), list(within["family"])) == ({3}, [2, 2, 1])
    knn = ("a", 4, "knn", "greedy")
    assert rows_of(whole)[knn]["p_corrected"] == pytest.approx(3 / 8)
    assert rows_of(within)[knn]["p_corrected"] == pytest.approx(2 / 8)
    assert rows_of(compare(grid, {"shots": 0}, correct="none", axes=AXES))[knn]["p_corrected"] == pytest.approx(1 / 8)


def test_an_order_that_cannot_matter_at_zero_shots_does_not_hide_the_reference(arm):
    frame = pd.concat(
        [
            arm([0, 0], shots=0, retriever=None, order=None),
            arm([1, 0], shots=2, retriever="knn", order="reversed"),
            arm([1, 1], shots=2, retriever="knn", order="random"),
        ]
    )
    assert len(compare(frame, {"shots": 0}, axes=("shots", "retriever", "order"))) == 2


def test_a_retriever_named_none_is_an_arm(arm):
    frame = pd.concat(
        [
            arm([0, 0], shots=2, retriever="none"),
            arm([1, 0], shots=2, retriever="knn"),
        ]
    )
    assert list(compare(frame, {"retriever": "none"}, axes=("shots", "retriever"))["difference"]) == [0.5]


def test_an_arm_without_demonstrations_at_two_shots_is_no_reference_of_other_retrievers(arm):
    frame = pd.concat([
        arm([0, 0], shots=2, retriever="none", decoding="greedy"),
        arm([1, 1], shots=2, retriever="none", decoding="vcd"),
        arm([1, 0], shots=2, retriever="knn", decoding="vcd"),
    ])  # fmt: skip
    table = compare(frame, {"decoding": "greedy"}, axes=("shots", "retriever", "decoding"))
    assert list(table["retriever"]) == ["none"]


def test_values_may_be_text(grid):
    assert len(compare(grid, {"shots": "0"}, axes=AXES)) == 3


@pytest.mark.parametrize(
    ("to", "more", "words"),
    [
        ({"decodng": "greedy"}, {}, "no axis 'decodng'. Did you mean 'decoding'"),
        ({"decoding": "greedi"}, {}, "no arm has decoding 'greedi'. Did you mean 'greedy'"),
        ({"decoding": "greedy"}, {"metric": "leniant"}, "no score 'leniant'. Did you mean 'lenient'"),
        ({"decoding": "greedy"}, {"by": ["taks"]}, "no axis 'taks'. Did you mean 'task'"),
        ({"decoding": "greedy"}, {"correct": "bonferroni"}, "holm or none, not 'bonferroni'"),
        ({"baseline": "voet"}, {}, "no such baseline"),
        ({"task": "a"}, {}, "no arm has a reference"),
    ],
)
def test_an_unknown_axis_value_or_metric_is_an_error(grid, to, more, words):
    with pytest.raises(ConfigError, match=words):
        compare(grid[grid["task"] == "a"] if "task" in to else grid, to, axes=AXES, **more)


def test_an_unfinished_arm_is_refused(grid):
    cut = grid.drop(grid[(grid["decoding"] == "vcd") & (grid["query"] == "q3")].index)
    with pytest.raises(UnpairedError, match="not paired"):
        compare(cut, {"decoding": "greedy"}, axes=AXES)


def test_a_row_is_better_only_if_the_corrected_p_is_significant():
    table = pd.DataFrame({"p_corrected": [0.05, 0.051, 0.001, 1.0], "difference": [0.1, 0.1, -0.1, 0.0]})
    assert verdicts(table) == ["better", "open", "worse", "open"]


def test_a_fall_is_better_if_lower_is_better_and_differs_without_a_direction(arm):
    frame = pd.concat(
        [arm([1] * 20, decoding="greedy"), arm([0] * 20, decoding="down"), arm([1, *[0] * 19], decoding="near")],
        ignore_index=True,
    )
    tables = {}
    for better in ("higher", "lower", "neither"):
        frame.attrs["better"] = {"lenient": better}
        tables[better] = verdicts(compare(frame, {"decoding": "greedy"}, axes=("decoding",)))
    assert tables == {"higher": ["worse"] * 2, "lower": ["better"] * 2, "neither": ["differs"] * 2}


def test_a_fall_is_wrong_to_right_if_lower_is_better(arm):
    frame = pd.concat([arm([1, 1, 0, 0], decoding="greedy"), arm([0, 0, 1, 0], decoding="vcd")], ignore_index=True)
    lost_won = []
    for better in ("higher", "lower"):
        frame.attrs["better"] = {"lenient": better}
        (row,) = compare(frame, {"decoding": "greedy"}, axes=("decoding",)).to_dict("records")
        lost_won.append((row["right_to_wrong"], row["wrong_to_right"]))
    assert lost_won == [(2, 1), (1, 2)]


def test_the_retriever_of_arms_without_demonstrations_is_no_comparison(arm):
    """At 0 shots the retriever is 'none', which is neither a reference nor compared with one."""
    cells = [(0, None, [1, 0, 1]), (2, "random", [1, 1, 0]), (2, "knn", [1, 1, 1])]
    frame = pd.concat(
        [arm(scores, shots=shots, retriever=name, decoding="greedy") for shots, name, scores in cells],
        ignore_index=True,
    )
    table = compare(frame, {"retriever": "random"})
    assert table[["shots", "retriever"]].to_numpy().tolist() == [[2, "knn"]]
    assert [t.arm for t in page_comparisons(frame)["Retrieval"]] == ["knn"]
    with pytest.raises(ConfigError, match="no arm has a reference with retriever=none"):
        compare(frame, {"retriever": "none"})


def test_the_interval_of_every_row_agrees_with_its_corrected_p(arm):
    frame = pd.concat(
        [arm([int(i < 30 + more) for i in range(60)], **dict(zip(AXES, ("t", more, None, "greedy"), strict=True)))
         for more in range(14)],
        ignore_index=True,
    )  # fmt: skip
    holm, alone = (compare(frame, {"shots": 0}, axes=AXES, correct=how) for how in ("holm", "none"))
    for table in (holm, alone):
        excludes = (table["low"] > 0) | (table["high"] < 0)
        assert list(excludes) == list(table["p_corrected"] <= 0.05)
    assert {True, False} == set(holm["p_corrected"] <= 0.05)
    between = (alone["p"] <= 0.05) & (holm["p_corrected"] > 0.05)
    assert between.any()
    assert ((holm["low"] < 0) & (alone["low"] > 0))[between].all()
