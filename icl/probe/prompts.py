"""Prompts of the probe: turns of text and images, with one place for the question."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from . import images

QUESTIONS = (
    "What is in the last image?",
    "List the colors of all images in order.",
    "Describe every image.",
)
"""The first one is asked where log-probabilities are compared, all of them where texts are."""
LABEL = "dax"
"""A made-up word: the answer of a demonstration."""


@dataclass(frozen=True)
class ImagePart:
    """An image of a prompt, by its address."""

    url: str


class Question:
    """The place of the question."""


QUESTION = Question()
Part = str | ImagePart | Question
Images = str | Iterable[ImagePart]
"""Names of images, one letter each, or to_parts."""


@dataclass(frozen=True)
class ChatTurn:
    """What one role says."""

    role: str
    parts: tuple[Part, ...]


Prompt = tuple[ChatTurn, ...]


def to_parts(of: Images) -> tuple[ImagePart, ...]:
    """Images by their names, or as they are."""
    return tuple(ImagePart(images.url(image)) if isinstance(image, str) else image for image in of)


def turn(role: str, *parts: Part) -> ChatTurn:
    """One turn."""
    return ChatTurn(role, parts)


def user(of: Images, text: Part = QUESTION) -> Prompt:
    """One user turn: images, then the question."""
    return (turn("user", *to_parts(of), text),)


def shots(of: Images, answers: Sequence[str] | None = None) -> Prompt:
    """Few-shot turns: a demonstration for each image but the last, which is the query's."""
    *demonstrations, query = to_parts(of)
    words = answers or [LABEL] * len(demonstrations)
    turns = [
        one
        for part, word in zip(demonstrations, words, strict=True)
        for one in (turn("user", part, "What is this?"), turn("assistant", word))
    ]
    return (*turns, turn("user", query, QUESTION))


def replaced(names: str, index: int, name: str) -> str:
    """The names of images with another one at `index`."""
    return names[:index] + name + names[index + 1 :]


def to_messages(prompt: Prompt, question: str) -> list[dict[str, Any]]:
    """The messages of a chat request. Turns of text alone, other than the user's, are strings."""
    return [{"role": one.role, "content": _content(one, question)} for one in prompt]


def _content(one: ChatTurn, question: str) -> str | list[dict[str, Any]]:
    parts = [question if isinstance(part, Question) else part for part in one.parts]
    if one.role != "user" and len(parts) == 1 and isinstance(parts[0], str):
        return parts[0]
    return [
        {"type": "image_url", "image_url": {"url": part.url}}
        if isinstance(part, ImagePart)
        else {"type": "text", "text": part}
        for part in parts
    ]
