"""DEmO (Guo et al. 2024): of the orders that lean towards no answer by themselves, the one that the query moves most.

    lean     H(p(option | demonstrations, nothing)): the quarter of the orders with the largest is kept
    moved    1/2 sum over options of | p(option | demonstrations, query) - p(option | demonstrations, nothing) |

Nothing is the query's images blanked and the question "N/A". A reconstruction: no code is published, and neither is
how many orders are kept, what stands for an image, or the measure of the shift; another divergence chooses otherwise.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from icl.edits import Blank
from icl.models.answer_likelihood import entropy
from icl.registry import component
from prompts.orderers.model_orderer import Asking, Trial, largest

NOTHING = "N/A"
KEPT = 4
"""One order in so many is kept."""


@component("orderer", "demo")
@dataclass(frozen=True)
class DEmO(Asking):
    """Of the orders that favor no answer by themselves, the one that the query moves most (DEmO)."""

    name: ClassVar[str] = "demo"

    def best(self, trial: Trial) -> int:
        query = trial.context.query
        empty = replace(query, images=tuple(p.edit(Blank()) for p in query.images), question=NOTHING)
        free = trial.told([empty])[:, 0]
        kept = np.argsort(-np.round(entropy(free), 9), kind="stable")[: max(len(free) // KEPT, 1)]
        moved = np.abs(trial.told([query], kept.tolist())[:, 0] - free[kept]).sum(axis=1) / 2
        return int(kept[largest(moved)])
