"""Composers without a template: interleaved text in one turn, a chat turn for each demonstration, and blocks."""

from dataclasses import dataclass
from typing import Literal

from icl import Context, Demo, Part, Query, Turn, component, spans
from prompts import BaseComposer, First, Level, pieces


@component("composer", "interleaved")
@dataclass(frozen=True)
class Interleaved(BaseComposer):
    r"""A composer of one user turn of question-answer blocks. The query's block ends with 'Answer:'.

    Demonstrations and query in one user turn and in the same form: the few-shot prompt of Flamingo.

        first: image    [image]Question: {q}\nAnswer: {a}\n\n   ...   [image]Question: {q}\nAnswer:
        first: text       Question: {q}\n[image]\nAnswer: {a}\n\n   ...   Question: {q}\n[image]\nAnswer:

    An example without a question has only its images and its answer.
    """

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


@component("composer", "chat")
@dataclass(frozen=True)
class Chat(BaseComposer):
    r"""A composer with a user turn and an assistant turn for each demonstration, then the query's user turn.

    Demonstrations as turns of a conversation, the format that chat models were trained on.

        user: [instruction\n][image][question]   assistant: [answer]   ...   user: [image][question]

    The number of shots is the number of assistant turns. The instruction occurs once, at the start.
    """

    first: First = "image"  # first piece of a user turn
    instruction: Level = "none"  # length of the standard instruction, at the start of the first user turn
    instruction_text: str | None = None  # custom instruction instead
    delimiter: str = ""  # text between images and question of a turn

    def __post_init__(self) -> None:
        pieces.check_instruction(self.instruction, self.instruction_text, "chat")

    def turns(self, context: Context) -> list[Turn]:
        turns: list[Turn] = []
        for name, demo in pieces.named(context):
            turns += [Turn("user", self._user_parts(demo, name)), Turn("assistant", (pieces.answer(demo, name),))]
        turns.append(Turn("user", self._user_parts(context.query, spans.QUERY)))
        instruction = pieces.instruction(self.instruction, self.instruction_text)
        turns[0] = Turn("user", instruction + turns[0].parts)
        return turns

    def _user_parts(self, of: Demo | Query, name: str) -> tuple[Part, ...]:
        images, question = pieces.images(of, name), pieces.question(of, name)
        between = (Part(self.delimiter),) if self.delimiter and images and question else ()
        whole = images + between + question if self.first == "image" else question + between + images
        return whole or (Part(""),)  # transforms may remove everything, but the turn stays


@component("composer", "blocks")
@dataclass(frozen=True)
class Blocks(BaseComposer):
    r"""A composer of one user turn of blocks. Order, delimiters and place of the instruction are parameters.

    The factors of a prompt as parameters (What Factors Affect Multi-Modal ICL?, Qin et al., NeurIPS 2024).

    The prompt is one user turn of blocks. Each block has image (p), question (q) and answer (a) in one of six orders.
    The paper uses pqa (image, text, output), qpa and qap. A question is "[REQUEST] ..." and an answer "[RESPONSE] ...",
    each on its own line:

        pqa   [image][REQUEST] {q}\n[RESPONSE] {a}\n\n   ...   [image][REQUEST] {q}\n[RESPONSE]

    The query keeps the order of image and question and ends where its answer belongs. So if a demonstration's answer
    comes before its image or question, the query's pattern differs from the demonstrations'. The paper does not say
    what it did.

    The instruction comes at the head (introductory), at the tail (summative: between the query's question and the place
    for its answer), or before every block (within). Its first occurrence is the span `instruction`.

    No released code was compared.
    """

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
