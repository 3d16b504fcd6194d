"""AvisC (Woo et al., Don't Miss the Forest for the Trees, 2405.17820): contrast with the tokens that attract attention.

    a_lj = attention of the prompt's last token to image token j in layer l, mean over heads; s_l = sum over j of a_lj
    L = the fewest layers whose s_l sum to the share gamma of all;   a_j = mean over l in L of a_lj
    blind tokens: a_j >= mean + lamb * sd, over image tokens
    the other branch: the features of all image tokens that are not blind are zero
    scores = (1 + alpha) z(y | prompt) - alpha z(y | the other branch),   if p(y | prompt) >= beta max p

The blind tokens are chosen once, from the prompt alone, in a separate forward pass. `tokens: random` is the control: as
many random image tokens stay. If no token is blind, all features are zero, as in the release.

Differs from the released code in two points: the image tokens are those of the query's images (the release has one
image at fixed positions), and greedy decoding is the default (the release samples).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, cast

from decoding import ContrastStrategy, Generate, Note, ObservingGenerate, PlausibleStrategy, Traits
from icl import Fraction, NonNegative, Prompt, Site, Tensor, Where, canonical_digest, component, steer, torch

IMAGES = "query_images"


def blind_tokens(attention: Tensor, gamma: float, lamb: float) -> Tensor:
    """Which image tokens attract attention regardless of the question: [n] bool.

    Args:
        attention: Of one token to image tokens, mean over heads, of each layer [layers, n].
        gamma: Share of the attention to the image that the chosen layers have together.
        lamb: Standard deviations above the mean.
    """
    shares = attention.sum(1) / attention.sum()
    order = shares.argsort(descending=True)
    count = int((shares[order].cumsum(0) < gamma).sum()) + 1
    mean = attention[order[:count]].mean(0)
    return ~(mean < mean.mean() + mean.std() * lamb)


@dataclass(frozen=True, eq=False)
class ZeroedFeatures:
    """An intervention that sets the features of some image tokens of the query to zero.

    Attributes:
        staying: Indices of the image tokens that keep their features, among those of the query's images.
        count: Number of the tokens of the query's images.
    """

    staying: tuple[int, ...]
    count: int

    sites: ClassVar[tuple[Site, ...]] = (Site("input", 0),)
    where: ClassVar[Where] = Where(IMAGES)

    @property
    def neutral(self) -> bool:
        return len(self.staying) == self.count

    @cached_property
    def digest(self) -> str:
        return canonical_digest(["zeroed features", self.staying, self.count])[:32]

    def edit(self, site: Site, x: Tensor, rows: Sequence[int]) -> Tensor:
        stays = torch.zeros(self.count, 1, device=x.device)
        stays[list(self.staying)] = 1
        return x * stays.repeat(len(x) // len(stays), 1)


@component("strategy", "avisc")
@dataclass(frozen=True)
class AvisC(ContrastStrategy, PlausibleStrategy):
    """Contrast with the same prompt, of whose image only the tokens that attract attention remain.

    Presets. pope: the released script, and MME. amber: that of AMBER and LLaVA-Bench.
    """

    alpha: NonNegative = 1.0  # strength of the contrast; 0 is the reference under the mask
    beta: Fraction = 0.1  # minimal probability relative to the best token; 0 masks nothing
    gamma: Fraction = 0.5  # share of the attention to the image that the layers of the choice have together
    lamb: NonNegative = 1.0  # standard deviations above the mean from which a token is blind
    tokens: Literal["blind", "random"] = "blind"  # which remain: the blind ones, or as many random ones

    presets: ClassVar[dict[str, dict[str, float]]] = {"pope": {"alpha": 1.0}, "amber": {"alpha": 2.5}}
    traits = Traits(needs=frozenset({"logits", "interventions"}))

    def prepare(self, prompts: Sequence[Prompt], generate: Generate) -> Sequence[Note]:
        """For each prompt, the numbers of the image tokens that stay, and how many there are."""
        if not isinstance(generate, ObservingGenerate) or not self.traits.needs <= generate.model.abilities:
            return [None] * len(prompts)
        model = generate.model
        sites = model.sites.all("scores") or (model.sites.resolve(Site("scores", 0)),)
        states = model.observe(prompts, sites, reduce=lambda scores: scores.softmax(-1).mean(1))
        return [
            self._staying(torch.stack([own[site][0] for site in sites]), spans[IMAGES])
            for own, spans in zip(states, model.span_tokens(prompts, [IMAGES]), strict=True)
        ]

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        """Without a note, in checks without states of a model, no token stays."""
        staying, count = ((), 1) if note is None else cast("tuple[tuple[int, ...], int]", note)
        return prompt, steer(prompt, ZeroedFeatures(staying, count))

    def _staying(self, attention: Tensor, runs: Sequence[tuple[int, int]]) -> tuple[tuple[int, ...], int]:
        columns = [token for begin, end in runs for token in range(begin, end)]
        if len(columns) < 2:  # one token has no standard deviation
            return tuple(range(len(columns))), len(columns)
        blind = blind_tokens(attention[:, columns], self.gamma, self.lamb)
        if self.tokens == "random":
            blind = blind[torch.randperm(len(blind), generator=torch.Generator().manual_seed(0))]
        return tuple(blind.nonzero()[:, 0].tolist()), len(columns)
