"""What is measured on simulated runs: error rates, coverage, power, and the cost of comparisons that stop early."""

from collections.abc import Iterator, Sequence
from math import nan
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from experiments.config.keys import StopSpec
from experiments.stats.arms import NO_VALUE, baseline_column
from experiments.stats.findings import findings
from experiments.stats.intervals import normal_quantile
from experiments.stats.pairs import align_pairs, paired_test
from experiments.stats.significance import exact_sign_flip_p
from experiments.stats.summary import estimate_arm
from experiments.stopping.rule import DEFAULT_LOOKS, ComparisonTest, LookDesign, Standing, between, end_comparisons
from lab.simulation.designs import (
    DESIGNS,
    DISCORDANCE,
    PAGE_DESIGNS,
    SCORE,
    Design,
    Floats,
    PageDesign,
    draw_frames,
    draw_scores,
)

if TYPE_CHECKING:
    from pandas import DataFrame

Row = dict[str, Any]

LEVEL = 0.05
METRIC = "lenient"
THETAS = (0.0, 1.0, 2.0, 2.8, 3.5, 4.2, 5.0, 6.0, 8.0, 12.0)
FAMILIES = (1, 8, 56)
"""Sizes of families whose strictest level a comparison must reach in the table of savings."""


def comparison_rows(
    designs: Sequence[str],
    clusters: Sequence[int],
    effect: float,
    discordance: float = DISCORDANCE,
    *,
    runs: int,
    seed: int = 0,
) -> Iterator[Row]:
    """Two arms, equal and with a known difference: false positives, coverage and power of the paired test."""
    for name in designs:
        for count in clusters:
            draw, design = np.random.default_rng([seed, count]), DESIGNS[name]
            null, real = (
                [_one_comparison(draw, design, count, true, discordance) for _ in range(runs)] for true in (0.0, effect)
            )
            both = np.array([*null, *real], dtype=np.float64)
            yield {
                "design": name,
                "clusters": count,
                "false positives": float(np.mean([p <= LEVEL for p, *_ in null])),
                "coverage of the difference": float(both[:, 1].mean()),
                "coverage of an arm": float(both[:, 2].mean()),
                "p and interval agree": float(both[:, 3].mean()),
                f"power at {100 * effect:g} points": float(np.mean([p <= LEVEL for p, *_ in real])),
            }


def _one_comparison(
    draw: np.random.Generator, design: Design, clusters: int, effect: float, discordance: float
) -> tuple[float, bool, bool, bool]:
    """(p, difference covered, mean of the reference covered, p and interval agree about 0)."""
    reference, arm = draw_frames(draw, design, clusters, effect, discordance)
    result = paired_test(align_pairs(reference, arm, SCORE))
    own = estimate_arm(reference, SCORE)
    excludes_zero = result.low > 0 or result.high < 0
    return (
        result.p,
        result.low <= effect <= result.high,
        own.low <= design.mean <= own.high,
        excludes_zero == (result.p <= LEVEL),
    )


def page_rows(designs: Sequence[str], clusters: Sequence[int], runs: int, seed: int = 0) -> Iterator[Row]:
    """Whole pages of null data: equal arms and an equal vote. How many pages have a false sentence?"""
    for name in designs:
        for count in clusters:
            design = PAGE_DESIGNS[name]
            draw = np.random.default_rng([seed, count, *design.stream])
            pages = [_false_topics(null_page(draw, design, count)) for _ in range(runs)]
            topics = sorted({topic for page in pages for topic in page})
            yield {
                "design": name,
                "clusters": count,
                "pages with a false sentence": float(np.mean([bool(page) for page in pages])),
                "by topic": ", ".join(f"{t} {np.mean([t in page for page in pages]):.3f}" for t in topics) or "none",
            }


def null_page(draw: np.random.Generator, design: PageDesign, clusters: int) -> "DataFrame":
    """The samples of a run whose arms are all equal: 0 shots and the others, each with a strategy and its control.

    Args:
        draw: The generator.
        design: The grid.
        clusters: The number of clusters of each task.
    """
    import pandas as pd

    places = np.arange(clusters * design.group * design.seeds)
    query, unit = places // design.seeds, places // (design.seeds * design.group)
    arms = [(0, NO_VALUE), *((shots, retriever) for shots in design.shots for retriever in design.retrievers)]
    frames = []
    for task in range(design.tasks):
        easy = draw.beta(2, 2, clusters)[unit]
        for shots, retriever in arms:
            for decoding in ("greedy", "vcd", "mask_only(vcd)"):
                scores = (draw.random(len(places)) < easy).astype(float)
                vote = (draw.random(len(places)) < easy).astype(float) if shots else np.nan
                columns: Row = {"task": f"task {task}", "query": query.astype(str), "seed": places % design.seeds}
                columns |= {"shots": shots, "retriever": retriever, "decoding": decoding, METRIC: scores}
                columns |= {"group": unit.astype(str) if design.group > 1 else None}
                frames.append(pd.DataFrame(columns | {baseline_column("vote", METRIC): vote}))
    return pd.concat(frames, ignore_index=True)


def _false_topics(frame: "DataFrame") -> set[str]:
    """The topics with a sentence that claims a difference."""
    axes = ("task", "shots", "retriever", "decoding")
    sentences = findings(frame, METRIC, axes=axes, controls={"vcd": ["mask_only(vcd)"]})
    claims = ("better", "worse", "differs")
    return {one.topic for one in sentences if one.verdict in claims or " beats " in f" {one.claim} "}


