"""Dynamic contrastive decoding (DCD, Zhu et al., 2410.03659): contrasts the more confident of image and text.

    scores = c_v z_v - c_t z_t    if c_v >= c_t        v: with the image, t: text alone
             c_t z_t - c_v z_v    otherwise            c: probability of the best option

The contrast is used only if the best options of the two branches differ. Otherwise the reference is unchanged. As
released, one contrast is made over the answer options (`granularity: options`). `granularity: tokens` is a
reconstruction that contrasts over the vocabulary at every step; text is always generated in this way. There is no mask.

The text branch names what the image shows: "This is an image of {entity}." The paper takes the entity from the data set
and keeps the items whose entity the model recognizes. Here the model is asked, which is the same on those items.

`dcd_prompt` is the prompt strategy of DCD for models without logits: a hint that two answers differ.

The model answers twice: with the image, and by the text alone, which names what the image shows (`dcd`). If the answers
differ, a hint follows the question, and the model answers again. If they are equal, the prompt is unchanged.

    reminder    "Be aware that your visual memory might differ from your text memory, causing a conflict in your
                knowledge."
    answer      the same, and "Your text memory is: {text answer} and your visual memory is: {visual answer}."

Answers count as equal if they differ only in case, blanks or a final period. The released code compares the parsed
letters of four options. The paper reports losses on small models and gains on large ones.

Differs from the released code in the comparison of answers (best options here; there parsed texts, where two texts that
cannot be parsed are equal), in the entity (see above), and in `granularity: tokens`: the released gate by divergence
never opens, because `kl_div` gets probabilities.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from decoding import GatedStrategy, Generate, Note, StepState, Strategy, Traits, remove_query_image, wrap_question
from icl import Part, PositiveInt, Prompt, Tensor, Turn, component, normalize_text, spans

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
        return (image_weight + text_weight).where(self._differ(logits), 1.0)

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


REMINDER = "Be aware that your visual memory might differ from your text memory, causing a conflict in your knowledge."
ANSWERS = "Your text memory is: {text} and your visual memory is: {visual}."


@component("strategy", "dcd_prompt")
@dataclass(frozen=True)
class DCDPrompt(Strategy):
    """A hint in the prompt if the answers from image and text differ. Runs on models without logits too."""

    weights: ClassVar[tuple[float, float]] = (0.0, 1.0)

    hint: Literal["answer", "reminder"] = "answer"  # names both answers, or reminds of a possible conflict only
    entity: Literal["recognized", "none"] = "recognized"  # whether the text alone names what the model recognizes
    instruction: str = INSTRUCTION  # asks the model for the entity
    max_new_tokens: PositiveInt = 16  # length limit of the entity and of both first answers

    traits = Traits(needs=frozenset({"generate"}), rewrites_prompt=True)

    def prepare(self, prompts: Sequence[Prompt], generate: Generate) -> Sequence[str]:
        """The hint for each prompt; '' if both answers are equal."""
        contrast = DCD(entity=self.entity, instruction=self.instruction, max_new_tokens=self.max_new_tokens)
        entities = contrast.prepare(prompts, generate)
        texts = [contrast.branches(prompt, entity)[1] for prompt, entity in zip(prompts, entities, strict=True)]
        answers = [answer.strip() for answer in generate([*prompts, *texts], self.max_new_tokens)]
        pairs = zip(answers[: len(prompts)], answers[len(prompts) :], strict=True)
        return [self._hint(visual, text) for visual, text in pairs]

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        """The prompt, and the prompt with the hint. note: the hint."""
        return prompt, wrap_question(prompt, after=f" {note}") if note else prompt

    def combine(self, logits: Tensor, step: int) -> Tensor:
        return logits[1]

    def _hint(self, visual: str, text: str) -> str:
        if normalize_text(visual) == normalize_text(text):
            return ""
        return REMINDER if self.hint == "reminder" else f"{REMINDER} {ANSWERS.format(text=text, visual=visual)}"
