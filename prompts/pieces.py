"""Building blocks of composers: named parts of demonstrations and query, and the instruction."""

from typing import Literal

from icl import ConfigError, Context, Demo, Part, Query, spans

First = Literal["image", "text"]
Level = Literal["none", "short", "long"]

INSTRUCTIONS = {
    "none": "",
    "short": "Answer with one word.",
    "long": (
        "Look at the examples, then answer the last question about its picture with one word, "
        "in the same form as the examples."
    ),
}
"""Level -> what stands before the first demonstration. The embedded model was trained with these."""


def check_instruction(level: Level, own: str | None, composer: str) -> None:
    """Raise ConfigError if both a level and a custom text are set."""
    if own is not None and level != "none":
        raise ConfigError(
            f"composer '{composer}': instruction is '{level}' and instruction_text is set too. Remove one of them."
        )


def instruction(level: Level, own: str | None) -> tuple[Part, ...]:
    """The instruction and a line break, or nothing."""
    text = own if own is not None else INSTRUCTIONS[level]
    return (Part(text, spans.INSTRUCTION), Part("\n")) if text else ()


def images(of: Demo | Query, name: str) -> tuple[Part, ...]:
    """The images of a demonstration or the query, in order. name: 'demo[0]' or 'query'."""
    item = of if isinstance(of, Query) else of.example
    return tuple(Part(image, spans.image(name, j)) for j, image in enumerate(item.images))


def question(of: Demo | Query, name: str) -> tuple[Part, ...]:
    """The question, or nothing if there is none."""
    item = of if isinstance(of, Query) else of.example
    return (Part(item.question, spans.question(name)),) if item.question else ()


def answer(of: Demo, name: str) -> Part:
    """The answer of a demonstration: the first of the accepted ones."""
    return Part(of.example.answer, spans.answer(name))


def named(context: Context) -> list[tuple[str, Demo]]:
    """The demonstrations in prompt order, with their names."""
    return [(spans.demo(i), demo) for i, demo in enumerate(context.demos)]
