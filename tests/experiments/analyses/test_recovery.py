"""The share of the gain of demonstrations that an intervention recovers."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments.analyses.recovery import ALL_TASKS, analyze, label_without_task
from experiments.stats.arms import UNIT
from experiments.stats.findings import InterventionControls
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
