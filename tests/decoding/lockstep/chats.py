"""Chat requests with a strategy as a client without a library writes them, and the tokens of their answers."""

import base64
import io
from dataclasses import replace
from typing import Any

import checkpoints

from icl.types import Prompt


def body(prompt: Prompt, strategy: Any = None, **more: Any) -> dict[str, Any]:
    messages = []
    for turn in prompt.turns:
        content: list[Any] = []
        for part in turn.parts:
            if part.image is None:
                content.append({"type": "text", "text": part.text})
            else:
                file = io.BytesIO()
                part.image.open().save(file, "PNG")
                url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
                content.append({"type": "image_url", "image_url": {"url": url}})
        messages.append({"role": turn.role, "content": content})
    fields = {"model": "tiny", "messages": messages, "temperature": 0, "max_tokens": 8, "user": prompt.key.query}
    fields["return_token_ids"] = True
    if strategy is not None:
        fields["vllm_xargs"] = {"strategy": strategy} if isinstance(strategy, str) else strategy
    return fields | more


def tokens(answer: tuple[int, Any]) -> list[int]:
    """The tokens of an answer, without the stop token."""
    assert answer[0] == 200, answer
    ids: list[int] = answer[1]["choices"][0]["token_ids"]
    return [token for token in ids if token not in checkpoints.STOPS]


def renamed(prompt: Prompt) -> Prompt:
    """The prompt with the names that a server gives to the parts of a request."""
    turns = []
    users = [i for i, turn in enumerate(prompt.turns) if turn.role == "user"]
    for i, turn in enumerate(prompt.turns):
        place = "query" if i == users[-1] else f"demo[{sum(u < i for u in users) - (turn.role == 'assistant')}]"
        turns.append(
            replace(turn, parts=tuple(replace(p, name=f"{place}.image[0]" if p.image else p.name) for p in turn.parts))
        )
    return replace(prompt, turns=tuple(turns))
