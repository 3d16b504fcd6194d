"""MemVR: an uncertain layer lets the next MLP look at the image again.

Zou et al., Look Twice Before You Answer: Memory-Space Visual Retracing for Hallucination Mitigation in Multimodal Large
Language Models, ICML 2025 (arXiv 2410.03577).

    u_l = H(softmax of the 10 largest logits of layer l) / log 10     logits: final norm, output layer on its states
    the first layer l of `first_layer` ... `last_layer` with u_l > threshold, for each token:
        MLP(x) of layer l + 1  :=  (1 - ratio) MLP(x) + ratio s x V' V        V: features of the query's images [n, d]
        s = mean |MLP(x)| / mean |x V' V|

The control has random features of equal norm. With `threshold: 0` every token gets the features after `first_layer`,
uncertain or not.

Differs from the released code in the tokens: the last one of the prompt and each generated token, each by its own u and
s, so that prompts can share prefixes and options are scored as they are generated (the release decides for the whole
prompt by its last token). V are the features of all images of the query (release: of the last image of the prompt). A
cap or scale of logits is left out of u.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from decoding import SteeringMethod, entropy, random_of_equal_norm, tensor_digest
from icl import (
    Count,
    Fraction,
    Model,
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
from icl.models.hf.model import HF

TOP = 10
"""Number of largest logits in the measure of uncertainty, as released."""

EACH = Where(part="both")
"""The last token of the prompt and each generated token."""


def uncertainty(logits: Tensor) -> Tensor:
    """Entropy of the largest logits [n, V] as a share of its maximum: [n]."""
    return entropy(logits.topk(TOP, -1).values)[:, 0] / math.log(TOP)


def retraced(x: Tensor, output: Tensor, features: Tensor, ratio: float) -> Tensor:
    """The output of an MLP, mixed with what its input finds among the features of images.

    Args:
        x: Input of the MLP [n, d].
        output: Its output [n, d].
        features: [m, d], of any scale.
        ratio: Share of the features.
    """
    looked = x @ features.T @ features
    scale = output.abs().mean(-1, keepdim=True) / looked.abs().mean(-1, keepdim=True).clamp(min=1e-12)
    return (1 - ratio) * output + ratio * scale * looked


@dataclass(frozen=True, eq=False)
class Retracing:
    """An intervention that mixes features of images into the MLP after the first uncertain layer, for each token.

    Attributes:
        features: [m, d].
        layers: The layers whose uncertainty counts, from the lowest.
        ratio: Share of the features.
        threshold: Uncertainty above which the next layer looks at the image.
        logits: Final norm and output layer: states [n, d] -> [n, V].
    """

    features: Tensor
    layers: tuple[int, ...]
    ratio: float
    threshold: float
    logits: Callable[[Tensor], Tensor]
    where: ClassVar[Where] = EACH
    _pass: dict[str, Tensor] = field(default_factory=dict)  # of the forward pass, whose layers come in order

    @property
    def neutral(self) -> bool:
        return self.ratio == 0 or not len(self.features)

    @property
    def sites(self) -> tuple[Site, ...]:
        kinds: tuple[tuple[Literal["residual", "mlp_input", "mlp"], int], ...]
        kinds = (("residual", 0), ("mlp_input", 1), ("mlp", 1))
        return tuple(Site(kind, layer + after) for layer in self.layers for kind, after in kinds)

    @property
    def digest(self) -> str:
        settings = [self.layers, self.ratio, self.threshold]
        return canonical_digest(["memvr", tensor_digest(self.features), settings])[:32]

    def edit(self, site: Site, x: Tensor, rows: Sequence[int]) -> Tensor:
        own = self._pass
        if site.kind == "residual":
            done = torch.zeros(len(x), dtype=torch.bool) if site.layer == self.layers[0] else own["done"]
            own["fires"] = (uncertainty(self.logits(x)).cpu() > self.threshold) & ~done
            own["done"] = done | own["fires"]
            return x
        if site.kind == "mlp_input":
            own["input"] = x
            return x
        if not own["fires"].any():
            return x
        looked = retraced(own["input"].to(x.device), x, self.features.to(x.device), self.ratio)
        return torch.where(own["fires"].to(x.device)[:, None], looked, x)


@component("intervention", "memvr")
@dataclass(frozen=True)
class MemVR(SteeringMethod):
    """Features of the query's images, mixed into the MLP that follows the first layer uncertain about the next token.

    Control: random features of equal norm. Presets. mme: the released script for LLaVA-1.5, which has 32 layers.
    """

    ratio: Fraction = 0.12  # share of the features in the output of the MLP; 0 is off
    threshold: NonNegative = 0.75  # entropy of the 10 largest logits, from 0 to 1, above which it is uncertain
    first_layer: int = 0  # the lowest layer whose uncertainty counts; negative: from the top
    last_layer: int = -2  # the highest one; the next layer gets the features
    control: Literal["none", "random"] = "none"  # random features of equal norm
    draw: Count = 0  # number of the random draw of the control

    presets: ClassVar[dict[str, dict[str, Any]]] = {"mme": {"first_layer": 6, "last_layer": 15}}

    @property
    def neutral(self) -> bool:
        return self.ratio == 0

    def controls(self) -> tuple[SteeringMethod, ...]:
        return () if self.control != "none" else (replace(self, control="random"),)

    def counted_layers(self, model: HF) -> tuple[int, ...]:
        """The layers whose uncertainty counts. Raises ModelError if the model lacks one, or the one after the last."""
        first, last = (model.sites.resolve(Site("residual", one)).layer for one in (self.first_layer, self.last_layer))
        model.sites.resolve(Site("mlp_input", last + 1))
        return tuple(range(first, last + 1))

    def model_problem(self, model: Model) -> str | None:
        return super().model_problem(model) or model.image_token_problem

    def check(self, model: HF) -> None:
        self.counted_layers(model)
        _ = model.sites.final_norm

    def steered(self, prompts: Sequence[Prompt], model: HF) -> Sequence[Prompt]:
        self.check(model)  # its probe pass cannot run within a pass that the edits hook
        site, layers = Site("input", 0), self.counted_layers(model)
        steered = []
        for prompt, states in zip(prompts, model.observe(prompts, [site], Where("query_images")), strict=True):
            features = states.get(site, torch.zeros(0, model.sites.width))
            if self.control == "random":
                features = random_of_equal_norm(features, f"memvr {prompt.digest} {self.draw}")
            edit = Retracing(features, layers, self.ratio, self.threshold, model.engine.runner.exit_logits)
            steered.append(steer(prompt, edit))
        return steered
