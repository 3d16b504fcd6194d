"""Dynamic contrastive decoding (DCD, Zhu et al., 2410.03659): contrasts the more confident of image and text.

    scores = c_v z_v - c_t z_t    if c_v >= c_t        v: with the image, t: text alone
             c_t z_t - c_v z_v    otherwise            c: probability of the best option

The contrast is used only if the best options of the two branches differ. Otherwise the reference is unchanged. As
released, one contrast is made over the answer options (`granularity: options`). `granularity: tokens` is a
reconstruction that contrasts over the vocabulary at every step; text is always generated in this way. There is no mask.

The text branch names what the image shows: "This is an image of {entity}." The paper takes the entity from the data set
and keeps the items whose entity the model recognizes. Here the model is asked, which is the same on those items.

Differs from the released code in the comparison of answers (best options here; there parsed texts, where two texts that
cannot be parsed are equal), in the entity (see above), and in `granularity: tokens`: the released gate by divergence
never opens, because `kl_div` gets probabilities.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from decoding import GatedStrategy, Generate, Note, StepState, Traits, remove_query_image, wrap_question
from icl import Part, PositiveInt, Prompt, Tensor, Turn, component, spans

INSTRUCTION = "What is in the image? Just give a named entity."


@component("strategy", "dcd")
@dataclass(frozen=True)
class DCD(GatedStrategy):
    """Contrast of image and text, in favor of the more confident one, where their answers differ."""

    weights: ClassVar[None] = None

    granularity: Literal["options", "tokens"] = "options"  # what option scoring combines: whole options, or tokens
    direction: Literal["dynamic", "image", "text"] = "dynamic"  # which branch is favored; dynamic: the more confident
    entity: Literal["recognized", "none"] = "recognized"  # whether the text branch names what the model recognizes
    instruction: str = INSTRUCTION  # asks the model for the entity
    max_new_tokens: PositiveInt = 16  # length limit of the entity

    @property
    def traits(self) -> Traits:
        needs = {"generate", "logits"} if self.entity == "recognized" else {"logits"}
        return Traits(needs=frozenset(needs), combines_options=self.granularity == "options")

    def prepare(self, prompts: Sequence[Prompt], generate: Generate) -> Sequence[str]:
        """What the model recognizes in each query's images; '' without images."""
        if self.entity == "none":
            return [""] * len(prompts)
        images = [tuple(p for p in prompt.parts() if p.image and p.within("query")) for prompt in prompts]
        instruction = Part(self.instruction, spans.QUESTION)
        questions = [Prompt((Turn("user", (*parts, instruction)),)) for parts in images if parts]
        answers = iter(generate(questions, self.max_new_tokens) if questions else [])
        return [next(answers).strip().rstrip(".") if parts else "" for parts in images]

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        """The prompt, and its text alone. note: the entity."""
        text = remove_query_image(prompt)
        return prompt, wrap_question(text, before=f"This is an image of {note}. ") if note else text

    def gate(self, logits: Tensor, step: int) -> Tensor:
        """Whether the text branch is more confident."""
        image, text = _confidence(logits)
        return text > image

    def gated_scores(self, logits: Tensor, step: int, gate: Tensor, states: Sequence[StepState]) -> Tensor:
        image, text = logits
        image_weight, text_weight = self._weights(logits, gate)
        scores: Tensor = image_weight * image + text_weight * text
        return scores.where(self._differ(logits), image)

    def strength(self, logits: Tensor, step: int) -> Tensor:
        image_weight, text_weight = self._weights(logits, self.gate(logits, step))
        total: Tensor = (image_weight + text_weight).where(self._differ(logits), 1.0)
        return total

    def _weights(self, logits: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
        image, text = _confidence(logits)
        if self.direction != "dynamic":
            gate = gate.new_full(gate.shape, self.direction == "text")
        return image.where(~gate, -image), text.where(gate, -text)

    def _differ(self, logits: Tensor) -> Tensor:
        best = logits.argmax(-1, keepdim=True)
        return best[0] != best[1]


def _confidence(logits: Tensor) -> tuple[Tensor, Tensor]:
    image, text = logits.softmax(-1).amax(-1, keepdim=True)
    return image, text
