"""Learned factors of attention to images, one for each head: dynamic attention reallocation.

Chen et al., True Multimodal In-Context Learning Needs Attention to the Visual Context, COLM 2025 (arXiv 2507.15807).

    s' = s + log f_lh     s: logits of attention of layer l and head h, at the keys of image tokens, for every token

f = 1 is off, where the fit starts. A fit minimizes the loss of the sources' answers after their demonstrations by Adam;
weights of the model stay. Scores of all tokens are computed, so memory grows with tokens x tokens in these layers;
`tokens: end` has those of the last token and of generated ones.

A reconstruction from the paper's abstract: where factors act and how they are trained are parameters here. No released
code was compared.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from decoding import FitData, FittedTensors, RaisedScores, attention_problem, check_span_names, score_sites
from decoding.interventions.base import Control, FittedMethod
from decoding.interventions.trainable import minimize
from icl import Keys, Model, PositiveInt, Site, Tensor, Where, component, torch


@component("intervention", "dara")
@dataclass(frozen=True)
class DARA(FittedMethod):
    """Learned factors of attention to images, one for each head of some layers.

    Control: random factors, whose logarithms have equal norm in each layer.
    """

    keys: tuple[str, ...] = ("images",)  # fit: groups or names of parts whose logits are raised
    tokens: Literal["all", "end"] = "all"  # fit: tokens that attend; end: the last one and generated ones
    first_layer: int = 0  # fit: the lowest layer; negative: from the top
    last_layer: int = -1  # fit: the highest layer
    steps: PositiveInt = 80  # steps of Adam
    batch: PositiveInt = 4  # prompts of a step
    rate: float = 0.05  # learning rate of the logarithms

    tensor: ClassVar[str] = "log_factors"
    available_controls: ClassVar[tuple[Control, ...]] = ("random",)
    revision: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_span_names("keys", self.keys)

    def model_problem(self, model: Model) -> str | None:
        return attention_problem(model, self.keys) or super().model_problem(model)

    def intervention(self) -> RaisedScores:
        chosen = self.file.parameters
        log_factors = self.strength * self.vectors.float()
        return scaled(chosen["layers"], log_factors, tuple(chosen["keys"]), str(chosen["tokens"]))

    def fit(self, data: FitData) -> FittedTensors:
        sites = score_sites(data.model, self.first_layer, self.last_layer)
        layers = [site.layer for site in sites]
        counts = {data.model.sites.num_heads(layer) for layer in layers}
        log_factors = torch.zeros(len(layers), max(counts), requires_grad=True)

        def edits() -> list[RaisedScores]:
            return [scaled(layers, log_factors, self.keys, self.tokens)]

        items = [(one.prompt, one.answers[0]) for one in data.sources]
        optimizer = torch.optim.Adam([log_factors], lr=self.rate)
        losses = minimize(data, edits, optimizer, items, steps=self.steps, batch=self.batch, what="learning factors")
        tensors = {"log_factors": log_factors.detach()}
        edit = scaled(layers, tensors["log_factors"], self.keys, self.tokens)
        report = {
            **data.reference_accuracies(),
            "scaled": data.accuracies([(edit,)], [one.prompt for one in data.choice])[0],
            "first_loss": losses[0],
            "last_loss": losses[-1],
        }
        parameters = {"layers": layers, "keys": list(self.keys), "tokens": self.tokens}
        return FittedTensors(tensors, parameters, report)


def scaled(layers: list[int], log_factors: Tensor, keys: tuple[str, ...], tokens: str) -> RaisedScores:
    """The edit of logarithms [L, H] of factors, H: of the layer with the largest number of heads."""
    sites = {Site("scores", int(layer)): own for layer, own in zip(layers, log_factors, strict=True)}
    return RaisedScores(sites, 0.0, Keys(keys), Where(tokens, "both"))
