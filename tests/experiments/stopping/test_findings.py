"""Sentences of runs that are looked at while they grow, on records and frames by hand."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments.config.config import load_config
from experiments.config.keys import StopSpec
from experiments.grid.grid import expand
from experiments.planning.plan import make_plan
from experiments.planning.plan_text import format_plan
from experiments.results.view_run import restrict_samples
from experiments.stats.arms import tidy_frame
from experiments.stats.formatting import format_interval, format_signed
from experiments.stats.pairs import Pairs, paired_test
from experiments.stats.sign_flips import paired_proportions_test
from experiments.stopping.findings import (
    WARNING,
    anytime_findings,
    complete_clusters,
    discordance_by_task,
    looks_frame,
    stopped_findings,
    verdict_of_standing,
)
from experiments.stopping.looks import Family, LookEntry
from experiments.stopping.plan import PlannedComparison, StopPlan, drift, forecast_walk
from experiments.stopping.rule import LookResult, Standing
from experiments.stopping.sequential import look_sizes, repeated_interval, z_boundaries

AXES = ("task", "shots")


def result(**more: Any) -> LookResult:
    values = {"clusters": 4, "time": 0.5, "p": 0.0123, "side": 1, "z": 2.0, "difference": 0.25, "low": 0.1, "high": 0.4}
    return LookResult(**{**values, "pairs": 4, **more})


def record(*standings: Standing, spec: StopSpec | None = None, size: int = 1, sums: Any = ()) -> Family:
    plan = StopPlan(
        stop=spec or StopSpec(),
        looks=4,
        metric="strict",
        metric_node={"name": "strict", "accuracy": True},
        seeds=1,
        comparisons=tuple(
            PlannedComparison("t", (f"a{i}",), ("z",), f"arm {i}", "zero") for i in range(len(standings))
        ),
        untested={},
        clusters={"t": tuple((f"c{i}", *(f"q{i}{j}" for j in range(size))) for i in range(8))},
    )
    family = Family(Path("family-1"), plan)
    family.standings, family.look = list(standings), 2
    entry = LookEntry(pairs_digest="0", end="open", chance=0.0, sums=tuple(sums), pairs=(size,) * len(sums))
    family.entries = [[entry] for _ in standings]
    return family


def findings(*standings: Standing, better: Any = "higher", **more: Any) -> list[Any]:
    return stopped_findings([record(*standings, **more)], "strict", better)


@pytest.mark.parametrize(
    ("end", "side", "better", "verdict"),
    [
        ("decided", 1, "higher", "better"),
        ("decided", -1, "higher", "worse"),
        ("decided", -1, "lower", "better"),
        ("decided", 1, "lower", "worse"),
        ("decided", 1, "neither", "differs"),
        ("equal", 1, "higher", "equal"),
        ("open", 1, "higher", "open"),
        ("running", 1, "higher", "open"),
    ],
)
def test_the_verdict_of_a_comparison_is_that_of_its_end_and_side(
    end: Any, side: int, better: Any, verdict: str
) -> None:
    assert verdict_of_standing(Standing(result(side=side), end), better) == verdict


def test_a_decided_comparison_has_its_p_and_its_interval_at_any_time() -> None:
    (one,) = findings(Standing(result(), "decided", 2))
    assert (one.claim, one.subject, one.verdict) == ("arm 0 against zero: better", "t", "better")
    assert one.numbers == "look 2 of 4 (4 of 8 queries), p ≤ .012 at any time; +.250, at any time [+.100, +.400]"
    assert one.more == "Differences of early stops are too large on average."
    first, _ = findings(Standing(result(), "decided", 2), Standing())
    assert "p ≤ .012 at any time (Holm over 2); +.250" in first.numbers
    (margin,) = findings(Standing(result(), "decided", 9), spec=StopSpec(margin=0.05), size=2)
    assert margin.numbers.startswith("look 4 of 4 (4 of 8 groups), p ≤ .012 at any time; ")


def test_a_comparison_that_is_not_decided_has_its_chance_or_no_verdict() -> None:
    running, ended, equal, unseen = findings(
        Standing(result(), "running", 2, 0.25),
        Standing(result(low=math.nan), "open", 2),
        Standing(result(), "equal", 2),
        Standing(),
        spec=StopSpec(margin=0.05),
    )
    assert (running.claim, running.verdict) == ("arm 0 against zero: open so far", "open")
    assert "chance of a verdict 25 %; +.250" in running.numbers
    assert running.more == ""
    assert ended.claim == "arm 1 against zero: open"
    assert ended.numbers.endswith("no verdict; +.250, no interval")
    assert (equal.claim, equal.verdict) == ("arm 2 against zero: equal within .050", "equal")
    assert (unseen.numbers, unseen.more) == ("", "There was no look at it yet.")
    (differs,) = findings(Standing(result(), "decided", 2), better="neither")
    assert differs.claim == "arm 0 against zero: different"


def test_a_comparison_with_all_clusters_has_the_usual_test_as_one_look() -> None:
    whole, sums = Standing(result(clusters=8, time=1.0), "open", 4), [1.0, 1, 1, 1, 1, 1, 0, 0]
    (one,) = findings(whole, sums=sums)
    test = paired_test(Pairs(np.zeros(8), np.array(sums), np.arange(8)))
    ends = format_interval(test.low, test.high)
    assert one.more == f"As one look: p = .031, {ends}."
    (failed,) = findings(whole, sums=[])
    assert failed.more == ""


def test_another_metric_than_the_planned_one_decides_nothing_and_families_are_numbered() -> None:
    families = [record(Standing(result(), "decided", 2)), record(Standing())]
    both = stopped_findings(families, "strict", "higher")
    assert [one.subject for one in both] == ["family 1 of 2, t", "family 2 of 2, t"]
    (other,) = stopped_findings(families[:1], "lenient", "higher")
    assert (other.subject, other.verdict) == ("lenient", "open")
    assert other.claim == "the comparisons were planned for strict: nothing was decided by lenient"


def test_looks_are_rows_with_numbers_or_without() -> None:
    table = looks_frame([record(Standing(result(), "decided", 2, 0.5), Standing())], {"strict": "lower"})
    first, second = table.to_dict("records")
    assert (first["family"], first["arm"], first["verdict"], first["p"], first["look"]) == (
        1,
        "arm 0",
        "worse",
        0.0123,
        2,
    )
    assert (second["verdict"], second["end"], math.isnan(second["p"])) == ("open", "running", True)
    assert list(looks_frame([], {}))[:4] == ["family", "task", "arm", "reference"]


def samples(*rows: tuple[int, str, float | None]) -> pd.DataFrame:
    """Rows of (shots, query, score), in the order of their completion. Queries of one letter are a group."""
    frame = pd.DataFrame(
        [{"task": "t", "shots": k, "query": q, "seed": 0, "group": q[0], "m": score} for k, q, score in rows]
    )
    return tidy_frame(frame, AXES)


def arms(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    return frame[frame["shots"] == 0], frame[frame["shots"] == 2]


def test_clusters_count_when_both_arms_have_all_of_their_samples_in_the_order_of_the_later_arm() -> None:
    frame = samples(
        (0, "a1", 0.0), (0, "a2", 1.0), (0, "b1", 0.0), (0, "c1", 1.0), (0, "e1", 0.0), (0, "d1", 1.0),
        (2, "c1", 0.0), (2, "b1", 1.0), (2, "e1", 0.0), (2, "a1", 1.0), (2, "g1", 1.0), (2, "a2", None),
    )  # fmt: skip
    sums, sizes = complete_clusters(frame, *arms(frame), "m")
    assert (sums.tolist(), sizes.tolist()) == ([1.0, -1.0, 0.0, 1.0], [1.0] * 4), "b, c, e, a; d and g have one arm"
    zero, two = arms(frame)
    swapped, _ = complete_clusters(frame, two, zero, "m")
    assert swapped.tolist() == (-sums).tolist(), "the order does not depend on the names of the arms"
    half = frame.drop(index=frame.index[-1])
    assert complete_clusters(half, *arms(half), "m")[0].tolist() == [1.0, -1.0, 0.0], "a is not complete"
    none, _ = complete_clusters(frame, zero, two.iloc[:0], "m")
    assert none.tolist() == []


def test_an_unfinished_run_has_differences_so_far_and_no_p() -> None:
    rng = np.random.default_rng(0)
    scores = {k: rng.integers(0, 2, 60).astype(float) for k in (0, 2)}
    frame = samples(*[(k, f"{chr(65 + i)}", scores[k][i]) for i in range(50) for k in (0, 2)])
    planned = {"t": 100}
    warning, one = anytime_findings(frame, {"shots": 0}, "m", AXES, planned=planned)
    assert (warning.claim, warning.subject) == (WARNING, "this run")
    assert (one.claim, one.subject, one.verdict) == ("2 shots against 0 shots, so far", "t", "open")
    sums = (scores[2] - scores[0])[:50]
    looks = look_sizes(100, 20)
    c = z_boundaries(tuple(n / 100 for n in looks), 0.05, StopSpec().spend)[looks.index(50)]
    low, high = repeated_interval(sums, np.ones(50), c)
    assert one.numbers.endswith("n = 50 of 100 clusters")
    ends = [f"{abs(end):.3f}"[1:] for end in (low, high)]
    assert all(end in one.numbers for end in ends)
    assert [*anytime_findings(frame, {}, "m", AXES, planned=planned)] == [warning]
    (_, few) = anytime_findings(frame[:6], {"shots": 0}, "m", AXES, planned=planned)
    assert few.numbers == "3 of 100 clusters are complete in both arms, too few for an interval"
    assert discordance_by_task(frame, {"shots": 0}, "m", AXES) == {"t": np.mean(sums != 0)}
    assert discordance_by_task(frame, {}, "m", AXES) == {}


def test_samples_are_restricted_to_the_queries_of_their_task() -> None:
    frame = samples((0, "a1", 0.0), (0, "b1", 1.0), (2, "a1", 1.0))
    frame.attrs["better"] = {"m": "lower"}
    rest = restrict_samples(frame, {"t": {"a1"}, "u": {"b1"}})
    assert (rest["query"].tolist(), rest["shots"].tolist(), list(rest.index)) == (["a1", "a1"], [0, 2], [0, 1])
    assert rest.attrs == {"better": {"m": "lower"}}
    assert restrict_samples(frame, {}).empty


TIMES = tuple(k / 20 for k in range(1, 21))


def test_the_plan_says_when_it_looks_and_what_it_expects(mapping: Callable[..., dict[str, Any]]) -> None:
    config = mapping(grid={"shots": [0, 2, 4]}, compare={"to": {"shots": 0}}, stop="when_decided")
    config["task"] = {**config["task"], "queries": 80}
    del config["shots"]
    text = "\n".join(format_plan(make_plan(expand(load_config(config)))))
    assert "2 comparisons, a look after each of 4 groups in random order, at most 5 % chance of a false verdict" in text
    assert "expected share of queries if one in five differs (assumed): no difference" in text
    assert "whenever you stop" not in "\n".join(format_plan(make_plan(expand(load_config({**config, "stop": None})))))


def test_the_forecast_is_close_to_the_exact_walk() -> None:
    """The exact figures are those of single pairs, 3,000 queries, psi .1 (docs/simulation.md)."""
    exact = {(2.8, 1): (0.68, 0.76), (5.0, 8): (0.50, 0.98), (8.0, 1): (0.21, 1.0), (0.0, 8): (0.52, 0.005)}
    for (theta, family), (share, power) in exact.items():
        forecast = forecast_walk(theta, TIMES, family, StopSpec())
        assert abs(forecast.share - share) < 0.03
        assert abs(forecast.power - power) < 0.03
        assert forecast.power <= forecast.fixed_power + 0.03
    assert round(drift(0.03, 3000, 0.1), 1) == 5.2


def test_a_rule_without_futility_costs_a_null_comparison_all_queries() -> None:
    assert forecast_walk(0.0, TIMES, 1, StopSpec(futility=None)).share > 0.96


def test_with_unread_outputs_the_last_look_and_its_difference_are_ranges() -> None:
    truth = np.array([1.0, 0.0] * 4)
    family = record(Standing(result(time=1.0, difference=0.0), "open", 4), sums=-truth)
    (entry,) = family.entries[0]
    family.entries[0] = [entry.model_copy(update={"high_sums": tuple(1 - truth), "unread": 8})]
    (one,) = stopped_findings([family], "strict", "higher")
    assert "no verdict; −.500 to +.500, at any time" in one.numbers
    assert one.more.startswith("As one look: p = 1, ")
    low, high = (paired_proportions_test(sums, np.ones(8)) for sums in (-truth, 1 - truth))
    assert one.more.endswith(f"{format_interval(low.low, high.high)}.")
    assert looks_frame([family], {})["difference"].isna().all()


def test_an_unfinished_run_with_equal_truth_and_prose_in_one_arm_has_a_range_around_zero() -> None:
    truth = np.random.default_rng(0).random(50) < 0.6
    frame = samples(*[(k, f"{chr(65 + i)}", float(truth[i] and (k > 0 or i % 2))) for i in range(50) for k in (0, 2)])
    plain = [*anytime_findings(frame, {"shots": 0}, "m", AXES, planned={"t": 50})][1].numbers
    unread = (frame["shots"] == 0) & (frame["query"].map(lambda name: ord(name) - 65) % 2 == 0)
    marked = frame.assign(**{"unread:m": np.where(unread, frame["query"], "")})
    numbers = [*anytime_findings(marked, {"shots": 0}, "m", AXES, planned={"t": 50})][1].numbers
    far, near = truth[::2].sum() / 50 - 0.5, truth[::2].sum() / 50
    assert numbers.startswith(f"{format_signed(far)} to {format_signed(near)}, at any time [−")
    assert plain.startswith(f"{format_signed(near)}, at any time [+")
    assert [*anytime_findings(frame.assign(**{"unread:m": ""}), {"shots": 0}, "m", AXES, planned={"t": 50})][
        1
    ].numbers == plain
