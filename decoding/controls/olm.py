"""Output layer modification (OLM, Yin et al., NeurIPS 2025, 2504.10020): answers yes if yes and no are both likely.

    favored option         if p(yes) + p(no) > total and |p(yes) - p(no)| < margin
    more probable option   otherwise

p of an option is summed over the first tokens of all its spellings (every casing, with and without a leading space).
The rule does not use the image, so its gain comes from the label prior.

Differs from the released code in the tokens of yes and no, which are all spellings of the options of a task.
"""

from dataclasses import dataclass

from decoding import Strategy, Traits, unit_strength
from icl import Count, Fraction, Tensor, component


@component("strategy", "olm")
@dataclass(frozen=True)
class OLM(Strategy):
    """Control: prefers one option if it and its best rival are both likely. For option scoring only."""

    favored: Count = 0  # index of the preferred option; 0 is yes for [yes, no]
    total: Fraction = 0.2  # minimal sum of the two probabilities
    margin: Fraction = 0.5  # maximal difference of the two probabilities

    traits = Traits(combines_options=True, requires_options=True, sums_first_tokens=True, is_control=True)

    @property
    def weights(self) -> None:
        return None

    def strength(self, logits: Tensor, step: int) -> Tensor:
        return unit_strength(logits)

    def combine(self, logits: Tensor, step: int) -> Tensor:
        import torch

        options = logits[0]
        is_favored = torch.arange(options.shape[-1], device=options.device) == min(self.favored, options.shape[-1] - 1)
        favored = options[:, is_favored].exp()
        rival = options.masked_fill(is_favored, -float("inf")).amax(-1, keepdim=True).exp()
        applies = (favored + rival > self.total) & ((favored - rival).abs() < self.margin)
        return torch.where(applies & is_favored, options.amax(-1, keepdim=True) + 1, options)
