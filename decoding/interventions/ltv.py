"""Learned task vectors: a weight for every head's mean contribution, fitted by the loss of answers.

Saglam et al., Learning Task Representations from In-Context Learning, 2025 (arXiv 2502.05390).

    h_l(last) += sum over heads h of layer l of W_lh c_lh                  (c_lh of `head_effects`)
    W = argmin of the cross-entropy of the answer, W = 0 at the start

The paper fits W on prompts with shuffled answers; `prompts: zero_shot` fits it on prompts without demonstrations.
**Fitting a few numbers explains much of a learned vector's gain**: the control `random` fits the same number of weights
on random directions of equal norm, with the same steps. No learned vector should be reported without it.

Differs from the released code in W begins at 0 (off), not at N(0, 1); Adam .05 instead of 5e-5, because there are few
numbers; the last step counts (the release keeps the step of lowest training loss). The release cuts the projected sum
of all heads into H slices of the stream, so that its W scales slices and not heads: `variant: released`.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from decoding import Control, FitData, FittedMethod, FittedTensors, VectorEdit, random_of_equal_norm, tensor_digest
from decoding.interventions import head_contributions, head_sites, mean_head_inputs, minimize
from icl import ConfigError, PositiveInt, Site, Tensor, component, torch


@component("intervention", "ltv")
@dataclass(frozen=True)
class LTV(FittedMethod):
    """Weighted contributions of all heads, added to every layer's output at the end of the prompt.

    Control: the same fit with random directions in place of the heads' contributions.
    """

    variant: Literal["heads", "released"] = "heads"  # what a weight scales: a head, or a slice of the stream
    prompts: Literal["zero_shot", "shuffled"] = "shuffled"  # prompts of the fit: without demonstrations, or shuffled
    steps: PositiveInt = 80  # steps of Adam
    batch: PositiveInt = 4  # prompts of a step
    rate: float = 0.05  # learning rate

    tensor: ClassVar[str] = "vectors"
    available_controls: ClassVar[tuple[Control, ...]] = ("random",)

    def intervention(self) -> VectorEdit:
        vectors = self.file.tensors["vectors" if self.control == "none" else self.fitted_draw()]
        layers = self.file.parameters["layers"]
        return VectorEdit(
            {Site("residual", int(layer)): own for layer, own in zip(layers, vectors, strict=True)},
            "add",
            self.strength,
        )

    def fit(self, data: FitData) -> FittedTensors:
        layers = [site.layer for site in head_sites(data.model)]
        added = head_contributions(data.model, mean_head_inputs(data)["few_shot"])
        parts = sliced(added) if self.variant == "released" else added
        tensors, report = {"contributions": added}, {**data.reference_accuracies(), **data.shuffle_report()}
        random = random_of_equal_norm(parts, f"ltv {tensor_digest(parts)} {self.draw}")
        for name, directions in (("vectors", parts), ("vectors.random", random)):
            weights, losses = self._weights(data, layers, directions)
            vectors = tensors[name] = weighted(weights, directions)
            tensors[f"weights{name.removeprefix('vectors')}"] = weights
            edit = VectorEdit({Site("residual", layer): own for layer, own in zip(layers, vectors, strict=True)}, "add")
            key = "steered" if name == "vectors" else "random_directions"
            report |= {key: data.accuracies([(edit,)])[0], f"{key}_loss": losses[-1]}
        return FittedTensors(tensors, {"layers": layers, "variant": self.variant, "draw": self.draw}, report)

    def _weights(self, data: FitData, layers: list[int], directions: Tensor) -> tuple[Tensor, list[float]]:
        weights = torch.zeros(directions.shape[:2], requires_grad=True)

        def edits() -> list[VectorEdit]:
            vectors = weighted(weights, directions)
            return [VectorEdit({Site("residual", layer): own for layer, own in zip(layers, vectors, strict=True)})]

        items = [
            (one.without_demonstrations if self.prompts == "zero_shot" else one.with_shuffled_answers, one.answers[0])
            for one in data.sources
        ]
        optimizer = torch.optim.Adam([weights], lr=self.rate)
        losses = minimize(data, edits, optimizer, items, steps=self.steps, batch=self.batch, what="learning weights")
        return weights.detach(), losses


def weighted(weights: Tensor, directions: Tensor) -> Tensor:
    """The sum over heads: [L, H], [L, H, d] -> [L, d]."""
    return (weights[..., None] * directions).sum(1)


def sliced(contributions: Tensor) -> Tensor:
    """The release's parts: slice h of what all heads add, zero elsewhere. [L, H, d] -> [L, H, d]."""
    _, heads, width = contributions.shape
    if width % heads:
        raise ConfigError(f"variant: released cuts a state of {width} into {heads} equal slices, which is impossible.")
    total = contributions.sum(1)
    own = torch.arange(width) // (width // heads)
    return torch.stack([total * (own == head) for head in range(heads)], 1)
