"""OPERA (Huang et al., CVPR 2024, 2311.17911): beam search that penalizes over-trust and takes tokens back.

    w_i     = attention of token i in the last layer, maximum over heads, normalized; the answer's tokens are 0 to t
    phi_j   = 1e-7 prod_{i = j..t} (scale w_ij)               of each column j of the answer's own window
    penalty = max_j phi_j, from the 11th token on;   before:  minus the attention to the query's images
    scores  = z(y) - penalty_weight * penalty                 for the candidates y with the highest logits z, else -inf

The penalty of a candidate comes from its own attention, so each candidate is read one step ahead. The summary token of
a step is the column j of the maximum: the most frequent one of the candidates. If the same column is the summary token
in more than `threshold` steps of every beam, the search goes back to the token after it (or, if it has been there
`returns` times, to the column itself). There the logits choose among all tokens but those that were chosen before.
Columns below 10 are never returned to. The number of beams and the length penalty are those of the sampler:
`sampling: {beams: 5}`.

`attention: shuffled` is the control: each candidate has the penalty of a random candidate of its beam.

Presets. released: the released commands. efficient: the release's faster setting, one candidate for each beam.

Differs from the released code in eight points. Numbers are float32; in the release's half precision, products overflow
above 65,504, so finite penalties stay below .007. phi is capped at 65,504, and rounded to half precision as in the
release, so columns below 3e-8 count as 0. A beam without a candidate is dropped (there: tokens of score -999). Tokens
that are used have no probability (there: that of the worst token). Tokens used at later steps are forgotten when the
search goes back (there: those of the last steps of a buffer). Returns reach back without limit (there: 512 tokens).
Beams end as in this package's beam search, with lengths of answers alone. All candidates are read in one forward pass,
and the rows of the chosen ones go on (there: one pass for each candidate, and one more).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, cast

from annotated_types import Ge

from decoding import Arm, Beam, Beams, ControlTarget, Note, Sampler, Strategy, Traits
from icl import (
    Count,
    Keys,
    NonNegative,
    Positive,
    PositiveInt,
    Prompt,
    Site,
    Tensor,
    Where,
    canonical_digest,
    component,
    steer,
    torch,
)

EARLY = 10
"""Tokens that are penalized by their attention to images, and columns that are never returned to."""
UNIT, LARGEST = 1e-7, 65_504.0
"""Factor of a product, and the largest number in half precision."""


def extended(products: Tensor, attention: Tensor, scale: float) -> Tensor:
    """Products of columns with one more token: [..., t] and weights [..., t + 1 or more] -> [..., t + 1].

    The weights of the answer's tokens are the last ones. Products stay finite.
    """
    columns = torch.nn.functional.pad(products, (0, 1), value=1.0)
    return (columns * scale * attention[..., -columns.shape[-1] :]).clamp(max=1e30)


def over_trust(products: Tensor) -> tuple[Tensor, Tensor]:
    """The highest phi of a token's columns and its column: products [..., t] -> [...], [...]."""
    best = (UNIT * products).clamp(max=LARGEST).half().float().max(-1)
    return best.values, best.indices


def most_frequent(values: Sequence[int]) -> int:
    """The most frequent number, the smallest of equally frequent ones."""
    return min(values, key=lambda value: (-values.count(value), value))


@dataclass(frozen=True, eq=False)
class WatchedAttention:
    """An intervention that changes nothing and stores the last layer's attention of the tokens that are read."""

    keys: Keys = field(default_factory=lambda: Keys(("query_images",)))
    _stored: dict[str, Tensor] = field(default_factory=dict)

    sites: ClassVar[tuple[Site, ...]] = (Site("scores", -1),)
    where: ClassVar[Where] = Where(part="answer")
    neutral: ClassVar[bool] = False

    @cached_property
    def digest(self) -> str:
        return canonical_digest(["watched attention"])[:32]

    @property
    def last(self) -> Tensor:
        """Of each token of the last forward pass, the weight of the query's images, then that of each key."""
        return self._stored["last"]

    def edit(self, site: Site, x: Tensor, rows: Any) -> Tensor:
        return self.edit_keys(site, x, x < 0)

    def edit_keys(self, site: Site, x: Tensor, keys: Tensor) -> Tensor:
        weights = x.softmax(-1).amax(1)
        weights = weights / weights.sum(-1, keepdim=True)
        image = weights.where(keys[:, 0], 0.0).sum(-1, keepdim=True)
        self._stored["last"] = torch.cat([image, weights], -1)
        return x


