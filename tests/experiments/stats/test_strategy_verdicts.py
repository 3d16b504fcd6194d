"""Verdicts of a leaderboard on frames whose right answers are counted by hand."""

from typing import Any

import pandas as pd
import pytest

from experiments.stats.arms import tidy_frame
from experiments.stats.strategy_verdicts import (
    ComparedSamples,
    MethodVerdict,
    PageVerdicts,
    judge_methods,
    largest_plausible,
    signed_gain,
)

AXES = ("task", "shots", "retriever", "decoding")
CONTROLS = {"vcd": ("mask_only(vcd)", "sign_flip(vcd)")}


def part(queries: int = 400, better: Any = "higher", task: str = "shapes", **right: tuple[int, int]) -> ComparedSamples:
    """Each arm is right on the queries from the first number up to the second. '_' stands for a control of vcd."""
    rows = [
        {"task": task, "shots": 0, "retriever": "none", "decoding": name.replace("_of", "(vcd)"), "seed": 0,
         "query": f"q{i}", "lenient": float(low <= i < high)}
        for name, (low, high) in right.items()
        for i in range(queries)
    ]  # fmt: skip
    return ComparedSamples(tidy_frame(pd.DataFrame(rows), AXES), [], "lenient", better, "greedy", CONTROLS)


def verdict(page: PageVerdicts, place: int = 0) -> MethodVerdict:
    return next(iter(page.columns[place].values()))


def test_a_method_beats_its_controls_only_if_it_beats_each_of_them() -> None:
    all_beaten = part(greedy=(0, 200), vcd=(0, 300), mask_only_of=(0, 220), sign_flip_of=(0, 210))
    assert verdict(judge_methods([all_beaten])).words == "beats its controls"
    one_close = part(greedy=(0, 200), vcd=(0, 300), mask_only_of=(0, 298), sign_flip_of=(0, 210))
    judged = verdict(judge_methods([one_close], margin=0))
    assert (judged.standing, judged.words) == ("reference_only", "beats greedy; its controls are undecided")
    assert judged.strongest is not None
    assert judged.strongest.against == "mask_only(vcd)"
    assert signed_gain(judged.strongest) == pytest.approx(2 / 400)


def test_no_gain_needs_an_interval_below_the_margin_or_a_better_control() -> None:
    equal = {"greedy": (0, 200), "vcd": (0, 300), "mask_only_of": (0, 300), "sign_flip_of": (0, 210)}
    assert verdict(judge_methods([part(**equal)], margin=0.05)).words == "no gain over controls"
    few = {name: (0, high // 10) for name, (_, high) in equal.items()}
    assert verdict(judge_methods([part(40, **few)], margin=0.05)).standing == "reference_only"  # 40 queries say little
    better = part(greedy=(0, 200), vcd=(0, 250), mask_only_of=(0, 300), sign_flip_of=(0, 210))
    assert verdict(judge_methods([better], margin=0)).words == "no gain over controls"


def test_the_interval_of_no_gain_is_widened_for_all_comparisons_of_the_page() -> None:
    close = {"greedy": (0, 300), "vcd": (2, 302), "mask_only_of": (1, 301), "sign_flip_of": (3, 303)}
    alone = judge_methods([part(**close)], margin=0.02)
    assert verdict(alone).words == "no gain over controls"
    crowd = [part(task=f"t{i}", **close) for i in range(20)]
    page = judge_methods(crowd, margin=0.02)
    assert (alone.family, page.family) == (3, 60)
    assert verdict(page, 19).words == "undecided"


def test_p_is_corrected_over_all_columns_of_the_page() -> None:
    gain = {"greedy": (0, 20), "vcd": (0, 29), "mask_only_of": (0, 20), "sign_flip_of": (0, 20)}
    assert verdict(judge_methods([part(40, **gain)], margin=0)).words == "beats its controls"
    crowd = [part(40, task=f"t{i}", **gain) for i in range(8)]
    assert {verdict(judge_methods(crowd, margin=0), i).words for i in range(8)} == {"undecided"}


def test_a_lower_score_is_a_gain_if_lower_is_better() -> None:
    lower = part(better="lower", greedy=(0, 200), vcd=(0, 100), mask_only_of=(0, 190), sign_flip_of=(0, 195))
    judged = verdict(judge_methods([lower]))
    assert judged.standing == "beats"
    assert signed_gain(judged.gain) == pytest.approx(100 / 400)
    worse = part(better="lower", greedy=(0, 200), vcd=(0, 300), mask_only_of=(0, 190), sign_flip_of=(0, 195))
    assert verdict(judge_methods([worse])).words == "worse than greedy"


def test_a_method_without_controls_beats_the_reference_alone() -> None:
    judged = verdict(judge_methods([part(greedy=(0, 200), vcd=(0, 300))]))
    assert (judged.words, judged.strongest) == ("beats greedy; no control was run", None)
    assert verdict(judge_methods([part(greedy=(0, 200), vcd=(0, 200))], margin=0.05)).words == "no gain over greedy"


def test_a_few_graded_differences_say_nothing_of_rare_large_gains() -> None:
    graded = part(40, greedy=(0, 20), vcd=(0, 20), mask_only_of=(0, 20), sign_flip_of=(0, 20))
    graded.samples.loc[graded.samples["decoding"] == "mask_only(vcd)", "lenient"] += [0.5, 0.25] + [0.0] * 38
    few = judge_methods([graded], margin=0.05)
    one = next(one for one in graded.compare(1 - 0.05 / few.family) if one.against == "mask_only(vcd)")
    assert one.result is not None
    assert one.result.high <= 0  # the flips alone exclude every gain
    assert largest_plausible(one.result, 1, 1 - 0.05 / few.family) > 0.05
    assert verdict(few).words == "undecided"
