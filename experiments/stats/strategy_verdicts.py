"""Verdicts on strategies: each strategy against the reference and against each of its own controls.

Pairs are (query, seed, shots, retriever). Holm corrects over every comparison of every strategy on every task of the
run. Controls against the reference are a separate family: a control that beats the reference shows an effect that is
not the strategy's idea.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from experiments.stats.arm_comparisons import ArmComparison, Verdict, compare_arms
from experiments.stats.arms import axis_values, short_control_name
from experiments.stats.formatting import join_words
from experiments.stats.subjects import shared_settings, split_by_subject
from icl.metrics.base import Better

if TYPE_CHECKING:
    from pandas import DataFrame

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
    samples: "DataFrame",
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
    samples: "DataFrame",
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
    samples: "DataFrame",
    settings: Sequence[str],
    metric: str,
    better: Better,
    against: Callable[[str, Sequence[str]], list[str]],
    *,
    level: float = 0.95,
    only: Collection[tuple[str, str, str]] | None = None,
) -> list[ArmComparison]:
    """The comparisons of each decoding of each subject with those that `against` names for it."""
    trials = []
    for subject, part in split_by_subject(samples, settings):
        have = [str(name) for name in axis_values(part, "decoding")]
        for name in have:
            for other in against(name, have):
                if only is None or (subject, name, other) in only:
                    one = _trial(subject, part, name, other, metric=metric, better=better, level=level)
                    trials += [] if one is None else [one]
    return trials


def _trial(
    subject: str, part: "DataFrame", name: str, against: str, *, metric: str, better: Better, level: float
) -> ArmComparison | None:
    """Compares two decodings in the settings that both have; None if there are none."""
    axes = ("shots", "retriever")
    both, where = shared_settings(part[part["decoding"] == against], part[part["decoding"] == name], list(axes))
    if not len(both[0]) or not len(both[1]):
        return None
    on = [axis for axis in axes if axis in part]
    return compare_arms(subject, name, against, both, metric, on=on, pooled=where, better=better, level=level)


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
    phrases = {"better": "beats", "worse": "is worse than", "open": "is not distinguishable from"}
    return f"{phrases[against.verdict]} {against.against}"


def _named(trials: Sequence[ArmComparison]) -> str:
    names = [short_control_name(t.against, t.arm) for t in trials]
    if len(names) <= MAX_NAMED_CONTROLS + 1:
        return join_words(names)
    return f"{', '.join(names[:MAX_NAMED_CONTROLS])} and {len(names) - MAX_NAMED_CONTROLS} more"
