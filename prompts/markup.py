"""Text in which marks stand for the pieces of a prompt, and the prompt that it means.

A mark is the piece's name between two NUL characters, which no text has. Where a mark begins a turn, the blanks around
it are not part of any turn.
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
    """Stands for a piece. number: of an image, from 0 through the prompt."""

    __slots__ = ("number",)
    number: int

    @classmethod
    def of(cls, name: str, number: int = 0) -> "Mark":
        mark = cls(f"{NUL}{name}{NUL}")
        mark.number = number
        return mark


def role_mark(role: str) -> Mark:
    """Begins a turn."""
    return Mark.of(f"@{role}")


def prompt_of(written: str, wanted: Mapping[str, Part], context: Context, who: str) -> Prompt:
    """The prompt of a marked text. Raises ConfigError unless it shows each wanted piece once and ends by asking."""
    at = f"{who}, query '{context.query.id}'"
    roles = "|".join(ROLES)
    pieces = re.split(f"{NUL}([^{NUL}]*){NUL}", re.sub(rf"\s*({NUL}@(?:{roles}){NUL})\s*", r"\1", written))
    turns: list[tuple[Role, list[Part]]] = [("user", [])]
    for i, piece in enumerate(pieces):
        if i % 2 == 0:
            if NUL in piece:
                raise ConfigError(
                    f"{at}: a filter changed a piece. Images, questions and answers are shown as they are."
                )
            if piece:
                turns[-1][1].append(Part(piece))
        elif piece.removeprefix("@") in ROLES and piece.startswith("@"):
            turns.append((cast(Role, piece[1:]), []))
        elif piece in wanted:
            turns[-1][1].append(wanted[piece])
        else:
            raise ConfigError(f"{at}: a filter changed a piece into '{piece}'. Pieces are shown as they are.")
    _check(Counter(piece for piece in pieces[1::2]), wanted, at)
    kept = tuple(Turn(role, tuple(parts)) for role, parts in turns if parts)
    if not kept or kept[-1].role != "user":
        raise ConfigError(f"{at}: the prompt ends in the assistant's turn, so nothing is asked. End it with the query.")
    return Prompt(kept, context.key)


def _check(shown: Counter[str], wanted: Mapping[str, Part], at: str) -> None:
    lost = [name for name in wanted if not shown[name]]
    if lost:
        raise ConfigError(f"{at}: it loses {', '.join(lost[:3])}. A prompt must show every piece of its context.")
    twice = [name for name in wanted if shown[name] > 1]
    if twice:
        raise ConfigError(f"{at}: it shows {', '.join(twice[:3])} more than once. Each piece stands in one place.")
