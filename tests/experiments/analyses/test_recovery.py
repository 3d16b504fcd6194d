"""The share of the gain of demonstrations that an intervention recovers."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments.analyses.recovery import ALL_TASKS, analyze, fieller_interval, label_without_task, recovery
from experiments.stats.arms import UNIT
from experiments.stats.findings import InterventionControls
from experiments.stats.intervals import t_quantile
from experiments.stats.pairs import Pairs, paired_test


def view_of(*arms: tuple[str, int, str, float]) -> Any:
    """A run with arms of (intervention, shots, retriever, share of the queries that are right)."""
    rows = [
        {"query": f"q{i}", "seed": 0, "task": "t", "intervene": intervene, "shots": shots, "retriever": retriever,
         "strict": float(i < 40 * share), "failed": None, UNIT: f"q{i}"}
        for intervene, shots, retriever, share in arms for i in range(40)
    ]  # fmt: skip
    axes = ["task", "shots", "retriever", "intervene"]
    return SimpleNamespace(frame=pd.DataFrame(rows), path="x", metric="strict", axes=axes, better="higher",
                           of_samples=True, measure="strict", sample_metrics=["strict"],
                           interventions=InterventionControls())  # fmt: skip


PLAIN = ("none", 0, "none", 0.0)
SIMILAR = (("none", 8, "similar", 1.0), ("batch", 8, "similar", 1.0))
RANDOM = (("none", 8, "random", 0.5), ("batch", 8, "random", 0.0))
VECTOR = ("vector", 0, "none", 0.25)


def test_each_retriever_has_the_rows_of_a_run_with_it_alone() -> None:
    both = analyze(view_of(PLAIN, *SIMILAR, *RANDOM, VECTOR))
    for retriever, arms in (("similar", SIMILAR), ("random", RANDOM)):
        own = both[both["retriever"] == retriever].drop(columns="retriever").reset_index(drop=True)
        alone = analyze(view_of(PLAIN, *arms, VECTOR))
        assert "retriever" not in alone
        pd.testing.assert_frame_equal(own, alone, check_like=True)
    assert both.groupby(["intervene", "retriever"])["recovery"].mean().to_dict() == pytest.approx(
        {("batch", "similar"): 1, ("batch", "random"): 0, ("vector", "similar"): 0.25, ("vector", "random"): 0.5}
    )


def test_a_table_without_controls_says_so() -> None:
    control = ("vector(control=random)", 0, "none", 0.1)
    without, with_control = view_of(PLAIN, *SIMILAR, VECTOR), view_of(PLAIN, *SIMILAR, VECTOR, control)
    with_control.interventions = InterventionControls({"vector": {control[0]: "random"}})
    assert "controls: default adds them" in analyze(without).attrs["note"]
    assert "beyond" not in analyze(without)
    table = analyze(with_control)
    assert "controls: default adds them" not in table.attrs["note"]
    beyond = table.set_index("intervene")[["beyond", "beyond_low", "beyond_high", "p"]]
    assert beyond.loc[["vector", "batch"]].isna().all(axis=None)
    test = paired_test(Pairs(*(1.0 * (np.arange(40) < n) for n in (4, 10)), np.arange(40)))
    assert beyond.loc[control[0]].tolist() == pytest.approx([test.difference, test.low, test.high, test.p], abs=1e-6)


def with_tasks(**tasks: tuple[tuple[str, int, str, float], ...]) -> Any:
    """A run of several tasks, each with its own arms. Queries of two tasks have the same names."""
    views = {name: view_of(*arms) for name, arms in tasks.items()}
    frames = [view.frame.assign(task=name) for name, view in views.items()]
    return SimpleNamespace(**{**vars(next(iter(views.values()))), "frame": pd.concat(frames, ignore_index=True)})


ALL_RIGHT, OTHER = ("none", 8, "random", 1.0), ("none", 8, "random", 0.75)


def test_own_files_of_tasks_are_pooled_and_those_of_other_tasks_are_not() -> None:
    plus = (PLAIN, ALL_RIGHT, ("v(fitted=plus-h.safetensors)", 0, "none", 0.5), ("v(fitted=x)", 0, "none", 0.1))
    minus = (
        PLAIN,
        OTHER,
        ("v(fitted=minus-h.safetensors)", 0, "none", 0.25),
        ("v(fitted=plus-h.safetensors)", 0, "none", 0),
    )
    table = analyze(with_tasks(plus=plus, minus=minus))
    own, pool = table[table["task"] != ALL_TASKS], table[table["task"] == ALL_TASKS]
    assert list(pool["intervene"]) == ["v(fitted=h)"]  # the others are missing in one task
    row = pool.iloc[0]
    assert (row["n"], row["at_0"], row["at_k"], row["steered"]) == (80, 0, 0.875, 0.375)
    assert row["recovery"] == pytest.approx(0.375 / 0.875)
    assert row["steered_low"] < 0.375 < row["steered_high"]
    assert len(own) == 4
    view = with_tasks(plus=plus, minus=minus)
    view.interventions = InterventionControls({"v(fitted=plus-h.safetensors)": {"v(fitted=x)": "random"}})
    tested = analyze(view).dropna(subset="beyond").set_index(["task", "intervene"])
    assert list(tested["beyond"]) == [pytest.approx(0.4)]
    assert list(tested.index) == [("plus", "v(fitted=x)")]
    assert ALL_TASKS not in set(analyze(view_of(PLAIN, ALL_RIGHT, VECTOR))["task"])


@pytest.mark.parametrize(
    ("label", "rest"),
    [
        ("mtv(fitted=plus-heads.safetensors, how=add)", "mtv(fitted=heads, how=add)"),
        ("mtv(num_heads=3, fitted=plus.safetensors)", "mtv(num_heads=3)"),
        ("mtv(fitted=plus.safetensors)", "mtv"),
        ("batch_icl(layer=2)", "batch_icl(layer=2)"),
        ("mtv(fitted=times-heads.safetensors)", "mtv(fitted=times-heads)"),
    ],
)
def test_the_words_of_the_task_leave_the_name_of_the_file(label: str, rest: str) -> None:
    assert label_without_task(label, "operators · plus") == rest


ZERO, FEW = np.array([0, 0, 1, 0.0] * 10), np.array([1, 1, 1, 0.0] * 10)
CLUSTERS = np.arange(40)


def test_the_recovery_of_equal_scores_is_zero_or_one() -> None:
    assert recovery(ZERO, FEW, ZERO, CLUSTERS)["recovery"] == pytest.approx(0)
    full = recovery(ZERO, FEW, FEW, CLUSTERS)
    assert full["recovery"] == pytest.approx(1)
    assert 0.85 < full["low"] < 1 < full["high"] < 1.15, "no spread is no certainty, and a recovery may exceed 1"


def test_half_of_the_gain_is_one_half_and_lies_in_its_interval() -> None:
    half = np.where(np.arange(40) % 8 < 4, ZERO, FEW)
    result = recovery(ZERO, FEW, half, CLUSTERS)
    assert result["recovery"] == pytest.approx(0.5)
    assert result["low"] < 0.5 < result["high"]


def test_the_interval_covers_the_ratio_of_the_population() -> None:
    """Gain .4 from .4 to .8, steered .6: the recovery is one half."""
    generator, covered = np.random.default_rng(0), 0
    for _ in range(200):
        number = generator.random(120)
        before, after, steered = ((number < p).astype(float) for p in (0.4, 0.8, 0.6))
        result = recovery(before, after, steered, np.arange(120))
        covered += result["low"] <= 0.5 <= result["high"]
    assert 183 <= covered <= 198


def test_there_is_no_recovery_without_a_gain() -> None:
    assert all(np.isnan(value) for value in recovery(FEW, ZERO, FEW, CLUSTERS).values())
    assert all(np.isnan(value) for value in recovery(FEW, FEW, ZERO, CLUSTERS).values())


def test_there_is_no_recovery_of_a_gain_that_is_not_significant() -> None:
    five, six = (np.array([1.0] * number + [0.0] * (40 - number)) for number in (5, 6))
    nothing = np.zeros(40)
    assert np.isnan(recovery(nothing, five, nothing, CLUSTERS)["recovery"])  # p = .0625
    assert recovery(nothing, six, six, CLUSTERS)["recovery"] == pytest.approx(1)  # p = .031
    in_pairs = np.arange(40) // 2
    assert np.isnan(recovery(nothing, six, six, in_pairs)["recovery"])  # three clusters


def test_seeds_of_a_query_do_not_narrow_the_interval() -> None:
    half = np.where(np.arange(40) % 8 < 4, ZERO, FEW)
    once = recovery(ZERO, FEW, half, CLUSTERS)
    thrice = recovery(*(np.repeat(one, 3) for one in (ZERO, FEW, half, CLUSTERS)))
    assert thrice["recovery"] == pytest.approx(once["recovery"])
    assert thrice["high"] - thrice["low"] == pytest.approx(once["high"] - once["low"], rel=0.08)


def test_the_ends_are_the_ratios_whose_test_has_the_critical_value() -> None:
    """Gains in 8 clusters of unequal sizes, and four half queries with gains of 0 and 1."""
    sizes = np.array([1, 2, 3, 4, 5, 6, 7, 12])
    clusters, draw = np.repeat(np.arange(8), sizes), np.random.default_rng(1)
    gain = (draw.random(40) < 0.8).astype(float)
    own = gain * (draw.random(40) < 0.6)
    ends = fieller_interval(own, gain, clusters)
    assert ends is not None
    for end in ends:
        rest = own - end * gain
        added = np.array([y - end * x for x in (0, 1) for y in (0, 1)])
        mean = (rest.sum() + added.sum() / 2) / 42
        sums = [rest[clusters == c].sum() - size * mean for c, size in enumerate(sizes)]
        variance = 10 / 9 * (np.square(sums).sum() + np.square(added - mean).sum() / 2) / 42**2
        assert abs(mean) == pytest.approx(t_quantile(sizes.astype(float), 0.95) * variance**0.5)


def test_the_unit_of_scores_does_not_change_a_recovery() -> None:
    half = np.where(np.arange(40) % 8 < 4, ZERO, FEW)
    in_percent = recovery(100 * ZERO, 100 * FEW, 100 * half, CLUSTERS)
    assert in_percent == pytest.approx(recovery(ZERO, FEW, half, CLUSTERS))
