"""The factors of a prompt as parameters (What Factors Affect Multi-Modal ICL?, Qin et al., NeurIPS 2024).

The prompt is one user turn of blocks. Each block has image (p), question (q) and answer (a) in one of six orders. The
paper uses pqa (image, text, output), qpa and qap. A question is "[REQUEST] ..." and an answer "[RESPONSE] ...", each on
its own line:

    pqa   [image][REQUEST] {q}\\n[RESPONSE] {a}\\n\\n   ...   [image][REQUEST] {q}\\n[RESPONSE]

The query keeps the order of image and question and ends where its answer belongs. So if a demonstration's answer comes
before its image or question, the query's pattern differs from the demonstrations'. The paper does not say what
it did.

The instruction comes at the head (introductory), at the tail (summative: between the query's question and the place for
its answer), or before every block (within). Its first occurrence is the span `instruction`.

No released code was compared.
"""

from dataclasses import dataclass
from typing import Literal

from icl import Context, Demo, Part, Query, Turn, component, spans
from prompts import BaseComposer, Level, pieces


@component("composer", "blocks")
@dataclass(frozen=True)
class Blocks(BaseComposer):
    """A composer of one user turn of blocks. Order, delimiters and place of the instruction are parameters."""

    order: Literal["pqa", "qpa", "qap", "paq", "apq", "aqp"] = "pqa"  # order of image, question and answer in a block
    instruction: Level = "none"  # length of the standard instruction
    instruction_text: str | None = None  # custom instruction instead
    instruction_at: Literal["head", "tail", "within"] = "head"  # place of the instruction
    request: str = "[REQUEST] "  # text before a question
    response: str = "[RESPONSE] "  # text before an answer
    delimiter: str = "\n"  # text after each demonstration

    def __post_init__(self) -> None:
        pieces.check_instruction(self.instruction, self.instruction_text, "blocks")

    def turns(self, context: Context) -> tuple[Turn]:
        instruction = pieces.instruction(self.instruction, self.instruction_text)
        repeated = tuple(Part(part.content) for part in instruction)
        parts = [*instruction] if self.instruction_at == "head" else []
        for name, demo in pieces.named(context):
            if self.instruction_at == "within":
                parts += instruction if not parts else repeated
            parts += [*self._block(demo, name), Part(self.delimiter)]
        if self.instruction_at == "within":
            parts += instruction if not parts else repeated
        parts += self._block(context.query, spans.QUERY)
        if self.instruction_at == "tail":
            parts += instruction
        parts.append(Part(self.response.rstrip()))
        return (Turn("user", tuple(part for part in parts if part.content != "")),)

    def _block(self, of: Demo | Query, name: str) -> list[Part]:
        """The pieces in order, each text on its own line. An image that does not begin the block also ends its line."""
        parts: list[Part] = []
        for piece in self.order:
            if piece == "p":
                images = pieces.images(of, name)
                parts += [*images, *([Part("\n")] if images and parts else [])]
            elif piece == "q":
                question = pieces.question(of, name)
                parts += [Part(self.request), *question, Part("\n")] if question else []
            elif isinstance(of, Demo):
                parts += [Part(self.response), pieces.answer(of, name), Part("\n")]
        return parts
