"""Prompts as the messages that chat templates read: lists of items, texts and images, for each turn."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from icl.types import Prompt, Turn

Message = dict[str, Any]


@dataclass(frozen=True)
class SlotText:
    """Text in the place of an image (`Part.fills_image_slot`)."""

    text: str


Piece = str | SlotText | None
Script = tuple[tuple[str, tuple[Piece, ...]], ...]
"""For each turn, its role and its pieces: a text, a text in the place of an image, or None for an image."""


def rendered_as_read(
    render: Callable[[Sequence[Message]], str | None], conversation: Sequence[Message]
) -> tuple[str | None, str | None]:
    """The rendered conversation, and the role of a turn that it contains as Python or JSON, or None.

    Most templates read lists of items, and some of them drop strings. Others print the lists of some roles, or their
    items, as they are: the turns of these roles become strings.
    """
    roles: list[str] = []
    while (text := render(conversation)) is not None and (role := printed_role(conversation, text)) is not None:
        if role in roles:
            return text, role
        roles.append(role)
        conversation = with_strings(conversation, role)
    return text, None


def printed_role(conversation: Sequence[Message], text: str) -> str | None:
    """The role of the first turn of which the text contains the list, or an item with text, as Python or JSON.

    None if there is none. White space does not count: JSON may be indented.
    """
    written = _without_space(text)
    has_key = "'type':" in written or '"type":' in written  # every item has it, so most texts need no comparison
    for message in conversation:
        content = message["content"]
        if isinstance(content, list) and (has_key or not content):
            parts = [content, *(item for item in content if item["type"] == "text")]
            if any(_without_space(form(part)) in written for part in parts for form in (str, json.dumps, _json)):
                return str(message["role"])
    return None


def _without_space(text: str) -> str:
    return "".join(text.split())


_json = partial(json.dumps, ensure_ascii=False)


def with_strings(conversation: Sequence[Message], role: str) -> list[Message]:
    """The conversation, in which the content of each turn of a role is a string, except those with images."""
    return [
        {**message, "content": "".join(item["text"] for item in message["content"])}
        if message["role"] == role and all(item["type"] == "text" for item in message["content"])
        else message
        for message in conversation
    ]


def as_strings(conversation: Sequence[Message]) -> list[Message]:
    """The conversation with strings as contents, as templates of models that read text only take them."""
    for role in dict.fromkeys(message["role"] for message in conversation if isinstance(message["content"], list)):
        conversation = with_strings(conversation, role)
    return list(conversation)


def typed_turn(role: str, *pieces: Piece) -> Message:
    """A turn of texts and images; whatever is no text is an image."""
    items = [{"type": "text", "text": piece} if isinstance(piece, str) else {"type": "image"} for piece in pieces]
    return {"role": role, "content": items}


def images_in_texts(turns: Script, image: str) -> list[Message]:
    """The conversation, in which each turn is one text. image: stands for an image."""
    return [
        typed_turn(role, "".join(piece if isinstance(piece, str) else image for piece in own)) for role, own in turns
    ]


def script(prompt: Prompt) -> Script:
    """Roles, texts and positions of images, as a template needs them."""
    return tuple((turn.role, tuple(merged(turn))) for turn in prompt.turns)


def messages(turns: Script) -> list[Message]:
    """The conversation in the format of processors."""
    return [typed_turn(role, *pieces) for role, pieces in turns]


def merged(turn: Turn) -> list[Piece]:
    """Texts and images (None) of the turn. Neighboring texts are merged, so that the template puts nothing between
    them.
    """
    pieces: list[Piece] = []
    for part in turn.parts:
        last = pieces[-1] if pieces else None
        if part.text is not None and part.fills_image_slot:
            pieces.append(SlotText(part.text))
        elif part.text is not None and isinstance(last, str):
            pieces[-1] = last + part.text
        else:
            pieces.append(part.text)
    return [piece for piece in pieces if piece != ""]
