"""Mixtures of in-context learners (Hong et al., ACL 2025, 2411.02830): groups of demonstrations as weighted experts.

    scores = sum_i w_i l(y | demonstrations of group i, query)

Without weights each group counts 1/n. Weights are learned on a dev split, from 1/n on by the cross-entropy of its
options (`icl fit`, `decoding.arms.fitting.fit_mixture_weights`); a negative one makes an anti-expert. `sparse` keeps
the k largest by magnitude, not renormalized. The whole prompt is read for traces and controls, and has no weight. The
paper's hypernetwork, which gives weights to groups never seen, is not here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from decoding.arms.fitting import fit_mixture_weights
from decoding.base import Note, Strategy
from decoding.prompt_edits import demonstration_windows
from icl.constraints import Count
from icl.errors import ConfigError
from icl.registry import component, parameter
from icl.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor


@component("strategy", "moicl")
@dataclass(frozen=True)
class MoICL(Strategy):
    """Groups of demonstrations read apart and mixed, with weights that are equal, given, or sparse.

    A prompt with fewer groups than weights uses the first of them.
    """

    groups: Count = 0  # of neighboring demonstrations; 0: one each, or as many as there are weights
    fitted: tuple[float, ...] = parameter("weights", ())  # of the groups, in prompt order; none: all equal
    sparse: Count = 0  # how many weights are kept, the largest by magnitude; 0: all

    needs_labels: ClassVar[bool] = True

    def calibration_strategies(self, shots: int) -> tuple[Strategy, ...]:
        """Each group alone. Raises ConfigError without demonstrations."""
        count = min(self.groups or shots, shots)
        if not count:
            raise ConfigError("moicl has weights for groups of demonstrations, and there are none at 0 shots.")
        alone = [tuple(float(i == group) for i in range(count)) for group in range(count)]
        return tuple(replace(self, groups=count, fitted=weights, sparse=0) for weights in alone)

    def fit(self, told: "Tensor", gold: Sequence[int]) -> "MoICL":
        return replace(self, groups=told.shape[1], fitted=fit_mixture_weights(told, gold))

    @property
    def weights(self) -> None:
        """They depend on the number of demonstrations."""
        return None

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        return logits.new_full((logits.shape[1], 1), sum(self.used(len(logits) - 1)))

    def used(self, count: int) -> tuple[float, ...]:
        """The weights of `count` groups."""
        given = self.fitted[:count] if self.fitted else (1 / count,) * count
        given += (0.0,) * (count - len(given))
        if not self.sparse:
            return given
        kept = sorted(range(count), key=lambda i: -abs(given[i]))[: self.sparse]
        return tuple(weight if i in kept else 0.0 for i, weight in enumerate(given))

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        """The prompt, and its groups."""
        return prompt, *demonstration_windows(prompt, self.groups or len(self.fitted))

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        told = logits[1:].log_softmax(-1)
        weights = logits.new_tensor(self.used(len(told)))
        scores: Tensor = (weights[:, None, None] * told).sum(0)
        return scores
