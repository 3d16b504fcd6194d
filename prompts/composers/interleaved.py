"""Demonstrations and query in one user turn and in the same form: the few-shot prompt of Flamingo.

    first: image    [image]Question: {q}\\nAnswer: {a}\\n\\n   ...   [image]Question: {q}\\nAnswer:
    first: text       Question: {q}\\n[image]\\nAnswer: {a}\\n\\n   ...   Question: {q}\\n[image]\\nAnswer:

An example without a question has only its images and its answer.
"""

from dataclasses import dataclass

from icl import Context, Demo, Part, Query, Turn, component, spans
from prompts import BaseComposer, First, Level, pieces


@component("composer", "interleaved")
@dataclass(frozen=True)
class Interleaved(BaseComposer):
    """A composer of one user turn of question-answer blocks. The query's block ends with 'Answer:'."""

    first: First = "image"  # first piece of a block
    instruction: Level = "none"  # length of the standard instruction, before the first block
    instruction_text: str | None = None  # custom instruction instead
    delimiter: str = "\n\n"  # text after each demonstration

    def __post_init__(self) -> None:
        pieces.check_instruction(self.instruction, self.instruction_text, "interleaved")

    def turns(self, context: Context) -> tuple[Turn]:
        parts = list(pieces.instruction(self.instruction, self.instruction_text))
        for name, demo in pieces.named(context):
            parts += [*self._block(demo, name), Part(" "), pieces.answer(demo, name), Part(self.delimiter)]
        parts += self._block(context.query, spans.QUERY)
        return (Turn("user", tuple(part for part in parts if part.content != "")),)

    def _block(self, of: Demo | Query, name: str) -> list[Part]:
        images, question = pieces.images(of, name), pieces.question(of, name)
        if question:
            question = (Part("Question: "), *question, Part("\n"))
        if self.first == "image":
            return [*images, *question, Part("Answer:")]
        return [*question, *images, Part("\n"), Part("Answer:")]
