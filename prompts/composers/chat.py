"""Demonstrations as turns of a conversation, the format that chat models were trained on.

    user: [instruction\\n][image][question]   assistant: [answer]   ...   user: [image][question]

The number of shots is the number of assistant turns. The instruction occurs once, at the start.
"""

from dataclasses import dataclass

from icl import Context, Demo, Part, Query, Turn, component, spans
from prompts import BaseComposer, First, Level, pieces


@component("composer", "chat")
@dataclass(frozen=True)
class Chat(BaseComposer):
    """A composer with a user turn and an assistant turn for each demonstration, then the query's user turn."""

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
