from itertools import product

import numpy as np
import pandas as pd
import pytest

from experiments.results.column_effects import arm_interactions, bounded_interaction, interaction_test
from experiments.stats.arms import MISSING_VALUE, tidy_frame
from experiments.stats.intervals import estimate_mean
from experiments.stats.summary import estimate_macro_average, macro_average


def differences(rng, sizes, effects, clusters_of=2):
    parts = np.repeat(np.arange(len(sizes)), sizes)
    clusters = np.arange(len(parts)) // clusters_of
    common = rng.normal(size=clusters.max() + 1)[clusters]
    return common / 2 + rng.normal(size=len(parts)) + np.asarray(effects)[parts], parts, clusters


def test_the_contrast_is_a_difference_of_mean_differences():
    d, parts, clusters = differences(np.random.default_rng(0), (30, 50, 20), (0, 1, 0))
    test = interaction_test(d, parts, clusters)
    for v, part in enumerate(test.parts):
        assert part.difference == pytest.approx(d[parts == v].mean())
        assert part.contrast == pytest.approx(d[parts == v].mean() - d[parts != v].mean())
        assert part.low < part.contrast < part.high
        assert (part.pairs, part.clusters) == ((30, 50, 20)[v], (15, 25, 10)[v])
    assert test.p == min(part.p for part in test.parts) <= 0.01


def test_two_parts_have_one_contrast_up_to_its_sign():
    d, parts, clusters = differences(np.random.default_rng(1), (40, 24), (0, 0.4))
    first, second = interaction_test(d, parts, clusters).parts
    assert first.contrast == pytest.approx(-second.contrast)
    assert (first.low, first.high) == pytest.approx((-second.high, -second.low))
    assert first.p == second.p


def test_the_interval_of_two_parts_leaves_out_zero_exactly_if_p_is_at_most_5_percent():
    rng = np.random.default_rng(2)
    decisions = []
    for effect in (0.0, 0.3, 0.5, 0.7):
        for _ in range(8):
            test = interaction_test(*differences(rng, (6, 6), (0, effect), clusters_of=1))
            decisions.append((test.p <= 0.05, not test.parts[0].low <= 0 <= test.parts[0].high))
    assert all(significant == excluded for significant, excluded in decisions)


