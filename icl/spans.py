"""Names of the parts of a prompt. This module is the only one that writes and parses them.

    system   instruction   demo[2].image[0]   demo[2].question   demo[2].answer   query.image[0]   query.question

The text before the dot is the owner of the part: `query`, or a demonstration by its index in the prompt, from 0. A
patch of an image, `demo[2].image[0].patch[5]`, is one token of it, by its index in the order of the tokens.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

SYSTEM = "system"
"""The name of the text of a composer's system turn."""

INSTRUCTION = "instruction"
QUERY = "query"
QUESTION = "query.question"
"""The name of the query's question."""

GROUPS = ("images", "demo_images", "demo_questions", "demo_answers", "demo_texts", "query_images", "query_question")
"""Names of groups of parts (`in_group`)."""

UNIONS: Mapping[str, tuple[str, ...]] = {
    "images": ("demo_images", "query_images"),
    "demo_texts": ("demo_questions", "demo_answers"),
}
"""Group -> the groups that it consists of."""

_ANSWER = ".answer"
_PLACE = re.compile(r"demo\[(-?\d+)\]")
_NAME = re.compile(
    r"system|instruction|(demo\[\d+\]|query)\.(image\[\d+\](\.patch\[\d+\])?|question)|demo\[\d+\]\.answer"
)


def demo(place: int) -> str:
    """The owner name of the demonstration at an index."""
    return f"demo[{place}]"


def image(owner: str, number: int = 0) -> str:
    """The name of the owner's image with this number, from 0."""
    return f"{owner}.image[{number}]"


def random_factor(name: str) -> str:
    """The factor under which random numbers for an image are drawn.

    It spells the span as the first release did (`query.picture[0]`). Another spelling draws other noise, and every
    published figure of a noised image would change.
    """
    return name.replace(".image[", ".picture[")


def patch(image: str, number: int) -> str:
    """The name of a patch of the image with this name."""
    return f"{image}.patch[{number}]"


def patch_index(name: str) -> tuple[str, int] | None:
    """The name of the image and the index of a patch, or None for other names."""
    image, dot, number = name.partition(".patch[")
    return (image, int(number[:-1])) if dot else None


def question(owner: str) -> str:
    """The name of the owner's question."""
    return f"{owner}.question"


def answer(owner: str) -> str:
    """The name of a demonstration's answer."""
    return f"{owner}{_ANSWER}"


def turn_owners(roles: Sequence[str | None]) -> list[str]:
    """The owner of each turn of a chat: the user's last turn is the query, those before it are demonstrations."""
    users = [i for i, role in enumerate(roles) if role == "user"]
    demos = [sum(user < i for user in users) - (role == "assistant") for i, role in enumerate(roles)]
    return [QUERY if [i] == users[-1:] else demo(place) for i, place in enumerate(demos)]


def turn_text(role: str, owner: str) -> str:
    """The name of a turn's text."""
    return {"user": question(owner), "assistant": answer(owner)}.get(role, INSTRUCTION)


def owner_of(name: str) -> str:
    """The owner of a part. A name without a dot is its own owner."""
    return name.split(".", maxsplit=1)[0]


@lru_cache(maxsize=4096)
def demo_index(name: str) -> int | None:
    """The index of the demonstration that a part belongs to, or None."""
    match = _PLACE.match(name)
    return int(match[1]) if match else None


def is_query(name: str) -> bool:
    """Whether a part belongs to the query."""
    return name.startswith(f"{QUERY}.")


def is_answer(name: str) -> bool:
    """Whether a part is the answer of a demonstration."""
    return demo_index(name) is not None and name.endswith(_ANSWER)


def is_span_name(name: str) -> bool:
    """Whether a text is a valid part name."""
    return _NAME.fullmatch(name) is not None


def group_of(name: str) -> str | None:
    """The group of a part, such as `demo_images` of `demo[2].image[0]`; None for other names."""
    owner = "query" if is_query(name) else "demo" if demo_index(name) is not None else None
    _, _, kind = name.partition(".")
    group = f"{owner}_{'images' if kind.startswith('image[') else f'{kind}s' if owner == 'demo' else kind}"
    return group if group in GROUPS else None


def in_group(name: str, group: str) -> bool:
    """Whether a part belongs to a group. `images` has all images, `demo_texts` questions and answers."""
    return group_of(name) in UNIONS.get(group, (group,))
