"""Accuracy on puzzles, asking about one candidate at a time, as in Kosmos-1's Raven test (Huang et al., 2302.14045).

    choice = argmax over candidates c of P(yes | matrix with c) - P(yes | c alone)

P(yes) is the probability among the options, or whether the answer is yes. The second term is 0 for puzzles without
questions about candidates alone. A tie is wrong, and the order of the candidates does not matter. A question has
`meta["candidate"]` and `meta["form"]`, "completed" or "alone", and the questions of a puzzle share a group. Puzzles
with a missing question are left out.

Differs from the released test in the second term. No released code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from icl import Better, Example, Generation, RunStatistic, ScoredSample, component, mean_over_groups, normalize_text
from icl.metrics.machinery.option_parsing import yes_probability


@component("metric", "raven")
@dataclass(frozen=True)
class RavenMetric:
    """Share of puzzles where the right candidate has the highest P(yes) minus its P(yes) without the matrix."""

    better: ClassVar[Better] = "higher"

    def score(self, generation: Generation, example: Example) -> float | None:
        return yes_probability(generation) if {"candidate", "form"} <= set(example.meta) else None

    def run_level(self, samples: Sequence[ScoredSample]) -> RunStatistic:
        return mean_over_groups(samples, chooses_right)


def chooses_right(members: Sequence[ScoredSample]) -> float | None:
    """1 if the right candidate of a puzzle is chosen, otherwise 0. None if the puzzle is not complete."""
    scored = [m for m in members if m.score is not None and {"candidate", "form"} <= set(m.meta)]
    by_form: dict[str, dict[str, float]] = {"completed": {}, "alone": {}}
    for member in scored:
        by_form.setdefault(str(member.meta["form"]), {})[str(member.meta["candidate"])] = float(member.score or 0)
    completed, alone = by_form["completed"], by_form["alone"]
    right = [
        str(m.meta["candidate"])
        for m in scored
        if m.meta["form"] == "completed" and "yes" in map(normalize_text, m.gold)
    ]
    if len(right) != 1 or (alone and alone.keys() != completed.keys()):
        return None
    gains = {name: value - alone.get(name, 0) for name, value in completed.items()}
    own = gains.pop(right[0])
    return float(all(own > other for other in gains.values()))
