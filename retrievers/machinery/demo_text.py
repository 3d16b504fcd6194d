"""The text of a demonstration, and its words."""

import re
from typing import Literal

from icl.types import Example

TextField = Literal["answer", "question", "both"]

_WORD = re.compile(r"\w+")


def demo_text(example: Example, which: TextField) -> str:
    """The answer, the question, or the question followed by the answer."""
    return {
        "answer": example.answer,
        "question": example.question,
        "both": f"{example.question} {example.answer}",
    }[which]


def split_words(text: str) -> list[str]:
    """Lower-case word tokens in order, without a list of stop words."""
    return _WORD.findall(text.lower())
