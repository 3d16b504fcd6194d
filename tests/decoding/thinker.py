"""A toy model that writes reasoning blocks, with a tokenizer whose tokens are words."""

from typing import Any

from icl.types import Prompt
from tests.decoding.toy import STOP, Toy

OPENING, CLOSING, SIZE = 1, 2, 8
WORDS = {OPENING: "<think>", CLOSING: "</think>", STOP: "<eos>"}


class WordTokenizer:
    """A tokenizer whose tokens are words. Its end token and, if `special`, its markers are not in a plain text."""

    def decode(self, ids: list[int]) -> str:
        return " ".join(WORDS.get(i, chr(ord("a") + i)) for i in ids)

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return [next(i for i, word in WORDS.items() if word == one) for one in text.split()]


class Thinker(Toy):
    """A toy that likes to think. special: whether its markers are special tokens."""

    tokenizer = WordTokenizer()

    def __init__(self, special: bool = False, opened: bool = False, closes: float = 0.0) -> None:
        super().__init__(vocabulary=SIZE)
        self.special, self.opened, self.closes = special, opened, closes

    def render(self, one: Prompt) -> str:
        return f"{one.text} <think>\n" if self.opened else one.text

    def logits_of(self, rows: Any) -> Any:
        logits = super().logits_of(rows)
        for row, values in zip(rows, logits, strict=True):
            values[OPENING] = 9.0 if not row.tokens and not self.opened else -9.0
            values[CLOSING] += self.closes
        return logits

    def text(self, tokens: Any) -> str:
        return self.tokenizer.decode([t for t in tokens if not (self.special and t in (OPENING, CLOSING))])
