"""In-context vectors: the mean change of states from a question to its answer, as a direction of every layer.

Liu et al., In-context Vectors: Making In Context Learning More Effective and Controllable Through Latent Space
Steering, ICML 2024 (arXiv 2311.06668).

    D_i = h(x_i, y_i) - h(x_i)     states of all layers at the last token; x: image and question, y: the answer
    v   = mean over i of D_i       `direction: released` adds the first principal direction of D
    every token, output of the MLP of layer l: `edits.turned` along v_l / |v_l|, lam .1

The paper's pairs are two texts, such as a toxic and a neutral one. A question with and without its answer is our
reading of it for visual questions. The sign of a principal direction is a convention, here the release's: the source
with the largest projection has a positive one. Its length is 1, while the mean is not normalized, so the mean alone is
the default.

Differs from the released code in the default direction, see above; float32 (the release casts to half); prompts with
images; sources of `icl fit` instead of the demonstrations of the prompt.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from decoding import Control, DirectionEdit, FitData, FittedMethod, FittedTensors
from decoding.interventions.edits import principal_direction
from icl import NonNegative, Site, component


@component("intervention", "icv")
@dataclass(frozen=True)
class ICV(FittedMethod):
    """A direction from questions to answers, along which the MLP output of every token is turned.

    Control: random directions.
    """

    lam: NonNegative = 0.1  # how far states are turned; 0 is off
    direction: Literal["mean", "released"] = "mean"  # mean difference, or with its first principal direction added

    tensor: ClassVar[str] = "directions"
    min_fit_shots: ClassVar[int] = 0
    available_controls: ClassVar[tuple[Control, ...]] = ("random",)

    @property
    def neutral(self) -> bool:
        return self.lam * self.strength == 0

    def intervention(self) -> DirectionEdit:
        vectors = self.file.tensors[f"directions.{self.direction}"]
        if self.control == "random":
            vectors = self.random_vectors(vectors)
        layers = [int(layer) for layer in self.file.parameters["layers"]]
        return DirectionEdit({Site("mlp", layer): vectors[layer] for layer in layers}, self.lam * self.strength)

    def fit(self, data: FitData) -> FittedTensors:
        sites = data.model.sites.all("residual")
        before, after = data.answer_states(sites)
        differences = after - before
        mean = differences.mean(0)
        tensors = {"directions.mean": mean, "directions.released": mean + principal_direction(differences)}
        layers = [site.layer for site in data.model.sites.all("mlp")]
        vectors = tensors[f"directions.{self.direction}"]
        edit = DirectionEdit({Site("mlp", layer): vectors[layer] for layer in layers}, self.lam)
        report = {**data.reference_accuracies(), "steered": data.accuracies([(edit,)])[0]}
        return FittedTensors(tensors, {"layers": layers}, report)
