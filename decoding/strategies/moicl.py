"""Mixtures of in-context learners (Hong et al., ACL 2025, 2411.02830): groups of demonstrations as weighted experts.

    scores = sum_i w_i l(y | demonstrations of group i, query)

By default each of n groups has the weight 1/n. `icl fit` learns the weights on a dev split from the cross-entropy of
its options (`decoding.arms.fitting.fit_mixture_weights`). A negative weight makes an anti-expert. `top_k` keeps the
largest weights by magnitude, without renormalization. The whole prompt is branch 0, for traces and controls, and has no
weight. The paper's hypernetwork, which predicts weights of new groups, is not implemented.

Differs from the released code in the hypernetwork and the learned sparse mask, which are missing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from decoding import Note, Strategy, constants_like, demonstration_windows
from decoding.arms.fitting import fit_mixture_weights
from icl import ConfigError, Count, Prompt, Tensor, component, parameter


@component("strategy", "moicl")
@dataclass(frozen=True)
class MoICL(Strategy):
    """Weighted mixture of groups of demonstrations, each read in a prompt of its own.

    A prompt with fewer groups than weights uses the first weights.
    """

    groups: Count = 0  # groups of consecutive demonstrations; 0: one per weight, or one per demonstration
    group_weights: tuple[float, ...] = parameter("weights", ())  # of the groups, in prompt order; none: all equal
    top_k: Count = 0  # number of weights that are used, the largest by magnitude; 0: all

    needs_labels: ClassVar[bool] = True

    def calibration_strategies(self, shots: int) -> tuple[Strategy, ...]:
        """One strategy per group, with the weight 1 for this group. Raises ConfigError without demonstrations."""
        count = min(self.groups or shots, shots)
        if not count:
            raise ConfigError("moicl has weights for groups of demonstrations, but there are none at 0 shots.")
        one_hot = [tuple(float(i == group) for i in range(count)) for group in range(count)]
        return tuple(replace(self, groups=count, group_weights=weights, top_k=0) for weights in one_hot)

    def fit(self, logprobs: Tensor, gold: Sequence[int]) -> "MoICL":
        return replace(self, groups=logprobs.shape[1], group_weights=fit_mixture_weights(logprobs, gold))

    @property
    def weights(self) -> None:
        """None, because they depend on the number of demonstrations."""
        return None

    def strength(self, logits: Tensor, step: int) -> Tensor:
        return logits.new_full((logits.shape[1], 1), sum(self.effective_weights(len(logits) - 1)))

    def effective_weights(self, count: int) -> tuple[float, ...]:
        """The weights of `count` groups."""
        weights = self.group_weights[:count] if self.group_weights else (1 / count,) * count
        weights += (0.0,) * (count - len(weights))
        if not self.top_k:
            return weights
        largest = sorted(range(count), key=lambda i: -abs(weights[i]))[: self.top_k]
        return tuple(weight if i in largest else 0.0 for i, weight in enumerate(weights))

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        """The prompt, and one prompt per group."""
        return prompt, *demonstration_windows(prompt, self.groups or len(self.group_weights))

    def combine(self, logits: Tensor, step: int) -> Tensor:
        experts = logits[1:].log_softmax(-1)
        weights = constants_like(self.effective_weights(len(experts)), logits)
        scores: Tensor = (weights[:, None, None] * experts).sum(0)
        return scores
