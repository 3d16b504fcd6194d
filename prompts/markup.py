"""Text with placeholders for the pieces of a prompt, and its conversion to a prompt.

A placeholder is a piece's name between two NUL characters, which no text contains. White space around the placeholder
of a turn belongs to no turn.
"""

import re
from collections import Counter
from collections.abc import Mapping
from typing import cast

from icl.errors import ConfigError
from icl.types import Context, Part, Prompt, Role, Turn

NUL = "\x00"
ROLES = ("user", "assistant")


class Mark(str):
    """The placeholder of a piece. number: index of an image within the prompt, from 0."""

    __slots__ = ("number",)
    number: int

    @classmethod
    def of(cls, name: str, number: int = 0) -> "Mark":
        mark = cls(f"{NUL}{name}{NUL}")
        mark.number = number
        return mark


def role_mark(role: str) -> Mark:
    """The placeholder that begins a turn."""
    return Mark.of(f"@{role}")


def prompt_of(text: str, parts: Mapping[str, Part], context: Context, who: str) -> Prompt:
    """The prompt of a marked text. Raises ConfigError unless it has each part once and ends with a user turn."""
    at = f"{who}, query '{context.query.id}'"
    roles = "|".join(ROLES)
    pieces = re.split(f"{NUL}([^{NUL}]*){NUL}", re.sub(rf"\s*({NUL}@(?:{roles}){NUL})\s*", r"\1", text))
    turns: list[tuple[Role, list[Part]]] = [("user", [])]
    for i, piece in enumerate(pieces):
        if i % 2 == 0:
            if NUL in piece:
                raise ConfigError(f"{at}: a filter changed a piece. Images, questions and answers must stay unchanged.")
            if piece:
                turns[-1][1].append(Part(piece))
        elif piece.removeprefix("@") in ROLES and piece.startswith("@"):
            turns.append((cast(Role, piece[1:]), []))
        elif piece in parts:
            turns[-1][1].append(parts[piece])
        else:
            raise ConfigError(f"{at}: a filter changed a piece into '{piece}'. Pieces must stay unchanged.")
    _check(Counter(piece for piece in pieces[1::2]), parts, at)
    filled = tuple(Turn(role, tuple(parts)) for role, parts in turns if parts)
    if not filled or filled[-1].role != "user":
        raise ConfigError(
            f"{at}: the prompt ends in the assistant's turn, so the model is not asked anything. "
            "End the prompt with the query."
        )
    return Prompt(filled, context.key)


def _check(counts: Counter[str], parts: Mapping[str, Part], at: str) -> None:
    missing = [name for name in parts if not counts[name]]
    if missing:
        raise ConfigError(f"{at}: it lacks {', '.join(missing[:3])}. A prompt must contain every piece of its context.")
    twice = [name for name in parts if counts[name] > 1]
    if twice:
        raise ConfigError(
            f"{at}: it contains {', '.join(twice[:3])} more than once. A prompt must contain each piece once."
        )
