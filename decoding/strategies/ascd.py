"""ASCD (Wang et al., AAAI 2026, 2506.14766): contrast of more attention to the image with less attention to its parts.

    text-centric heads: the share of all heads whose last token attends least to the image
    z_up    of text-centric heads, s + strengthen |s| for each score s of the image
    z_down  of all heads, s - weaken |s| for the share of the image's tokens with the highest scores in the head
    scores = (1 + alpha) z_up - alpha z_down,   if p(y | prompt) >= beta max p

The last token of the prompt and each generated token attend so, in all layers. Critical tokens are chosen anew for each
head, layer and token that is read. Text-centric heads are chosen once, from the prompt, in a separate forward pass.
`choice: random` is the control: as many random heads and image tokens.

Differs from the released code in five points. Text-centric heads are the prompt's own (the release reads a file for
each model, of votes over reference images). All tokens that are not of the query's images count as text. The number of
critical tokens is rounded up, so that a small image has one. The mask is the prompt's, a third branch, as in all
strategies here (there p_up's). Greedy decoding is the default. The code was read in the copy of a public replication.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, cast

from decoding import Generate, Note, ObservingGenerate, PlausibleStrategy, Traits
from decoding.interventions.attention_edits import chosen_keys, raised, random_order
from icl import Fraction, Keys, NonNegative, Prompt, Site, Tensor, Where, canonical_digest, component, steer, torch

IMAGES = Keys(("query_images",))
Heads = Mapping[int, tuple[int, ...]]
"""Layer -> its text-centric heads."""


def text_centric(attention: Tensor, share: float) -> Tensor:
    """Which heads attend least to an image: attention to it [layers, H] -> bool. The share is rounded up."""
    flat = attention.flatten()[None]
    return chosen_keys(flat, flat.isfinite(), None, share).view(attention.shape)


def critical(scores: Tensor, keys: Tensor, share: float) -> Tensor:
    """The keys with the highest scores of each row and head: [n, H, K], [n, H, K] bool -> [n, H, K] bool."""
    flat = chosen_keys(-scores.flatten(0, 1), keys.expand_as(scores).flatten(0, 1), None, share)
    return flat.view(scores.shape)


@dataclass(frozen=True, eq=False)
class MoreAttention:
    """An intervention that raises the scores of the query's images in some heads.

    Attributes:
        heads: The heads.
        strength: Share of the size of a score that is added.
    """

    heads: Heads
    strength: float
    keys: Keys = IMAGES
    where: ClassVar[Where] = Where(part="both")

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(Site("scores", layer) for layer in self.heads)

    @property
    def neutral(self) -> bool:
        return not (self.strength and self.heads)

    @cached_property
    def digest(self) -> str:
        return canonical_digest(["more attention", sorted(self.heads.items()), self.strength])[:32]

    def edit(self, site: Site, x: Tensor, rows: Any) -> Tensor:
        new, heads = x.clone(), list(self.heads[site.layer])
        new[:, heads] = raised(x[:, heads], self.strength)
        return new


@dataclass(frozen=True, eq=False)
class LessAttention:
    """An intervention that lowers the scores of the most attended tokens of the query's images.

    Attributes:
        share: Share of the image tokens, rounded up.
        strength: Share of the size of a score that is taken away.
        is_random: Whether random tokens are chosen in place of the most attended ones.
    """

    share: float
    strength: float
    is_random: bool
    keys: Keys = IMAGES
    where: ClassVar[Where] = Where(part="both")
    sites: ClassVar[tuple[Site, ...]] = (Site("scores", 0, onward=True),)

    @property
    def neutral(self) -> bool:
        return not (self.strength and self.share)

    @cached_property
    def digest(self) -> str:
        return canonical_digest(["less attention", self.share, self.strength, self.is_random])[:32]

    def edit(self, site: Site, x: Tensor, rows: Any) -> Tensor:
        return self.edit_keys(site, x, x > float("-inf"))

    def edit_keys(self, site: Site, x: Tensor, keys: Tensor) -> Tensor:
        order = random_order(x)[:, None].expand_as(x) if self.is_random else x
        return raised(x, -self.strength).where(critical(order, keys, self.share), x)


@component("strategy", "ascd")
@dataclass(frozen=True)
class ASCD(PlausibleStrategy):
    """Contrast of the prompt with more attention to its image and the prompt with less attention to critical tokens."""

    alpha: NonNegative = 1.0  # strength of the contrast; 0 leaves the prompt with more attention to its image
    beta: Fraction = 0.1  # minimal probability relative to the best token; 0 masks nothing
    strengthen: NonNegative = 0.625  # share of a score's size that text-centric heads add
    weaken: NonNegative = 1.0  # share of a score's size that critical tokens lose
    heads: Fraction = 0.03125  # share of all heads that are text-centric; 32 of LLaVA-1.5's 1024
    share: Fraction = 0.1  # share of the image tokens that are critical in a head
    choice: Literal["attention", "random"] = "attention"  # what chooses heads and tokens; random: the control

    traits = Traits(needs=frozenset({"logits", "interventions"}))

    @property
    def weights(self) -> tuple[float, float, float]:
        return 0.0, 1 + self.alpha, -self.alpha

    def prepare(self, prompts: Sequence[Prompt], generate: Generate) -> Sequence[Note]:
        """For each prompt, its text-centric heads by layer."""
        if not isinstance(generate, ObservingGenerate) or not self.traits.needs <= generate.model.abilities:
            return [None] * len(prompts)
        model = generate.model
        sites = model.sites.all("scores") or (model.sites.resolve(Site("scores", 0)),)
        states = model.observe(prompts, sites, reduce=lambda scores: scores.softmax(-1))
        spans = model.span_tokens(prompts, IMAGES.spans)
        return [
            self._heads({site.layer: own[site][0] for site in sites}, at[IMAGES.spans[0]])
            for own, at in zip(states, spans, strict=True)
        ]

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt, Prompt]:
        """Without a note, in checks without states of a model, the first head is text-centric."""
        heads = {0: (0,)} if note is None else cast("Heads", note)
        less = LessAttention(self.share, self.weaken, self.choice == "random")
        return prompt, steer(prompt, MoreAttention(heads, self.strengthen)), steer(prompt, less)

    def combine(self, logits: Tensor, step: int) -> Tensor:
        """logits: [3, B, V] float32 -> scores [B, V]."""
        return (1 + self.alpha) * logits[1] - self.alpha * logits[2]

    def _heads(self, attention: Mapping[int, Tensor], runs: Sequence[tuple[int, int]]) -> Heads:
        columns = [token for begin, end in runs for token in range(begin, end)]
        shares = torch.stack([own[:, columns].sum(-1) for own in attention.values()])
        if self.choice == "random":
            order = torch.randperm(shares.numel(), generator=torch.Generator().manual_seed(0))
            shares = order.view(shares.shape).to(shares)
        chosen = text_centric(shares, self.heads)
        return {
            layer: tuple(own.nonzero()[:, 0].tolist())
            for layer, own in zip(attention, chosen, strict=True)
            if own.any()
        }
