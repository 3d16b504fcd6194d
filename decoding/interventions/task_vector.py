"""Task vectors: the state that demonstrations leave at the end of a prompt, written into a prompt without them.

Hendel et al., In-Context Learning Creates Task Vectors, EMNLP Findings 2023 (arXiv 2310.15916).

    replace    h_l(last) := mean over sources of h_l(last | demonstrations)
    add        h_l(last) += mean over sources of h_l(last | demonstrations) - h_l(last | none)

The layer l is the one with the best accuracy on the choice part, which is disjoint from the sources. That score is
optimistic, because it is the best of all layers: report it only from other queries. A prompt's answer may have several
tokens; only the prompt is edited. `tokens: all` adds the difference at every token of prompt and answer instead, as
engines with control vectors do (`decoding.interventions.control_vector`).

Differs from the released code in sources and choice are disjoint parts of one dev split, and their number is the
user's (the release averages 2 dummy queries and chooses on 50 dev sets); answers of several tokens; `add`,
`tokens` and `strength` (the release replaces the last state).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from decoding import Control, FitData, FittedMethod, FittedTensors, How, VectorEdit
from decoding.interventions import EVERYWHERE
from decoding.interventions.fit_data import best, common_share
from icl import END, ConfigError, Count, Site, Tensor, component, later_parameter


@component("intervention", "task_vector")
@dataclass(frozen=True)
class TaskVector(FittedMethod):
    """The mean last state of prompts with demonstrations, in place of the prompt's at one layer, or added to it.

    Controls: a random vector of equal norm, sources with shuffled answers, sources without demonstrations. A vector of
    another task is one more value of the axis with its own file.
    """

    layer: Count | None = None  # layer whose output is edited, from 0; null: the one that the fit chose
    how: How | None = None  # replace the state, or add the mean difference to it; null: as it was fitted
    tokens: Literal["end", "all"] = later_parameter("end")  # the prompt's last, or all of prompt and answer (how: add)

    tensor: ClassVar[str] = "states"
    min_sources: ClassVar[int] = 1

    def intervention(self) -> VectorEdit:
        layer, how = int(self.chosen("layer")), self.chosen("how")
        vectors = self.vectors
        if how == "add" and self.control == "random":
            difference = self.file.tensors["states"] - self.file.tensors["states.zero_shot"]
            vectors = self.random_vectors(difference)
        elif how == "add":
            vectors = vectors - self.file.tensors["states.zero_shot"]
        if not layer < len(vectors):
            raise ConfigError(f"{self.file.path} has vectors of {len(vectors)} layers, and layer is {layer}.")
        return self.edit(Site("residual", layer), vectors[layer], how, self.strength)

    def edit(self, site: Site, vector: Tensor, how: How, strength: float) -> VectorEdit:
        """The edit of one layer. Raises ConfigError if all states were replaced by one."""
        if how == "replace" and self.tokens == "all":
            raise ConfigError("tokens: all would replace every state by one vector. Set how: add.")
        return VectorEdit({site: vector}, how, strength, END if self.tokens == "end" else EVERYWHERE)

    def offers(self, control: Control) -> bool:
        is_off = control == "zero_shot" and self.chosen("how") == "add"  # the difference of a mean to itself
        return super().offers(control) and not is_off

    def fit(self, data: FitData) -> FittedTensors:
        sites = data.model.sites.all("residual")
        few_shot = data.states([one.prompt for one in data.sources], sites)
        zero_shot = data.states([one.without_demonstrations for one in data.sources], sites)
        states, before = few_shot.mean(0), zero_shot.mean(0)
        how = self.how or ("replace" if self.tokens == "end" else "add")
        tensors: dict[str, Tensor] = {"states": states, "states.zero_shot": before}
        if data.has_shuffled_sources:
            shuffled = data.states([one.with_shuffled_answers for one in data.sources], sites)
            tensors["states.shuffled"] = shuffled.mean(0)
        vectors = states if how == "replace" else states - before
        layers = range(len(sites)) if self.layer is None else [self.layer]
        edits = [(self.edit(sites[layer], vectors[layer], how, self.strength or 1.0),) for layer in layers]
        scores = dict(zip(layers, data.accuracies(edits), strict=True))
        layer = best(scores)
        report = {
            **data.reference_accuracies(),
            **data.shuffle_report(),
            "accuracy": {str(key): score for key, score in scores.items()},
            "common_share": common_share((few_shot - zero_shot)[:, layer]),
        }
        return FittedTensors(tensors, {"layer": layer, "how": how}, report)
