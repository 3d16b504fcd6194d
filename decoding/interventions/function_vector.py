"""Function vectors: the sum of what a few causal heads add at the end of a prompt with demonstrations.

Todd et al., Function Vectors in Large Language Models, ICLR 2024 (arXiv 2310.15213).

    v = sum over the heads with the largest AIE of c_lh            (`head_effects`)
    h_l(last) += strength * v

The paper takes 10 heads, 25 prompts with shuffled answers for the effects, and a layer at about a third of the depth.
Here the number of heads and the layer are parameters. Without them, the choice part decides.

Differs from the released code in the projection's bias is in no head (the release adds it once for each head); heads
have their own width, which is not d / H in all models; only the prompt's last token is edited unless `part: both` (the
release edits every new token); each row is edited (the release edits the last row of a batch).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from decoding import Control, FitData, FittedMethod, FittedTensors, VectorEdit
from decoding.interventions.head_effects import (
    Base,
    Heads,
    chosen_heads,
    head_contributions,
    head_effects,
    leaves_others,
    mean_head_inputs,
    random_heads,
    strongest,
    summed,
)
from icl import Count, PositiveInt, Site, Where, component

HEAD_COUNTS = (1, 3, 5, 10)
"""Numbers of heads that a fit tries."""


@component("intervention", "function_vector")
@dataclass(frozen=True)
class FunctionVector(FittedMethod):
    """The sum of the contributions of the heads with the largest causal effect, added to one layer's output.

    Controls: a random vector of equal norm, as many random heads among the others, sources with shuffled answers,
    sources without demonstrations. A vector of another task is one more value of the axis with its own file.
    """

    num_heads: PositiveInt | None = None  # heads that are summed; null: the number that the fit chose
    layer: Count | None = None  # layer whose output is edited, from 0; null: the one that the fit chose
    effects_on: Base = "shuffled"  # prompts of the effects: with shuffled answers, or without demonstrations
    part: Literal["prompt", "both"] = "prompt"  # edit the prompt's last token, or also every generated token

    tensor: ClassVar[str] = "contributions"
    available_controls: ClassVar[tuple[Control, ...]] = ("random", "random_heads", "shuffled", "zero_shot")

    def intervention(self) -> VectorEdit:
        heads, is_random = self._heads(), self.control == "random"
        if self.control == "random_heads":
            heads = random_heads(self.file.tensors["effects"].shape, heads, self.draw)
        vector = summed(self.file.tensors["contributions"] if is_random else self.vectors, heads)
        if is_random:
            vector = self.random_vectors(vector)
        site = Site("residual", int(self.chosen("layer")))
        return VectorEdit({site: vector}, "add", self.strength, Where(part=self.part))

    def _heads(self) -> Heads:
        return chosen_heads(self.file.tensors["effects"], int(self.chosen("num_heads")))

    def offers(self, control: Control) -> bool:
        possible = control != "random_heads" or leaves_others(
            int(self.chosen("num_heads")), self.file.tensors["effects"].shape
        )
        return possible and super().offers(control)

    def fit(self, data: FitData) -> FittedTensors:
        means = mean_head_inputs(data)
        added = {name: head_contributions(data.model, inputs) for name, inputs in means.items()}
        ranked = head_effects(data, means["few_shot"], data.choice, self.effects_on)
        effects = ranked.effects
        sites = data.model.sites.all("residual")
        layers = range(len(sites)) if self.layer is None else [self.layer]
        counts = ranked.candidates(HEAD_COUNTS if self.num_heads is None else [self.num_heads])
        settings = [(layer, count) for layer in layers for count in counts]
        where = Where(part=self.part)
        edits = [
            (VectorEdit({sites[layer]: summed(added["few_shot"], strongest(effects, count))},
                        "add", self.strength or 1.0, where),)
            for layer, count in settings
        ]  # fmt: skip
        scores = dict(zip(settings, data.accuracies(edits), strict=True))
        layer, count = max(scores, key=lambda pair: (scores[pair], -pair[1], -pair[0]))
        tensors = {"contributions": added["few_shot"], "effects": effects, "heads": means["few_shot"]}
        tensors |= {f"contributions.{name}": own for name, own in added.items() if name != "few_shot"}
        report = {
            **data.reference_accuracies(),
            **data.shuffle_report(),
            "accuracy": {f"layer {layer}, {count} heads": score for (layer, count), score in scores.items()},
            **ranked.report(),
        }
        parameters = {"layer": layer, "num_heads": count}
        return FittedTensors(tensors, parameters, report, ranked.warnings(self.num_heads))
