"""Everything in one user turn, demonstrations and query in the same form: the few-shot prompt of Flamingo and its kin.

    first: image    [image]Question: {q}\\nAnswer: {a}\\n\\n   ...   [image]Question: {q}\\nAnswer:
    first: text       Question: {q}\\n[image]\\nAnswer: {a}\\n\\n   ...   Question: {q}\\n[image]\\nAnswer:

An example without a question has its images and its answer alone.
"""

from dataclasses import dataclass

from icl import spans
from icl.registry import component
from icl.types import Context, Demo, Part, Prompt, Query, Turn
from prompts import pieces
from prompts.pieces import First, Level


@component("composer", "interleaved")
@dataclass(frozen=True)
class Interleaved:
    """One user turn of question-and-answer blocks; the query's block stops at 'Answer:'."""

    first: First = "image"  # what a block begins with
    instruction: Level = "none"  # stands before the first block
    instruction_text: str | None = None  # an instruction in one's own words instead
    delimiter: str = "\n\n"  # after each demonstration

    def __post_init__(self) -> None:
        pieces.check_instruction(self.instruction, self.instruction_text, "interleaved")

    def compose(self, context: Context) -> Prompt:
        parts = list(pieces.instruction(self.instruction, self.instruction_text))
        for name, demo in pieces.named(context):
            parts += [*self._asked(demo, name), Part(" "), pieces.answer(demo, name), Part(self.delimiter)]
        parts += self._asked(context.query, spans.QUERY)
        return Prompt((Turn("user", tuple(part for part in parts if part.content != "")),), context.key)

    def _asked(self, of: Demo | Query, name: str) -> list[Part]:
        seen, asked = pieces.images(of, name), pieces.question(of, name)
        if asked:
            asked = (Part("Question: "), *asked, Part("\n"))
        if self.first == "image":
            return [*seen, *asked, Part("Answer:")]
        return [*asked, *seen, Part("\n"), Part("Answer:")]
