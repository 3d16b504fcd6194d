"""What composers are made of: named parts of demonstrations and query, and the instruction that goes before them."""

from typing import Literal

from icl import spans
from icl.errors import ConfigError
from icl.tasks.generated.wording import INSTRUCTIONS
from icl.types import Context, Demo, Part, Query

First = Literal["image", "text"]
Level = Literal["none", "short", "long"]


def check_instruction(level: Level, own: str | None, composer: str) -> None:
    """Raises ConfigError where both a level and a text of one's own are asked for."""
    if own is not None and level != "none":
        raise ConfigError(
            f"composer '{composer}': instruction is '{level}' and instruction_text is given too. Leave one of them out."
        )


def instruction(level: Level, own: str | None) -> tuple[Part, ...]:
    """The instruction and the line break after it, or nothing."""
    text = own if own is not None else INSTRUCTIONS[level]
    return (Part(text, spans.INSTRUCTION), Part("\n")) if text else ()


def images(of: Demo | Query, name: str) -> tuple[Part, ...]:
    """The images of a demonstration or of the query, in their order. name: 'demo[0]' or 'query'."""
    item = of if isinstance(of, Query) else of.example
    return tuple(Part(image, spans.image(name, j)) for j, image in enumerate(item.images))


def question(of: Demo | Query, name: str) -> tuple[Part, ...]:
    """The question, where there is one."""
    item = of if isinstance(of, Query) else of.example
    return (Part(item.question, spans.question(name)),) if item.question else ()


def answer(of: Demo, name: str) -> Part:
    """The answer shown is the first of the accepted ones."""
    return Part(of.example.answer, spans.answer(name))


def named(context: Context) -> list[tuple[str, Demo]]:
    """The demonstrations in the order shown, with their names."""
    return [(spans.demo(i), demo) for i, demo in enumerate(context.demos)]
