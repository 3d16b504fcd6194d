"""ONLY (Wan et al., One-Layer Intervention, ICCV 2025, 2507.00898): contrast with what one layer's text heads say.

    w     attention weights of the token in layer l; weights above mean + sd are zero, among text and among image tokens
    r_h   = entropy of the text tokens' w in head h / entropy of the image tokens' w
    a     = output projection of sum w v, in which heads with r_h < mean r are zero
    z_1   = the last layer's MLP, final norm and output layer on: input norm of the last layer (a) + .2 x
    z     = z_1 + .5 z_0,    d = sum over tokens of |softmax(z_0) - softmax(z)|
    scores = z_0 + collaborate z              if d < gamma
             (1 + contrast) z_0 - contrast z   otherwise,        in both cases if p(y | prompt) >= beta max p

Here x is the state that the last layer reads. Text tokens are all tokens but the query's images and the first token,
whose weight stays. `heads: random` is the control: as many random heads are zero.

Differs from the released code in three points. The other branch is a row of its own, which reads the prompt again (the
release computes z_1 in the forward pass of z_0, so it is cheaper). The image tokens are those of the query's images,
one image at fixed positions there. Greedy decoding is the default.

Presets. pope, chair: the released commands.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, cast

from decoding import GatedStrategy, Generate, Note, ObservingGenerate, PlausibleStrategy, StepState, Traits
from icl import (
    Count,
    Fraction,
    Keys,
    ModelError,
    NonNegative,
    Prompt,
    Site,
    Tensor,
    Where,
    canonical_digest,
    component,
    steer,
    torch,
)

STREAM, REFERENCE = 0.2, 0.5
"""Shares of the last layer's input and of the reference's logits in the other branch."""

LastLayer = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
"""The output projection of the chosen layer, and the input norm of the last one."""


def without_outliers(weights: Tensor, keys: Tensor) -> Tensor:
    """Weights of some keys, without those above mean + sd of these keys: [n, H, K], [n, H, K] bool -> [n, H, K]."""
    count = keys.sum(-1, keepdim=True)
    own = weights.where(keys, 0.0)
    mean = own.sum(-1, keepdim=True) / count
    deviation = (((own - mean).where(keys, 0.0) ** 2).sum(-1, keepdim=True) / (count - 1)).sqrt()
    return own.where(~(own > mean + deviation), 0.0)


def text_heads(weights: Tensor, image: Tensor, shuffle: Tensor | None = None) -> Tensor:
    """The weights of text heads without outliers: [n, H, K].

    Args:
        weights: Attention weights [n, H, K].
        image: Whether a key is an image token [n, H, K].
        shuffle: A permutation of the heads by which they are exchanged in the choice, or None.
    """
    first = torch.arange(weights.shape[-1], device=weights.device) == 0
    text = (weights > 0) & ~image & ~first
    of_text, of_image = without_outliers(weights, text), without_outliers(weights, image)
    ratio = _entropy(of_text).nan_to_num(nan=0.0) / _entropy(of_image).nan_to_num(nan=torch.inf)
    ratio = ratio if shuffle is None else ratio[:, shuffle]
    chosen = ~(ratio < ratio.mean(-1, keepdim=True))
    return (of_text + of_image + weights.where(first, 0.0)) * chosen[..., None]


def _entropy(weights: Tensor) -> Tensor:
    shares = weights / weights.sum(-1, keepdim=True)
    return -(shares * (shares + 1e-6).log()).sum(-1)


@dataclass(frozen=True, eq=False)
class OneLayer:
    """An intervention under which the last layer's MLP reads what text heads of one layer give.

    Attributes:
        layer: The layer whose heads are read. Nothing in it changes.
        modules: The projection of this layer and the input norm of the last one. None: in checks without a model.
        is_random: Whether random heads are zero in place of those with a small ratio of entropies.
    """

    layer: int
    modules: LastLayer | None
    is_random: bool
    keys: Keys = field(default_factory=lambda: Keys(("query_images",)))
    _now: dict[str, Tensor] = field(default_factory=dict)

    where: ClassVar[Where] = Where(part="both")
    neutral: ClassVar[bool] = False

    @property
    def sites(self) -> tuple[Site, ...]:
        return Site("scores", self.layer), Site("residual", -2), Site("middle", -1)

    @cached_property
    def digest(self) -> str:
        return canonical_digest(["one layer", self.layer, self.is_random])[:32]

    def side_weights(self, site: Site, x: Tensor, keys: Tensor) -> Tensor:
        order = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(0)).to(x.device)
        return text_heads(x.softmax(-1), keys, order if self.is_random else None)

    def receive(self, site: Site, heads: Tensor) -> None:
        self._now["heads"] = heads.flatten(1)

    def edit(self, site: Site, x: Tensor, rows: Any) -> Tensor:
        if site.kind == "residual":
            self._now["stream"] = x
            return x
        assert self.modules is not None
        projection, norm = self.modules
        return norm(projection(self._now["heads"])).to(x) + STREAM * self._now["stream"].to(x)


@component("strategy", "only")
@dataclass(frozen=True)
class ONLY(GatedStrategy, PlausibleStrategy):
    """The prompt with, or against, what the text heads of one layer say."""

    collaborate: NonNegative = 3.0  # weight of the other branch where it is close to the prompt
    contrast: NonNegative = 1.0  # strength of the contrast where it is not
    gamma: NonNegative = 0.2  # sum of absolute differences of probabilities (0 to 2) below which it is close
    beta: Fraction = 0.1  # minimal probability relative to the best token; 0 masks nothing
    layer: Count = 0  # the layer whose heads are read
    heads: Literal["ratio", "random"] = (
        "ratio"  # which heads are zero: by the ratio of entropies, or as many random ones
    )

    presets: ClassVar[dict[str, dict[str, float]]] = {"pope": {"gamma": 0.2}, "chair": {"gamma": 0.25}}
    neutral_parameters: ClassVar[dict[str, float]] = {"collaborate": 0.0, "contrast": 0.0}
    weights: ClassVar[None] = None
    traits = Traits(needs=frozenset({"logits", "interventions"}))

    def strength(self, logits: Tensor, step: int) -> Tensor:
        with_it, against_it = 1 + (1 + REFERENCE) * self.collaborate, 1 - REFERENCE * self.contrast
        return torch.where(self.gate(logits, step), with_it, against_it)

    def prepare(self, prompts: Sequence[Prompt], generate: Generate) -> Sequence[Note]:
        """For each prompt, the projection of the layer and the input norm of the last one.

        Raises:
            ModelError: The model lacks one of them.
        """
        if not isinstance(generate, ObservingGenerate) or not self.traits.needs <= generate.model.abilities:
            return [None] * len(prompts)
        sites = generate.model.sites
        projection, norm = sites.projection(self.layer), sites.attention_norm(len(sites.layers) - 1)
        if projection is None or norm is None:
            raise ModelError(
                f"strategy 'only' reads the output projection of layer {self.layer} and a norm before the attention of "
                f"the last layer, and {sites.name} lacks one of them. Use another strategy."
            )
        dtype = next(norm.parameters()).dtype
        # `forward` runs no hooks of other interventions
        return [(lambda heads: projection.forward(heads.to(dtype)), norm.forward)] * len(prompts)

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        return prompt, steer(prompt, OneLayer(self.layer, cast("LastLayer | None", note), self.heads == "random"))

    def gate(self, logits: Tensor, step: int) -> Tensor:
        """Whether the other branch is close to the prompt."""
        distance = logits[0].softmax(-1) - self._other(logits).softmax(-1)
        return distance.abs().sum(-1, keepdim=True) < self.gamma

    def gated_scores(self, logits: Tensor, step: int, gate: Tensor, states: Sequence[StepState]) -> Tensor:
        """logits: [2, B, V] float32 -> scores [B, V]."""
        reference, other = logits[0], self._other(logits)
        with_it, against_it = reference + self.collaborate * other, reference + self.contrast * (reference - other)
        return with_it.where(gate, against_it)

    def _other(self, logits: Tensor) -> Tensor:
        return logits[1] + REFERENCE * logits[0]
