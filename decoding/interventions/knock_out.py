"""Attention from some tokens to others is cut in some layers: the causal test of an information flow.

Wang et al., Label Words are Anchors: An Information Flow Perspective for Understanding In-Context Learning, EMNLP 2023
(arXiv 2305.14160), cuts it between the labels of demonstrations and other tokens. Geva et al., Dissecting Recall of
Factual Associations in Auto-Regressive Language Models, EMNLP 2023 (arXiv 2304.14767), names it attention knock-out.

    s' = -inf for the keys, at the tokens, in the layers. A token keeps its own key.

As an axis, `grid: {intervene.layers: [[0], [1], [2], [3]]}` has the accuracy by layer.

Differs from the released code in the spans: parts of prompts by their names instead of positions of label words.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from decoding import RandomTokens, ScoreMethod, attention_problem, check_span_names, names_images, score_sites
from decoding.interventions.attention_edits import CutScores
from icl import Count, Model, Prompt, Site, Where, component, steer
from icl.models.hf.model import HF


@component("intervention", "knock_out")
@dataclass(frozen=True)
class KnockOut(ScoreMethod):
    """A cut of attention from some tokens of a prompt to others, in some layers.

    Control: as many random other tokens are cut, all others if they are fewer.
    """

    tokens: str = "end"  # tokens that no longer attend: end (the last one), all, a group or a name of a part
    keys: tuple[str, ...] = ("demo_answers",)  # groups or names of parts that they no longer attend to
    layers: tuple[int, ...] | None = None  # layers of the cut; negative: from the top; null: all; []: off
    control: RandomTokens = "none"  # as many random other tokens in place of the keys
    draw: Count = 0  # number of the random draw of the control

    def __post_init__(self) -> None:
        check_span_names("tokens", [self.tokens], ("end", "all"))
        check_span_names("keys", self.keys)

    @property
    def neutral(self) -> bool:
        return self.layers == () or not self.keys

    @property
    def acts_on_output(self) -> bool:
        return self.tokens in ("end", "all")

    @property
    def revision(self) -> int:
        return 2 if names_images([self.tokens]) else super().revision

    def model_problem(self, model: Model) -> str | None:
        return attention_problem(model, [self.tokens]) or super().model_problem(model)

    @property
    def min_shots(self) -> int:
        return int(all(key.startswith("demo") for key in self.keys))

    def check(self, model: HF) -> None:
        self._sites(model)

    def steered(self, prompts: Sequence[Prompt], model: HF) -> Sequence[Prompt]:
        where = Where(self.tokens, "both" if self.acts_on_output else "prompt")
        edit = CutScores(self._sites(model), self.edited_keys(own=False), where)
        return [steer(prompt, edit) for prompt in prompts]

    def _sites(self, model: HF) -> tuple[Site, ...]:
        if self.layers is None:
            return score_sites(model, 0, -1)
        return tuple(model.sites.resolve(Site("scores", layer)) for layer in self.layers)
