"""Names of a prompt's parts, written and read here alone.

    instruction   demo[2].image[0]   demo[2].question   demo[2].answer   query.image[0]   query.question

What stands before the dot is whose part it is: `query`, or a demonstration by its place in the prompt, from 0.
"""

import re

INSTRUCTION = "instruction"
QUERY = "query"
QUESTION = "query.question"
"""The query's own."""

_ANSWER = ".answer"
_PLACE = re.compile(r"demo\[(-?\d+)\]")
_NAME = re.compile(r"instruction|(demo\[\d+\]|query)\.(image\[\d+\]|question)|demo\[\d+\]\.answer")


def demo(place: int) -> str:
    """The owner of a demonstration's parts."""
    return f"demo[{place}]"


def image(owner: str, number: int = 0) -> str:
    """number: among the owner's images."""
    return f"{owner}.image[{number}]"


def random_factor(name: str) -> str:
    """The factor under which random numbers for an image are drawn.

    It spells the span as the first release did (`query.picture[0]`). Another spelling draws other noise, and every
    published figure of a noised image would change.
    """
    return name.replace(".image[", ".picture[")


def question(owner: str) -> str:
    """The one text that it asks."""
    return f"{owner}.question"


def answer(owner: str) -> str:
    """What a demonstration shows for its question."""
    return f"{owner}{_ANSWER}"


def owner_of(name: str) -> str:
    """Whose part it is; a name without a dot is its own."""
    return name.split(".", maxsplit=1)[0]


def demo_index(name: str) -> int | None:
    """The place of the demonstration whose part it is; None where it is of none."""
    match = _PLACE.match(name)
    return int(match[1]) if match else None


def is_query(name: str) -> bool:
    """Whether it is a part of the query."""
    return name.startswith(f"{QUERY}.")


def is_answer(name: str) -> bool:
    """Whether it is the answer of a demonstration."""
    return demo_index(name) is not None and name.endswith(_ANSWER)


def is_span_name(name: str) -> bool:
    """Whether it is one of those above, to the letter."""
    return _NAME.fullmatch(name) is not None
