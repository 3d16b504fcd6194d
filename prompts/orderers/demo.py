"""DEmO (Guo et al. 2024): of the orders that favor no answer by themselves, the one that the query changes most.

    bias     H(p(option | demonstrations, nothing)): the quarter of the orders with the largest entropy is kept
    shift    1/2 sum over options of | p(option | demonstrations, query) - p(option | demonstrations, nothing) |

"Nothing" is the query with blank images and the question "N/A". This is a reconstruction without published code. The
number of orders to keep, the substitute for an image and the measure of the shift are assumptions. Another divergence
chooses differently.

No released code.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from icl.edits import Blank
from icl.models.answer_likelihood import entropy
from icl.registry import component
from prompts.orderers.model_orderer import ModelOrderer, Trial, largest

NOTHING = "N/A"
KEEP_ONE_OF = 4
"""Divisor of the number of orders: the share that is kept."""


@component("orderer", "demo")
@dataclass(frozen=True)
class DEmO(ModelOrderer):
    """An orderer that, of the orders without a bias, takes the one that the query changes most (DEmO)."""

    name: ClassVar[str] = "demo"

    def best(self, trial: Trial) -> int:
        query = trial.context.query
        empty = replace(query, images=tuple(p.edit(Blank()) for p in query.images), question=NOTHING)
        free = trial.probabilities([empty])[:, 0]
        candidates = np.argsort(-np.round(entropy(free), 9), kind="stable")[: max(len(free) // KEEP_ONE_OF, 1)]
        shift = np.abs(trial.probabilities([query], candidates.tolist())[:, 0] - free[candidates]).sum(axis=1) / 2
        return int(candidates[largest(shift)])