def family_rows(
    designs: Sequence[str],
    clusters: Sequence[int],
    effect: float,
    discordance: float = DISCORDANCE,
    *,
    comparisons: int,
    real: int,
    runs: int,
    spec: StopSpec,
    seed: int = 0,
) -> Iterator[Row]:
    """Families of comparisons that stop when they are decided, `real` of them with a difference."""
    for name in designs:
        for count in clusters:
            draw, effects = np.random.default_rng([seed, count]), [effect] * real + [0.0] * (comparisons - real)
            ends = []
            for _ in range(runs):
                sums = [_cluster_sums(draw, DESIGNS[name], count, one, discordance) for one in effects]
                ends.append(_one_family(DESIGNS[name], sums, spec))
            decided = np.array([[one.end == "decided" for one, _ in family] for family in ends])
            right = np.array([[_is_right(one) for one, _ in family] for family in ends])
            shares = np.array([[share for _, share in family] for family in ends])
            equal = np.array([[one.end == "equal" for one, _ in family] for family in ends])
            false = decided[:, real:].any(axis=1) | (decided[:, :real] & ~right[:, :real]).any(axis=1)
            reference = shares.max(axis=1)  # runs until its last comparison ends
            yield {
                "design": name,
                "clusters": count,
                "any false verdict": float(false.mean()),
                "real ones decided": _mean(decided[:, :real]),
                "equal ones called equal": _mean(equal[:, real:]),
                "share, real": _mean(shares[:, :real]),
                "share, equal": _mean(shares[:, real:]),
                "share of all samples": float(np.mean((shares.sum(axis=1) + reference) / (comparisons + 1))),
            }


def _mean(values: NDArray[Any]) -> float:
    """The mean, NaN of no values."""
    return float(values.mean()) if values.size else nan


def _is_right(one: Standing) -> bool:
    return one.result is not None and one.result.side > 0


def _cluster_sums(
    draw: np.random.Generator, design: Design, clusters: int, effect: float, discordance: float
) -> Floats:
    """[C] sums of arm minus reference."""
    reference, arm = draw_scores(draw, design, clusters, effect, discordance)
    return np.asarray((arm - reference).sum(axis=1), dtype=np.float64)


def _one_family(design: Design, sums: Sequence[Floats], spec: StopSpec) -> list[tuple[Standing, float]]:
    """(standing at the end, share of the clusters) of each comparison of one family."""
    clusters, family = len(sums[0]), len(sums)
    looks = LookDesign(
        planned=clusters,
        looks=spec.looks or DEFAULT_LOOKS,
        whole=design.kind != "graded",
        seeds=design.seeds,
        group=design.group,
    )
    tests = [ComparisonTest(looks, spec, family) for _ in sums]
    standings, sizes = [Standing() for _ in sums], np.full(clusters, float(design.pairs))
    for look, n in enumerate(looks.sizes, 1):
        running = [i for i, one in enumerate(standings) if one.end == "running"]
        results = {i: tests[i].look(sums[i][:n], sizes[:n]) for i in running}
        standings = end_comparisons(standings, results, look, spec, family)
    return [(one, one.result.time if one.result else 0.0) for one in standings]


def saving_rows(clusters: int, discordance: float, runs: int, spec: StopSpec, seed: int = 0) -> Iterator[Row]:
    """Share of the queries and power by theta = effect sqrt(C / psi), at the strictest level of three families.

    Single right/wrong pairs. The power of the exact McNemar test of all clusters stands in parentheses.
    """
    for theta in THETAS:
        if theta * (discordance / clusters) ** 0.5 > discordance:  # no more than the pairs that differ
            break
        row: Row = {"theta": f"{theta:g}"}
        for family in FAMILIES:
            draw, effect = np.random.default_rng([seed, family]), theta * (discordance / clusters) ** 0.5
            shares, decided, fixed = [], [], []
            for _ in range(runs):
                probabilities = [(discordance - effect) / 2, 1 - discordance, (discordance + effect) / 2]
                sums = draw.choice([-1.0, 0.0, 1.0], clusters, p=probabilities)
                one, share = one_walk((sums,), spec, family)
                shares.append(share)
                decided.append(one.end == "decided")
                fixed.append(exact_sign_flip_p(sums) <= spec.level / family)
            words = [f"{value:.3f}".removeprefix("0") for value in (np.mean(shares), np.mean(decided), np.mean(fixed))]
            row[f"level {spec.level:g}/{family}"] = f"{words[0]} / {words[1]} ({words[2]})"
        yield row


def one_walk(ends: Sequence[Floats], spec: StopSpec, family: int) -> tuple[Standing, float]:
    """(standing at the end, share of the clusters) of a comparison that is tested at the strictest level of its family.

    ends: [C] differences, or those of the two ends that unread outputs allow.
    """
    looks = LookDesign(len(ends[0]), spec.looks or DEFAULT_LOOKS)
    tests, standing, ones = [ComparisonTest(looks, spec, family) for _ in ends], Standing(), np.ones(len(ends[0]))
    for look, n in enumerate(looks.sizes, 1):
        results = [test.look(own[:n], ones[:n]) for test, own in zip(tests, ends, strict=True)]
        result = between(results[0], results[-1]) if len(ends) > 1 else results[0]
        standing = end_comparisons([standing], {0: result}, look, spec, family)[0]
        if standing.end != "running":
            break
    return standing, standing.result.time if standing.result else 0.0


def standard_error_note(runs: int) -> str:
    """The Monte Carlo error of a share near .05."""
    half = normal_quantile(0.975) * (LEVEL * (1 - LEVEL) / runs) ** 0.5
    return f"{runs:,} runs a figure: a share of .050 is known to ±{half:.3f}".replace("±0", "±")
