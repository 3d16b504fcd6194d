"""Verdicts on strategies: each strategy against the reference and against each of its own controls.

Pairs are (query, seed, shots, retriever). Holm corrects over every comparison of every strategy on every task of the
run. Controls against the reference are a separate family: a control that beats the reference shows an effect that is
not the strategy's idea.

Verdicts of a leaderboard (`judge_methods`) say whether a method gains over greedy decoding and over every control. All
comparisons of all columns of the page are one family:

    beats its controls        better than the reference and than each control, by p after Holm over the page
    worse than greedy         worse than the reference, by the same p
    no gain over controls     a control is better by the same p, or the simultaneous interval of the gain over a control
                              lies below the margin
    no gain over greedy       the method answers as the reference by construction, or the interval of the gain over the
                              reference lies below the margin
    beats greedy only         better than the reference; neither better than all controls nor without a gain over one
    undecided                 everything else

A simultaneous interval has the level 1 - .05 / m, with m the number of tested comparisons of the page (Bonferroni). If
every gain over controls is at least the margin, a page says "no gain" of any of them in at most 5 % of cases. Intervals
of graded scores do not know of rare large differences that no pair has, so their ends are moved (`largest_plausible`).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from statistics import NormalDist
from typing import Literal

from experiments.stats.arm_comparisons import ArmComparison, Verdict, compare_arms, correct_topics
from experiments.stats.arms import axis_values, shared_settings, short_control_name, split_by_subject
from experiments.stats.formatting import join_words
from experiments.stats.pairs import PairedTestResult
from experiments.stats.significance import SIGNIFICANCE_LEVEL
from icl import Better, DataFrame

MAX_NAMED_CONTROLS = 3
"""The number of controls that a verdict names; further ones are counted."""


@dataclass(frozen=True)
class StrategyVerdict:
    """The verdict whether a strategy beats the reference and all of its controls.

    Attributes:
        verdict: The verdict.
        words: The verdict as a cell of a table.
        family: The number of comparisons that p is corrected for.
    """

    verdict: Verdict
    words: str
    family: int


def compare_strategies(
    samples: DataFrame,
    settings: Sequence[str],
    metric: str,
    better: Better,
    *,
    base: str,
    controls: Mapping[str, Sequence[str]],
    level: float = 0.95,
    only: Collection[tuple[str, str, str]] | None = None,
) -> list[ArmComparison]:
    """Compares each strategy of each subject with `base`, then with each of its controls.

    Args:
        samples: A tidy frame.
        settings: The axes that separate subjects.
        metric: The column of scores.
        better: The good direction of the metric.
        base: The label of the reference.
        controls: The labels of the controls of each strategy.
        level: The confidence level of the intervals.
        only: The comparisons to make, as (subject, strategy, against); by default all.

    Returns:
        The comparisons, with p not corrected.
    """
    every = {name for names in controls.values() for name in names}

    def against(name: str, have: Sequence[str]) -> list[str]:
        if name == base or name in every:
            return []
        return [base, *(c for c in controls.get(name, ()) if c in have and c != base)]

    return _trials(samples, settings, metric, better, against, level=level, only=only)


def compare_controls(
    samples: DataFrame,
    settings: Sequence[str],
    metric: str,
    better: Better,
    *,
    base: str,
    controls: Mapping[str, Sequence[str]],
) -> list[ArmComparison]:
    """Compares each control of each subject with `base`; p is not corrected."""
    every = {name for names in controls.values() for name in names}

    def against(name: str, have: Sequence[str]) -> list[str]:
        return [base] if name in every and name != base else []

    return _trials(samples, settings, metric, better, against)


def _trials(
    samples: DataFrame,
    settings: Sequence[str],
    metric: str,
    better: Better,
    against: Callable[[str, Sequence[str]], list[str]],
    *,
    level: float = 0.95,
    only: Collection[tuple[str, str, str]] | None = None,
) -> list[ArmComparison]:
    """The comparisons of each decoding of each subject with those that `against` names for it, in shared settings."""
    trials = []
    for subject, part in split_by_subject(samples, settings):
        have = [str(name) for name in axis_values(part, "decoding")]
        on = [axis for axis in ("shots", "retriever") if axis in part]
        pairs = [(name, other) for name in have for other in against(name, have)]
        for name, other in (pair for pair in pairs if only is None or (subject, *pair) in only):
            sides = (part[part["decoding"] == label] for label in (other, name))
            both, where = shared_settings(next(sides), next(sides), on)
            if len(both[0]) and len(both[1]):
                one = compare_arms(subject, name, other, both, metric, on=on, pooled=where, better=better, level=level)
                trials.append(one)
    return trials


def judge_strategy(tried: Sequence[ArmComparison], alone: Sequence[ArmComparison] = ()) -> StrategyVerdict:
    """The verdict on one strategy.

    Args:
        tried: Its comparisons: the first with the reference, the rest with its controls.
        alone: The comparisons of controls with the reference. The verdict names controls of the strategy that beat it.
    """
    judgment = _judge_controls(tried)
    if tried[0].better == "neither":
        return judgment
    checks = tried[1:]
    above = [t for t in checks if t.verdict == "worse"]
    raised = [t for t in alone if t.verdict == "better" and any(t.arm == c.against for c in checks)]
    words = judgment.words
    if above:
        words += f"; {_named(above)} {'is' if len(above) == 1 else 'are'} better than it"
    if raised:
        names = _named([replace(t, arm=tried[0].arm, against=t.arm) for t in raised])
        family = f" (Holm over {raised[0].family})" if raised[0].family > 1 else ""
        words += f"; {names} {'beats' if len(raised) == 1 else 'beat'} {tried[0].against}{family}"
    return replace(judgment, words=words)


def _judge_controls(tried: Sequence[ArmComparison]) -> StrategyVerdict:
    against, *checks = tried
    family = max(t.family for t in tried)
    if against.better == "neither":
        return StrategyVerdict(against.verdict, "none: the score has no good direction", family)
    unbeaten = [t for t in checks if t.verdict != "better"]
    beats = against.verdict == "better"
    reference = _stands(against)
    if not checks:
        words = f"{reference}; no control was run"
        return StrategyVerdict("open" if beats else against.verdict, words, family)
    if not unbeaten:
        of_them = "its one control" if len(checks) == 1 else f"all its {len(checks)} controls"
        words = f"yes: beats {against.against} and {of_them}" if beats else f"no: beats {of_them}, but {reference}"
        return StrategyVerdict(against.verdict, words, family)
    beaten = len(checks) - len(unbeaten)
    if len(checks) == 1:
        missed = f"does not beat {_named(unbeaten)}, its one control"
    elif beaten:
        missed = f"does not beat {_named(unbeaten)} ({beaten} of {len(checks)} beaten)"
    else:
        missed = f"beats none of its {len(checks)} controls"
    return StrategyVerdict("open" if beats else against.verdict, f"no: {reference}; {missed}", family)


def _stands(against: ArmComparison) -> str:
    if against.result is None:
        return f"not compared with {against.against}"
    if against.identical:
        return f"always scores the same as {against.against}"
    phrases = {
        "better": "beats",
        "worse": "is worse than",
        "open": "is not distinguishable from",
        "undecided": "is undecided against",
    }
    return f"{phrases[against.verdict]} {against.against}"


def _named(trials: Sequence[ArmComparison]) -> str:
    names = [short_control_name(t.against, t.arm) for t in trials]
    if len(names) <= MAX_NAMED_CONTROLS + 1:
        return join_words(names)
    return f"{', '.join(names[:MAX_NAMED_CONTROLS])} and {len(names) - MAX_NAMED_CONTROLS} more"


Standing = Literal["beats", "reference_only", "worse", "no_gain", "undecided", "refused"]
DEFAULT_MARGIN = 0.02


@dataclass(frozen=True, eq=False)
class ComparedSamples:
    """The samples of some subjects and the settings of their comparisons.

    Attributes:
        samples: A tidy frame.
        settings: The axes that separate subjects.
        metric: The column of scores.
        better: The good direction of the metric, 'higher' or 'lower'.
        base: The label of the reference.
        controls: The labels of the controls of each method.
    """

    samples: DataFrame
    settings: Sequence[str]
    metric: str
    better: Better
    base: str
    controls: Mapping[str, Sequence[str]]

    def compare(self, level: float = 0.95, only: Collection[tuple[str, str, str]] | None = None) -> list[ArmComparison]:
        """The comparisons of `compare_strategies`, p not corrected. only: (subject, arm, against) of each."""
        return compare_strategies(
            self.samples, self.settings, self.metric, self.better, base=self.base, controls=self.controls,
            level=level, only=only,
        )  # fmt: skip


@dataclass(frozen=True)
class MethodVerdict:
    """The verdict on one method in one column.

    Attributes:
        standing: The verdict.
        words: The verdict in words.
        gain: The comparison with the reference; differences are arm minus reference, whatever the good direction.
        strongest: The comparison with the control over which the gain is smallest; None without controls.
        num_controls: The number of controls.
    """

    standing: Standing
    words: str
    gain: ArmComparison
    strongest: ArmComparison | None
    num_controls: int


@dataclass(frozen=True)
class PageVerdicts:
    """All verdicts of a page.

    Attributes:
        columns: For each entry of the page, (subject, method) -> verdict.
        family: The number of comparisons that p is corrected for.
    """

    columns: tuple[Mapping[tuple[str, str], MethodVerdict], ...]
    family: int


def judge_methods(parts: Sequence[ComparedSamples], margin: float = DEFAULT_MARGIN) -> PageVerdicts:
    """The verdicts on the methods of all parts, as one family.

    Args:
        parts: The samples of each run and metric.
        margin: The smallest gain that counts.
    """
    tried = [part.compare() for part in parts]
    flat = correct_topics({"Decoding": [one for own in tried for one in own]})["Decoding"]
    family = max((one.family for one in flat), default=1)
    rest = iter(flat)
    columns = []
    for part, own in zip(parts, tried, strict=True):
        corrected = [next(rest) for _ in own]
        level = 1 - SIGNIFICANCE_LEVEL / family
        small = {_key(one) for one in corrected if _is_below(one, margin, level)}
        wide = part.compare(level, small) if small else []
        below = {_key(one) for one in wide if _is_below(one, margin, level)}
        columns.append(
            {
                (subject, arm): _judge(list(group), below)
                for (subject, arm), group in groupby(corrected, key=lambda one: (one.subject, one.arm))
            }
        )
    return PageVerdicts(tuple(columns), family)


def signed_gain(one: ArmComparison) -> float:
    """The difference with the sign of a gain: above 0 is better. With unread outputs the smallest that they allow."""
    if one.result is None:
        return float("nan")
    if one.bounds is not None:
        return -one.bounds.high if one.better == "lower" else one.bounds.low
    return -one.result.difference if one.better == "lower" else one.result.difference


def _judge(tried: Sequence[ArmComparison], below: Collection[tuple[str, str, str]]) -> MethodVerdict:
    gain, *checks = tried
    beats = gain.verdict == "better"
    rules: list[tuple[bool, Standing, str]] = [
        (gain.result is None, "refused", gain.refused),
        (gain.verdict == "worse", "worse", f"worse than {gain.against}"),
        (gain.by_construction, "no_gain", f"the same as {gain.against} by construction"),
        (beats and bool(checks) and all(one.verdict == "better" for one in checks), "beats", "beats its controls"),
        (any(one.verdict == "worse" or _key(one) in below for one in checks), "no_gain", "no gain over controls"),
        (_key(gain) in below, "no_gain", f"no gain over {gain.against}"),
        (beats and bool(checks), "reference_only", f"beats {gain.against}; its controls are undecided"),
        (beats, "reference_only", f"beats {gain.against}; no control was run"),
        (True, "undecided", "undecided"),
    ]
    standing, words = next((standing, words) for applies, standing, words in rules if applies)
    tested = [one for one in checks if one.result is not None]
    return MethodVerdict(standing, words, gain, min(tested, key=signed_gain) if tested else None, len(checks))


def _key(one: ArmComparison) -> tuple[str, str, str]:
    return one.subject, one.arm, one.against


def _is_below(one: ArmComparison, margin: float, level: float) -> bool:
    """Whether the interval of the gain lies below the margin."""
    if one.result is None or one.better == "neither":
        return False
    return largest_plausible(one.result, -1 if one.better == "lower" else 1, level) < margin


def largest_plausible(result: PairedTestResult, sign: int, level: float) -> float:
    """The largest difference in one direction that the data allow.

    Args:
        result: The test, with an interval of this level.
        sign: 1 for the upper end, -1 for the lower end with the other sign.
        level: The confidence level.

    Returns:
        The end of the interval. For graded scores and run-level metrics, at least the mean with z^2 more clusters of
        the largest difference: flips of signs cannot show what no pair has.
    """
    end = sign * (result.high if sign > 0 else result.low)
    if result.test == "mcnemar":
        return end
    more = NormalDist().inv_cdf((1 + level) / 2) ** 2
    largest = max(1.0, abs(result.low), abs(result.high))
    unseen = (result.clusters * sign * result.difference + more * largest) / (result.clusters + more)
    return max(end, unseen)
