"""An edit that leaves some tokens to attend to: those with the least attention, or random ones.

    a_j = mean over heads of the attention to token j in this layer
    s'_j = lowest number, unless j is among the `count` tokens, or the `share` of them, with the smallest a_j

A token keeps its own key, and keys outside of `keys` keep their scores.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from decoding.interventions.attention_edits import cut
from icl.models.interventions import Keys, Site, Where
from icl.text.json_text import canonical_digest

if TYPE_CHECKING:
    from torch import Tensor

Choice = Literal["least", "random"]
ROUNDING = 1e-3
"""More than the error of a share of a number of keys in float32, which shall not be rounded up."""


def chosen_keys(order: "Tensor", keys: "Tensor", count: int | None, share: float) -> "Tensor":
    """The keys of each row that stay.

    Args:
        order: [n, K]: the smallest numbers are taken.
        keys: Whether a key is a candidate [n, K].
        count: Number of keys that stay, or None.
        share: Share of a row's candidates that stay, rounded up, if `count` is None.

    Returns:
        Whether a key stays [n, K]. Of equal numbers the earlier key is taken.
    """
    ranks = order.masked_fill(~keys, math.inf).argsort(dim=-1, stable=True).argsort(-1)
    if count is not None:
        return keys & (ranks < count)
    return keys & (ranks < share * keys.sum(-1, keepdim=True) - ROUNDING)


@dataclass(frozen=True, eq=False)
class LeastAttended:
    """An intervention after which the last token and generated ones attend to few of some tokens.

    Attributes:
        keys: The tokens to choose from.
        count: Number of tokens that stay in each layer, or None.
        share: Share of the tokens that stays if `count` is None.
        layer: The first layer of the edit.
        choice: `least`: those with the least attention. `random`: random ones, the same for all prompts.
    """

    keys: Keys
    count: int | None = None
    share: float = 1.0
    layer: int = 2
    choice: Choice = "least"

    @property
    def sites(self) -> tuple[Site, ...]:
        return (Site("scores", self.layer, onward=True),)

    @property
    def where(self) -> Where:
        return Where("end", "both")

    @property
    def neutral(self) -> bool:
        return self.count is None and self.share == 1

    @cached_property
    def digest(self) -> str:
        parts = ["least attended", repr(self.keys), self.count, self.share, self.layer, self.choice]
        return canonical_digest(parts)[:32]

    def edit(self, site: Site, x: "Tensor", rows: Sequence[int]) -> "Tensor":
        return self.edit_keys(site, x, x > -math.inf)

    def edit_keys(self, site: Site, x: "Tensor", keys: "Tensor") -> "Tensor":
        candidates = keys.any(1)
        order = x.softmax(-1).mean(1) if self.choice == "least" else _random(x)
        stays = chosen_keys(order, candidates, self.count, self.share)
        return cut(x).where((candidates & ~stays)[:, None], x)


def _random(x: "Tensor") -> "Tensor":
    """A random number of each key, which depends on the key's place alone: scores [n, H, K] -> [n, K]."""
    import numpy as np
    import torch

    numbers = torch.from_numpy(np.random.default_rng(0).random(x.shape[-1]))
    return numbers.to(x).expand(x.shape[0], -1)
