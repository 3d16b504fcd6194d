"""Decoding under knowledge conflict (DCD, Zhu et al., 2410.03659): the surer of sight and text, away from the other.

    scores = c_v z_v - c_t z_t    where c_v >= c_t        v: with the image, t: text alone
             c_t z_t - c_v z_v    otherwise               c: the best option's probability among the options

Only where the two answers differ; where they agree, that answer stands. As released, once, over the answer options
(`granularity: options`); `granularity: tokens` is a reconstruction in which every step is decided over the vocabulary,
in the token loop always. No mask.

The text branch names what the image shows: "This is an image of {entity}." The paper takes the entity from the data
and keeps the items where the model itself recognizes it; here the model is asked, which on those items is the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from decoding.arms.gated import GatedStrategy
from decoding.base import Generate, Note, StepState
from decoding.prompt_edits import remove_query_image, wrap_question
from decoding.traits import Traits
from icl import spans
from icl.constraints import PositiveInt
from icl.registry import component
from icl.types import Part, Prompt, Turn

if TYPE_CHECKING:
    from torch import Tensor

RECOGNISE = "What is in the image? Just give a named entity."


@component("strategy", "dcd")
@dataclass(frozen=True)
class DCD(GatedStrategy):
    """Where image and text disagree, the surer of both, away from the other."""

    granularity: Literal["options", "tokens"] = "options"  # what option scoring hands it
    direction: Literal["surer", "seen", "text"] = "surer"  # which is contrasted; the others are its controls
    entity: Literal["asked", "none"] = "asked"  # whether the text branch says what the model saw
    ask: str = RECOGNISE  # how the model is asked
    tokens: PositiveInt = 16  # most tokens of its answer

    @property
    def traits(self) -> Traits:
        needs = {"generate", "logits"} if self.entity == "asked" else {"logits"}
        return Traits(needs=frozenset(needs), combines_options=self.granularity == "options")

    @property
    def weights(self) -> None:
        return None

    def prepare(self, prompts: Sequence[Prompt], generate: Generate) -> Sequence[str]:
        """What the model recognizes in each query's images; '' without one."""
        if self.entity == "none":
            return [""] * len(prompts)
        shown = [tuple(p for p in prompt.parts() if p.image and p.within("query")) for prompt in prompts]
        questions = [Prompt((Turn("user", (*seen, Part(self.ask, spans.QUESTION))),)) for seen in shown if seen]
        answers = iter(generate(questions, self.tokens) if questions else [])
        return [next(answers).strip().rstrip(".") if seen else "" for seen in shown]

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        """note: what `prepare` gave."""
        text = remove_query_image(prompt)
        return prompt, wrap_question(text, before=f"This is an image of {note}. ") if note else text

    def gate(self, logits: "Tensor", step: int) -> "Tensor":
        """Whether the text leads."""
        seen, text = _confidence(logits)
        return text > seen

    def gated_scores(self, logits: "Tensor", step: int, gate: "Tensor", states: Sequence[StepState]) -> "Tensor":
        seen, text = logits
        weight, text_generation = self._weights(logits, gate)
        scores: Tensor = weight * seen + text_generation * text
        return scores.where(self._differ(logits), seen)

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        weight, text_generation = self._weights(logits, self.gate(logits, step))
        total: Tensor = (weight + text_generation).where(self._differ(logits), 1.0)
        return total

    def _weights(self, logits: "Tensor", gate: "Tensor") -> "tuple[Tensor, Tensor]":
        seen, text = _confidence(logits)
        if self.direction != "surer":
            gate = gate.new_full(gate.shape, self.direction == "text")
        return seen.where(~gate, -seen), text.where(gate, -text)

    def _differ(self, logits: "Tensor") -> "Tensor":
        best = logits.argmax(-1, keepdim=True)
        return best[0] != best[1]


def _confidence(logits: "Tensor") -> "tuple[Tensor, Tensor]":
    seen, text = logits.softmax(-1).amax(-1, keepdim=True)
    return seen, text
