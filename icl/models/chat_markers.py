"""Chat markers within data: a model would read '<|im_start|>' in a question as the beginning of a turn.

A tokenizer turns its special tokens into single ids wherever they occur, and a chat template inserts data unchanged.
So a question or an answer with a special token can forge a turn, an end of text or an image placeholder. Such a sample
is refused. The experimenter's own text (instructions, separators of a composer) may contain markers.
"""

import re
from collections.abc import Iterator
from typing import Any

from icl import ModelError, Part, Prompt

TURN_MARKERS = re.compile(r"<\|[A-Za-z0-9_-]+\|>|</?(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>")
"""Common turn markers, for endpoints with an unknown tokenizer."""


def marker_pattern(tokenizer: Any, placeholder: str = "") -> re.Pattern[str] | None:
    """A pattern of the tokenizer's special tokens, the longest first. None if it has no special tokens.

    The unknown token is left out: its text is the same token as any other unknown word.

    Args:
        tokenizer: A `transformers` tokenizer.
        placeholder: The image placeholder, which is checked elsewhere.
    """
    added = getattr(tokenizer, "added_tokens_decoder", {}) or {}
    markers = {str(token) for token in tokenizer.all_special_tokens}
    markers |= {str(token.content) for token in added.values() if token.special}
    markers -= {placeholder, str(tokenizer.unk_token)}
    words = sorted((word for word in markers if word.strip()), key=lambda word: (-len(word), word))
    return re.compile("|".join(map(re.escape, words))) if words else None


def check_markers(prompt: Prompt, markers: re.Pattern[str] | None, where: str) -> None:
    """Raise ModelError if data contains a marker, alone or together with the neighboring text."""
    if markers is None:
        return
    for run in _runs(prompt):
        whole = "".join(str(part.text) for part in run)
        for match in markers.finditer(whole):
            if part := _of_data(run, *match.span()):
                raise ModelError(
                    f"{where}: the text of {part.name} contains {match[0]!r}, which the model reads as a special "
                    "token (of a turn, of the end, or of an image), not as text. Remove it from the data, or rewrite "
                    "it."
                )


def _runs(prompt: Prompt) -> Iterator[list[Part]]:
    """Runs of neighboring texts in a turn, which templates receive as one."""
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
    """The first part of the data that overlaps the characters from `start` to `end`."""
    place = 0
    for part in run:
        size = len(str(part.text))
        if place < end and place + size > start and (part.within("query") or part.within("demos")):
            return part
        place += size
    return None