@pytest.mark.parametrize("crossed", [False, True], ids=["clusters in parts", "clusters across parts"])
def test_the_interaction_test_holds_its_level(crossed):
    """400 runs with one effect in three parts: the share of rejections is below .05 plus 2.5 standard errors.

    Ten clusters, so that all flips are enumerated.
    """
    rng, rejected, runs = np.random.default_rng(3), 0, 400
    parts = np.repeat(np.arange(3), 20)
    clusters = np.tile(np.arange(20) // 2, 3) if crossed else np.arange(60) // 6
    for _ in range(runs):
        common = rng.normal(size=10)[clusters]
        d = 0.3 + common / 2 + rng.normal(size=60)
        rejected += interaction_test(d, parts, clusters).p <= 0.05
    assert 0.01 < rejected / runs < 0.05 + 2.5 * (0.05 * 0.95 / runs) ** 0.5


def test_an_effect_of_clusters_is_not_taken_for_an_interaction():
    """Two images that differ: each part has questions about both of them, so the images cancel."""
    d = np.tile([1.0, -1.0], 12)
    clusters = np.tile([0, 1], 12)
    parts = np.repeat([0, 1], 12)
    assert interaction_test(d, parts, clusters).p == 1


def test_equal_differences_have_no_interaction():
    test = interaction_test(np.full(20, 0.5), np.repeat([0, 1], 10), np.arange(20))
    assert test.p == 1
    assert all(part.contrast == pytest.approx(0) for part in test.parts)


def test_the_test_of_overlapping_parts_is_the_one_of_all_sign_flips_of_the_indicator_contrasts():
    """Independent computation: every flip of 8 clusters, pair by pair, for three parts that share pairs."""
    rng = np.random.default_rng(7)
    d, clusters = rng.normal(size=24), np.arange(24) // 3
    inside = rng.random((3, 24)) < 0.5
    inside[0, :3] = True, True, False
    test = interaction_test(d, inside, clusters)

    def contrasts(values):
        return np.array([values[own].mean() - values[~own].mean() for own in inside])

    centered = d - d.mean()
    weights = np.stack([np.where(own, 1 / own.sum(), -1 / (~own).sum()) for own in inside], axis=1)
    by_cluster = np.stack([(centered[clusters == c, None] * weights[clusters == c]).sum(axis=0) for c in range(8)])
    scale = np.sqrt((by_cluster**2).sum(axis=0))
    observed = np.abs(contrasts(d)) / scale
    signs = np.array(list(product([-1, 1], repeat=8)))
    largest = (np.abs(signs @ by_cluster) / scale).max(axis=1)
    for v, part in enumerate(test.parts):
        assert part.contrast == pytest.approx(contrasts(d)[v])
        assert part.p == pytest.approx(np.mean(largest >= observed[v] - 1e-9))
        assert part.pairs == inside[v].sum()
    assert test.pairs == 24


def test_a_value_of_every_pair_has_no_contrast():
    frame = frame_of({"random": 0.0, "popular": 0.0, "adversarial": -0.9})
    every = frame.assign(category="question")
    doubled = pd.concat([frame, every], ignore_index=True)
    doubled.attrs = frame.attrs
    plain, both = (arm_interactions(own, "category", {"decoding": "greedy"}, "lenient", axes=["decoding"])[0]
                   for own in (frame, doubled))  # fmt: skip
    assert both.values == plain.values
    assert [part.p for part in both.interaction.parts] == [part.p for part in plain.interaction.parts]


def frame_of(effects):
    rows = []
    rng = np.random.default_rng(4)
    for i in range(90):
        category = ("random", "popular", "adversarial")[i % 3]
        base = float(rng.random() < 0.5)
        for decoding in ("greedy", "vcd", "dola"):
            change = effects[category] if decoding == "vcd" else 0
            flips = rng.random() < abs(change)
            score = float(change > 0) if flips else base
            rows.append({"query": f"q{i}", "seed": 0, "group": f"image {i // 3}", "decoding": decoding,
                         "category": category, "lenient": score})  # fmt: skip
    return tidy_frame(pd.DataFrame(rows), ["decoding"])


def test_each_arm_is_tested_against_its_reference_and_no_value_has_no_part():
    frame = frame_of({"random": 0.0, "popular": 0.0, "adversarial": -0.9})
    vcd, dola = arm_interactions(frame, "category", {"decoding": "greedy"}, "lenient", axes=["decoding"])
    assert (vcd.arm, dola.arm, vcd.reference) == ({"decoding": "vcd"}, {"decoding": "dola"}, {"decoding": "greedy"})
    assert vcd.interaction.p < 0.01
    assert dola.interaction.p == 1
    worst = min(zip(vcd.values, vcd.interaction.parts, strict=True), key=lambda pair: pair[1].contrast)
    assert worst[0] == "adversarial"
    without = frame.assign(category=frame["category"].where(frame["category"] != "popular", MISSING_VALUE))
    fewer, _ = arm_interactions(without, "category", {"decoding": "greedy"}, "lenient", axes=["decoding"])
    assert fewer.values == ("random", "adversarial")


def test_the_macro_average_is_the_mean_of_the_parts():
    rng = np.random.default_rng(5)
    values, parts, clusters = rng.random(60), np.repeat([0, 1, 2], [10, 20, 30]), np.arange(60) // 2
    average = macro_average(values, parts, clusters, is_share=True)
    assert average.mean == pytest.approx(np.mean([values[parts == v].mean() for v in range(3)]))
    assert 0 < average.low < average.mean < average.high < 1


def test_over_parts_of_equal_sizes_the_macro_average_is_the_mean_and_its_interval_not_wider():
    values = np.random.default_rng(6).random(60)
    parts, clusters = np.repeat([0, 1, 2], 20), np.arange(60)
    macro, mean = macro_average(values, parts, clusters, is_share=True), estimate_mean(values)
    assert macro.mean == pytest.approx(mean.mean)
    assert (macro.low, macro.high) == pytest.approx((mean.low, mean.high), abs=0.02)


def test_the_interval_of_a_macro_average_stays_in_the_range_of_shares_only_for_shares():
    frame = frame_of({"random": 0.0, "popular": 0.0, "adversarial": 0.0})
    few = frame[(frame["decoding"] == "greedy") & (frame["query"].isin([f"q{i}" for i in range(6)]))]
    shares = few.assign(lenient=[1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    share = estimate_macro_average(shares, "lenient", "category", "unit")
    number = estimate_macro_average(shares.assign(lenient=2 * shares["lenient"]), "lenient", "category", "unit")
    assert share is not None
    assert number is not None
    assert number.mean == pytest.approx(2 * share.mean)
    assert share.high <= 1
    assert number.high > 2


def test_one_value_has_no_macro_average():
    frame = frame_of({"random": 0, "popular": 0, "adversarial": 0})
    only = frame[frame["category"] == "random"]
    assert estimate_macro_average(only, "lenient", "category", "unit") is None


def test_the_interval_of_a_contrast_agrees_with_its_p_and_with_a_p_of_a_larger_family():
    decisions = set()
    for seed in range(30):
        rng = np.random.default_rng(seed)
        test = interaction_test(*differences(rng, (30, 30, 30), (0, 0, 0.12 * (seed % 5)), clusters_of=1))
        for part in test.parts:
            assert (part.low > 0 or part.high < 0) == (part.p <= 0.05)
            corrected = min(1.0, 4 * part.p)
            low, high = part.interval(corrected, 12)
            assert (low > 0 or high < 0) == (corrected <= 0.05)
            decisions.add((part.p <= 0.05, corrected <= 0.05))
    assert decisions == {(True, True), (True, False), (False, False)}


def test_unread_outputs_of_one_part_make_no_interaction_of_arms_with_equal_truth():
    truth = (np.random.default_rng(1).random(400) < 0.7).astype(float)
    rows = [
        {"query": f"q{i}", "seed": 0, "decoding": name, "part": "x" if i < 40 else "y",
         "lenient": 0.0 if prose else truth[i],
         "unread:lenient": f"text {i}" if prose else ""}
        for name in ("greedy", "vcd") for i in range(400) for prose in [name == "vcd" and i < 14]
    ]  # fmt: skip
    frame = tidy_frame(pd.DataFrame(rows), ["decoding"])
    own = ("part", {"decoding": "greedy"}, "lenient")
    (by_rule,) = arm_interactions(frame.drop(columns="unread:lenient"), *own, axes=["decoding"])
    (one,) = arm_interactions(frame, *own, axes=["decoding"])
    assert by_rule.interaction.p < 0.001
    assert one.interaction.p == 1
    assert all(np.isnan(part.contrast) and part.low < 0 < part.high for part in one.interaction.parts)


def test_an_interaction_over_all_readings_is_no_stronger_than_that_of_any_of_them():
    rng = np.random.default_rng(3)
    parts, clusters = np.repeat([0, 1, 2], 40), np.arange(120)
    values = np.where(parts == 2, rng.random(120) < 0.7, rng.choice([-1.0, 0.0, 1.0], 120, p=[0.1, 0.8, 0.1]))
    same = bounded_interaction(np.stack([values, values]), parts, clusters)
    plain = interaction_test(values, parts, clusters)
    assert [vars(part) | {"test": None} for part in same.parts] == [vars(part) | {"test": None} for part in plain.parts]
    unread = rng.random(120) < 0.05
    both = bounded_interaction(np.stack([np.where(unread, end, values) for end in (-1.0, 1.0)]), parts, clusters)
    assert both.parts[2].p <= 0.05
    assert 0 < both.parts[2].contrast < plain.parts[2].contrast
    for part in both.parts:
        assert (part.low > 0 or part.high < 0) == (part.p <= 0.05)
    for filling in rng.choice([-1.0, 1.0], (5, 120)):
        assert interaction_test(np.where(unread, filling, values), parts, clusters).parts[2].p <= both.parts[2].p
