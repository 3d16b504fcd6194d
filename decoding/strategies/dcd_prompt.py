"""Prompt strategies of DCD (Zhu et al., 2410.03659), for models without logits: a hint that two answers differ.

The model answers twice: with the image, and by the text alone, which names what the image shows (`dcd`). If the answers
differ, a hint follows the question, and the model answers again. If they are equal, the prompt is unchanged.

    reminder    "Be aware that your visual memory might differ from your text memory, causing a conflict in your
                knowledge."
    answer      the same, and "Your text memory is: {text answer} and your visual memory is: {visual answer}."

Answers count as equal if they differ only in case, blanks or a final period. The released code compares the parsed
letters of four options. The paper reports losses on small models and gains on large ones.

Differs from the released code in the comparison of answers and in the entity (see `dcd`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from decoding import Generate, Note, Strategy, Traits, wrap_question
from decoding.strategies.dcd import DCD, INSTRUCTION
from icl import PositiveInt, Prompt, Tensor, component, normalize_text

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