@component("strategy", "opera")
@dataclass(frozen=True)
class OPERA(Strategy):
    """Beam search with a penalty for attention to few tokens of the answer, which takes tokens back."""

    penalty_weight: NonNegative = 1.0  # weight of the penalty; 0: none
    scale: Positive = 50.0  # factor of the attention weights
    candidates: PositiveInt = 5  # tokens of each beam that are read one step ahead
    threshold: Annotated[int, Ge(2)] = 15  # steps with one summary token above which tokens are taken back
    returns: Count = 5  # maximum number of backtracks to one step; 0: never
    attention: Literal["own", "shuffled"] = "own"  # whose penalty a candidate has; shuffled: the control

    presets: ClassVar[dict[str, dict[str, float]]] = {
        "released": {"scale": 50, "threshold": 15, "candidates": 5, "penalty_weight": 1, "returns": 5},
        "efficient": {"scale": 50, "threshold": 25, "candidates": 1, "penalty_weight": 1, "returns": 1},
    }
    control_rank: ClassVar[int] = 30

    @classmethod
    def control_for(cls, target: ControlTarget) -> Arm | None:
        """The same search with shuffled penalties."""
        own = target.strategy
        if not isinstance(own, OPERA) or own.attention != "own" or own.candidates == 1:
            return None
        return target.with_strategy(replace(own, attention="shuffled"))

    @property
    def traits(self) -> Traits:
        return Traits(needs=frozenset({"logits", "interventions"}), rows_per_beam=self.candidates)

    @property
    def sampler(self) -> Sampler:
        return Beam(5)

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt]:
        return (steer(prompt, WatchedAttention()),)

    def search(self, beams: Beams) -> None:
        watched = cast("WatchedAttention", beams.prompt.interventions[-1])
        products = [beams.logits.new_ones(1, 0)]  # by step, [B, t]
        columns: list[list[int]] = []  # summary token of each beam, by step
        times: Counter[int] = Counter()
        while not beams.is_over:
            step, best = beams.step, beams.logits.topk(min(self.candidates, beams.logits.shape[-1]))
            beams.look_ahead(best.indices)
            read = watched.last.view(*best.indices.shape, -1)
            phi, places = over_trust(extended(products[step][:, None], read, self.scale))
            penalties = -read[..., 0] if step < EARLY else phi
            if self.attention == "shuffled":
                order = torch.randperm(penalties.shape[1], generator=torch.Generator().manual_seed(step))
                penalties = penalties[:, order.to(penalties.device)]
            scores = torch.full_like(beams.logits, -torch.inf)
            scores = scores.scatter(-1, best.indices, best.values - self.penalty_weight * penalties)
            own = [most_frequent(row) for row in places.tolist()]
            columns[step:] = [own + own[-1:] * (beams.max_beams - len(own))]
            earlier = self.summary_step(columns, times)
            if earlier is not None:
                used, step = beams.take_back(earlier), earlier
                scores = beams.logits.masked_fill(used, -torch.inf)
            parents, rows = beams.choose(scores)
            if not beams.is_over:
                last = watched.last if rows is None else read.flatten(0, 1)[rows]
                products[step + 1 :] = [extended(products[step][parents], last, self.scale)]

    def summary_step(self, columns: Sequence[Sequence[int]], times: Counter[int]) -> int | None:
        """The step to go back to, which is then counted, or None.

        Args:
            columns: Summary token of each beam, by step.
            times: How often the search went back to a step.
        """
        column = most_frequent(columns[-1])
        is_repeated = all(beam.count(column) > self.threshold for beam in zip(*columns, strict=True))
        steps = [step for step in (column + 1, column) if times[step] < self.returns]
        if column < EARLY or not is_repeated or not steps:
            return None
        times[steps[0]] += 1
        return steps[0]
