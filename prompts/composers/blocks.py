"""The factors of a prompt as parameters (What Factors Affect Multi-Modal ICL?, Qin et al., NeurIPS 2024).

One user turn of blocks. Each shows image (p), question (q) and answer (a) in one of six orders; the paper's are pqa
(image, text, output), qpa and qap. A question is "[REQUEST] ...", an answer "[RESPONSE] ...", each on its own line:

    pqa   [image][REQUEST] {q}\\n[RESPONSE] {a}\\n\\n   ...   [image][REQUEST] {q}\\n[RESPONSE]

The query keeps the order of image and question and ends in the place for its answer, so where a demonstration's
answer stands before its image or question the query's pattern is not theirs; the paper does not say what it did.

The instruction stands at the head (introductory), at the tail (summative: after the query's question, before the place
for the answer) or within (before every block). It is the span `instruction` where it stands first.
"""

from dataclasses import dataclass
from typing import Literal

from icl import spans
from icl.registry import component
from icl.types import Context, Demo, Part, Prompt, Query, Turn
from prompts import pieces
from prompts.pieces import Level


@component("composer", "blocks")
@dataclass(frozen=True)
class Blocks:
    """One user turn of blocks whose inner order, delimiters and place of the instruction are parameters."""

    order: Literal["pqa", "qpa", "qap", "paq", "apq", "aqp"] = "pqa"  # of image, question and answer in a block
    instruction: Level = "none"  # what it says
    instruction_text: str | None = None  # an instruction in one's own words instead
    instruction_at: Literal["head", "tail", "within"] = "head"  # where it stands
    request: str = "[REQUEST] "  # before a question
    response: str = "[RESPONSE] "  # before an answer
    delimiter: str = "\n"  # after each demonstration

    def __post_init__(self) -> None:
        pieces.check_instruction(self.instruction, self.instruction_text, "blocks")

    def compose(self, context: Context) -> Prompt:
        told = pieces.instruction(self.instruction, self.instruction_text)
        again = tuple(Part(part.content) for part in told)
        parts = [*told] if self.instruction_at == "head" else []
        for name, demo in pieces.named(context):
            if self.instruction_at == "within":
                parts += told if not parts else again
            parts += [*self._block(demo, name), Part(self.delimiter)]
        if self.instruction_at == "within":
            parts += told if not parts else again
        parts += self._block(context.query, spans.QUERY)
        if self.instruction_at == "tail":
            parts += told
        parts.append(Part(self.response.rstrip()))
        return Prompt((Turn("user", tuple(part for part in parts if part.content != "")),), context.key)

    def _block(self, of: Demo | Query, name: str) -> list[Part]:
        """Its pieces in order, each text on a line; an image that does not begin the block ends its line too."""
        found: list[Part] = []
        for piece in self.order:
            if piece == "p":
                seen = pieces.images(of, name)
                found += [*seen, *([Part("\n")] if seen and found else [])]
            elif piece == "q":
                asked = pieces.question(of, name)
                found += [Part(self.request), *asked, Part("\n")] if asked else []
            elif isinstance(of, Demo):
                found += [Part(self.response), pieces.answer(of, name), Part("\n")]
        return found
