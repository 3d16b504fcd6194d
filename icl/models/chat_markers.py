"""Marks of a chat within data: '<|im_start|>' in a question would be read as the beginning of a turn, and be obeyed.

A tokenizer knows its marks as single tokens wherever they stand in a text, and a template writes data as it is. So a
question or an answer that holds one can forge a turn, an end of text or the place of an image. Such a sample is
refused. What is the experimenter's own (instructions, the glue of a composer) may hold marks: it is meant so.
"""

import re
from collections.abc import Iterator
from typing import Any

from icl.errors import ModelError
from icl.types import Part, Prompt

SAID = re.compile(r"<\|[A-Za-z0-9_-]+\|>|</?(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>")
"""Marks of turns that a checkpoint behind an endpoint may know; which it does cannot be asked."""


def marks_of(tokenizer: Any, known: str = "") -> re.Pattern[str] | None:
    """Every special token of a tokenizer, the longest first. known: one that is looked after elsewhere.

    Not the unknown word: its text is the same token as any other unknown word.
    """
    added = getattr(tokenizer, "added_tokens_decoder", {}) or {}
    found = {str(token) for token in tokenizer.all_special_tokens}
    found |= {str(token.content) for token in added.values() if token.special}
    found -= {known, str(tokenizer.unk_token)}
    words = sorted((word for word in found if word.strip()), key=lambda word: (-len(word), word))
    return re.compile("|".join(map(re.escape, words))) if words else None


def check_marks(prompt: Prompt, marks: re.Pattern[str] | None, where: str) -> None:
    """Raises ModelError where a text of the data holds a mark, also one that it makes with the text beside it."""
    if marks is None:
        return
    for run in _runs(prompt):
        whole = "".join(str(part.text) for part in run)
        for found in marks.finditer(whole):
            if part := _of_data(run, *found.span()):
                raise ModelError(
                    f"{where}: the text of {part.name} contains {found[0]!r}, which the model reads as a mark of its "
                    "own (of a turn, of the end, or of an image) and not as text. Take it out of the data, or write "
                    "it otherwise."
                )


def _runs(prompt: Prompt) -> Iterator[list[Part]]:
    """Texts that stand side by side in a turn, as templates get them."""
    for turn in prompt.turns:
        run: list[Part] = []
        for part in turn.parts:
            if part.text is not None:
                run.append(part)
            elif run:
                yield run
                run = []
        if run:
            yield run


def _of_data(run: list[Part], start: int, end: int) -> Part | None:
    """The first part of the data that has a letter of the mark."""
    place = 0
    for part in run:
        size = len(str(part.text))
        if place < end and place + size > start and (part.within("query") or part.within("demos")):
            return part
        place += size
    return None
