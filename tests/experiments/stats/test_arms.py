"""Matching a setting with the labels of arms."""

from typing import Any

import pandas as pd
import pytest

from experiments.stats.arms import (
    axes_of,
    axis_values,
    better_of,
    describe_arm,
    drop_unscored_tasks,
    find_baseline_column,
    is_accuracy,
    iter_arms,
    label_axes,
    matches_setting,
    reference_of,
    resolve_setting,
    shared_settings,
    short_control_name,
    split_by_subject,
    tidy_frame,
    varying_axes,
)
from experiments.stats.run_level_frames import SharedAttrs
from icl.errors import ConfigError

BITS = ["tiny(quantize=none)", "tiny(quantize=nf4, double_quant=True)", "tiny(quantize=nf4, double_quant=False)"]


def match(labels: list[str], value: Any) -> Any:
    frame = pd.DataFrame({"model": labels})
    return resolve_setting(frame, {"model": value}, ("model",), "compare.to")["model"]


@pytest.mark.parametrize(
    ("labels", "value", "label"),
    [
        (BITS, "tiny(quantize=none)", BITS[0]),
        (BITS, {"quantize": "none"}, BITS[0]),
        (BITS, {"name": "hf", "path": "tiny", "quantize": "nf4", "double_quant": True}, BITS[1]),
        (["small", "large"], {"path": "models/large"}, "large"),
        (["tiny"], {"path": "tiny", "quantize": "none"}, "tiny"),
        (["tiny(name=hf)", "tiny(name=vllm)", "remote"], "hf", "tiny(name=hf)"),
        (["tiny(name=hf)", "tiny(name=vllm)", "remote"], {"name": "vllm"}, "tiny(name=vllm)"),
        (["tiny(name=hf)", "tiny(name=vllm)", "remote"], {"name": "vllm", "path": "tiny"}, "tiny(name=vllm)"),
        (["tiny(name=hf)", "tiny(name=vllm)", "remote"], {"name": "remote"}, "remote"),
        (
            ["tiny(name=hf, quantize=nf4)", "tiny(name=hf, quantize=none)"],
            {"name": "hf", "quantize": "nf4"},
            "tiny(name=hf, quantize=nf4)",
        ),
        (["knn(by=question)", "knn(by=image)"], {"name": "knn", "by": "image"}, "knn(by=image)"),
        (["knn(embedder=a)", "knn(embedder=b)"], {"name": "knn", "embedder": "b"}, "knn(embedder=b)"),
        (["knn(size=8)", "knn(size=16)"], {"name": "knn", "embedder": {"name": "pixels", "size": 8}}, "knn(size=8)"),
    ],
)
def test_a_component_is_found_by_its_label_or_by_the_parameters_that_tell_it_apart(
    labels: list[str], value: Any, label: str
) -> None:
    assert match(labels, value) == label


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"quantize": "fp4"}, "no arm has model 'quantize=fp4'"),
        ({"quantize": "nf4"}, "2 arms have model 'quantize=nf4'. Use the label of one: tiny.*True"),
        ({"dtype": "float32"}, "no arm has model 'dtype=float32'"),
        ("tiny(quantize=nun)", "Did you mean 'tiny.quantize=none.'"),
    ],
)
def test_a_setting_that_matches_no_label_or_several_is_an_error(value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        match(BITS, value)


def test_a_bare_name_matches_if_one_label_has_it() -> None:
    arms = [
        "greedy",
        "vcd(alpha=0.5), temperature=1",
        "mask_only(vcd(alpha=0.5)), temperature=1",
        "sampling, temperature=1",
    ]
    assert match(arms, "vcd") == arms[1]
    assert match(arms, "sampling") == arms[3]
    with pytest.raises(ConfigError, match=r"2 arms have model 'knn'\. Use the label of one"):
        match(["knn(by=text)", "knn(by=image)"], "knn")


@pytest.mark.parametrize(
    ("control", "arm", "name"),
    [
        ("mask_only(vcd)", "vcd", "mask_only"),
        ("mask_only(vcd(alpha=0.5)), temperature=1", "vcd(alpha=0.5), temperature=1", "mask_only"),
        ("gaussian_proxy(contrast(weights=[2, -1]))", "contrast(weights=[2, -1])", "gaussian_proxy"),
        ("self_consistency(samples=3), temperature=1", "vcd, temperature=1", "self_consistency(samples=3)"),
        ("sampling", "vcd, temperature=1", "sampling"),
    ],
)
def test_a_short_control_name_has_no_strategy(control: str, arm: str, name: str) -> None:
    assert short_control_name(control, arm) == name


def test_axis_values_start_with_none_and_keep_the_order_of_labels() -> None:
    frame = pd.DataFrame({"retriever": ["knn", "none", "random", "knn"], "shots": [4, 0, 16, 2]})
    assert axis_values(frame, "retriever") == ["none", "knn", "random"]
    assert axis_values(frame, "shots") == [0, 2, 4, 16]


def test_the_reference_that_agrees_in_all_axes_is_preferred() -> None:
    shared, own = {"shots": 0, "retriever": "none"}, {"shots": 0, "retriever": "knn"}
    arm = {"shots": 4, "retriever": "knn"}
    assert reference_of(arm, {"shots": 0}, [shared, own, arm]) == own
    assert reference_of(arm, {"shots": 0}, [shared, arm]) == shared


def test_arms_are_named_by_task_shots_and_what_varies() -> None:
    frame = pd.DataFrame({"shots": [0, 0], "order": ["a", "b"], "task": ["t", "t"], "model": ["m", "m"]})
    axes = ("model", "task", "shots", "order")
    assert (label_axes(frame, axes), varying_axes(frame, axes)) == (["task", "shots", "order"], ("order",))
    assert describe_arm({"model": "m", "shots": 1, "order": "none"}) == "m, 1 shot"
    assert describe_arm({"intervene": "none"}) == "intervene none"  # there is always something to read
    assert describe_arm({"model": "m", "shots": 2, "order": "a"}, ("order", "shots")) == "a, 2 shots"
    assert [arm for arm, _ in iter_arms(frame, ())] == [{}]
    assert [(arm, list(rows.index)) for arm, rows in iter_arms(frame, ("order",))] == [
        ({"order": "a"}, [0]),
        ({"order": "b"}, [1]),
    ]


def test_a_tidy_frame_has_plain_labels_and_units_of_a_task() -> None:
    rows = {"query": ["q", "q", "r", "s"], "task": ["t", "u", "t", "t"], "group": [None, None, "g", "g"]}
    frame = pd.DataFrame({**rows, "shots": [2.0, 2.0, None, 0.5], "retriever": ["knn", None, "knn", "x"]})
    frame.attrs["axes"] = ("shots", "retriever")
    tidy = tidy_frame(frame, ("task", "shots", "retriever"))
    assert tidy["shots"].tolist() == [2, 2, "none", 0.5]
    assert [type(value) for value in tidy["shots"]] == [int, int, str, float]
    assert tidy["retriever"].tolist() == ["knn", "none", "knn", "x"]
    assert tidy["unit"].tolist() == [0, 1, 2, 2]
    assert tidy.attrs == {}
    assert "unit" not in frame
    assert tidy_frame(tidy, ("shots",)) is tidy
    assert tidy_frame(frame.drop(columns=["task", "group"]), ())["unit"].tolist() == [0, 0, 1, 2]
    assert axes_of(frame) == ("shots", "retriever")
    assert axes_of(frame.drop(columns="retriever").assign()[["query", "shots", "task"]].copy()) == (
        "shots",
        "retriever",
    )


def test_the_good_direction_and_accuracy_of_a_metric() -> None:
    frame = pd.DataFrame({"m": [1.0]})
    frame.attrs["better"] = {"m": "lower"}
    assert (better_of(frame, "m"), better_of(frame, "n")) == ("lower", "higher")
    assert [is_accuracy(name) for name in ("lenient", "rouge_l", "no_such_metric")] == [True, False, False]


def test_a_baseline_is_found_under_its_metric_or_as_the_one_of_a_plain_frame() -> None:
    own = pd.DataFrame({"vote:strict": [1.0], "lenient": [1.0]})
    assert find_baseline_column(own, "vote", "strict") == "vote:strict"
    assert find_baseline_column(own, "vote", "lenient") is None
    assert find_baseline_column(own.assign(vote=0.0), "vote", "lenient") is None
    plain = pd.DataFrame({"vote": [1.0], "lenient": [1.0]})
    assert find_baseline_column(plain, "vote", "lenient") == "vote"
    assert find_baseline_column(plain, "prior", "lenient") is None
    plain.attrs["better"] = {"lenient": "lower"}
    assert find_baseline_column(plain, "vote", "lenient") is None


def test_an_arm_matches_a_setting_up_to_axes_without_effect_at_0_shots() -> None:
    zero = {"shots": 0, "retriever": "none", "decoding": "greedy"}
    assert matches_setting(zero, {"retriever": "knn", "decoding": "greedy"})
    assert not matches_setting(zero, {"decoding": "vcd"})
    assert not matches_setting({**zero, "shots": 2}, {"retriever": "knn"})
    assert not matches_setting({**zero, "decoding": "none"}, {"decoding": "vcd"})


def test_shared_attributes_are_not_copied() -> None:
    import copy

    attrs = SharedAttrs(a=[1])
    assert copy.deepcopy({"x": attrs})["x"] is attrs


AXES = ["task", "shots", "order", "decoding"]


def frame(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=AXES)


def test_tasks_without_one_score_are_dropped_and_the_attributes_stay():
    samples = pd.DataFrame({"task": ["a", "a", "b"], "m": [1.0, None, None]})
    samples.attrs["better"] = {"m": "lower"}
    scored = drop_unscored_tasks(samples, "m")
    assert list(scored.index) == [0, 1]
    assert scored.attrs == {"better": {"m": "lower"}}


def test_a_subject_has_the_0_shot_arm_of_its_task_and_no_0_shot_arm_is_a_subject_beside_them():
    samples = frame(
        ("a", 0, "none", "greedy"),
        ("a", 2, "random", "greedy"),
        ("a", 2, "closest", "greedy"),
        ("b", 0, "none", "greedy"),
        ("b", 2, "random", "greedy"),
    )
    subjects = {name: list(rows.index) for name, rows in split_by_subject(samples, ["task", "order"])}
    assert subjects == {"a, random": [0, 1], "a, closest": [0, 2], "b, random": [3, 4]}


def test_a_0_shot_arm_alone_is_a_subject_and_so_is_a_setting_none_with_shots():
    alone = frame(("a", 0, "none", "greedy"), ("b", 0, "none", "greedy"))
    assert {name: list(rows.index) for name, rows in split_by_subject(alone, ["task", "order"])} == {"a": [0], "b": [1]}
    none = frame(("a", 0, "none", "greedy"), ("a", 2, "none", "greedy"), ("a", 2, "random", "greedy"))
    by_order = {name: list(rows.index) for name, rows in split_by_subject(none, ["order"])}
    assert by_order == {"order none": [0, 1], "random": [0, 2]}
    assert [name for name, _ in split_by_subject(none, [])] == ["a"]
    assert [name for name, _ in split_by_subject(none.drop(columns="shots"), ["order"])] == ["order none", "random"]


@pytest.mark.parametrize(
    ("over", "rows", "words"),
    [
        (["shots"], ([1, 2], [1, 2]), " over 2 and 4 shots"),
        (["shots", "order"], ([1], [1]), ""),  # one setting is shared: nothing is pooled
        (["retriever"], ([0, 1, 2], [0, 1, 2, 3]), ""),  # the frames have no such axis: nothing is restricted
        (["order"], ([0, 1], [1, 2]), ""),  # only numbers of shots are named
    ],
)
def test_two_arms_are_restricted_to_the_settings_that_both_have(over, rows, words):
    one = frame(("a", 0, "x", "vcd"), ("a", 2, "x", "vcd"), ("a", 4, "y", "vcd"))
    other = frame(("a", 8, "z", "icd"), ("a", 2, "x", "icd"), ("a", 4, "x", "icd"), ("a", 6, "z", "icd"))
    (left, right), text = shared_settings(one, other, over)
    assert (list(left.index), list(right.index), text) == (*rows, words)


def test_arms_without_a_shared_setting_leave_no_samples():
    (left, right), text = shared_settings(frame(("a", 2, "x", "vcd")), frame(("a", 4, "x", "icd")), ["shots"])
    assert (len(left), len(right), text) == (0, 0, "")
