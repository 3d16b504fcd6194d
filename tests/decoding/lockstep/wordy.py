"""A strategy whose second branch is longer than any context of the tests."""

from dataclasses import dataclass, replace

from decoding.base import Note, Strategy
from icl.types import Prompt


@dataclass(frozen=True)
class Wordy(Strategy):
    """The prompt, and the prompt with many more words."""

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        return prompt, prompt.map(lambda part: part if part.image else replace(part, content="very long " * 200))
