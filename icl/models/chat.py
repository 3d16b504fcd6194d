"""Prompts as chat messages, and answers and option scores from what an endpoint sends back.

An option's score comes from the likeliest tokens that the endpoint lists where the answer's first word begins:

    score(option) = log sum of p(t), over listed tokens t that begin this option and no other

An option without such a token gets the smallest listed log-probability, which is more than it has. Where a token that
begins several options could change which is best, or no option is listed, there are no scores but an error.
"""

import base64
import io
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

from icl.errors import ModelError
from icl.models.base import Request
from icl.pictures import Picture
from icl.types import Generation, Prompt, Turn, Usage

PICTURES_KEPT = 64


def messages(prompt: Prompt) -> list[dict[str, Any]]:
    """The prompt as chat messages. Neighbouring texts are one, since servers put a line break between two."""
    return [{"role": turn.role, "content": _content(turn)} for turn in prompt.turns]


def _content(turn: Turn) -> str | list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for part in turn.parts:
        if part.picture is not None:
            found.append({"type": "image_url", "image_url": {"url": data_url(part.picture)}})
        elif found and found[-1]["type"] == "text":
            found[-1]["text"] += part.text
        else:
            found.append({"type": "text", "text": part.text})
    if all(one["type"] == "text" for one in found):
        return "".join(one["text"] for one in found)
    return found


@lru_cache(PICTURES_KEPT)
def data_url(picture: Picture) -> str:
    """The picture with its edits as a PNG in a data URL. Raises ModelError for edits of processed pixels."""
    if picture.pixel_edits:
        names = ", ".join(type(edit).__name__ for edit in picture.pixel_edits)
        raise ModelError(
            f"the edit {names} works on pixels as a model's own processor makes them, which an endpoint does by "
            "itself. Use an edit of pictures, or the model 'hf'."
        )
    buffer = io.BytesIO()
    picture.open().save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def read(told: dict[str, Any], request: Request, where: str) -> Generation:
    """The answer in a response. Raises ModelError where it has another shape, or is withheld."""
    try:
        choice = told["choices"][0]
        text = choice["message"].get("content") or ""
        usage = told.get("usage") or {}
        counted = Usage(int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0), 0)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise ModelError(f"{where}: the answer has no choices[0].message: {str(told)[:200]}.") from error
    if not isinstance(text, str):
        raise ModelError(f"{where}: the answer's content is not a text: {str(text)[:200]}.")
    if choice.get("finish_reason") == "content_filter":
        raise ModelError(f"{where}: the answer was withheld by the endpoint's content filter.")
    finish: Literal["stop", "length"] = "length" if choice.get("finish_reason") == "length" else "stop"
    scores = option_scores(choice, request.options, where) if request.scored else {}
    return Generation(text.strip(), finish=finish, usage=counted, option_scores=scores)


def option_scores(choice: dict[str, Any], options: Sequence[str], where: str) -> dict[str, float]:
    """option -> log-probability of its first token. Raises ModelError where what is listed does not decide."""
    listed = _first_tokens(choice)
    if not listed:
        raise ModelError(f"{where}: no log-probabilities come with the answer. Use `score: generate`.")
    own, shared = dict.fromkeys(options, 0.0), 0.0
    for token, logprob in listed:
        begins = [option for option in options if token and option.casefold().startswith(token)]
        if len(begins) == 1:
            own[begins[0]] += math.exp(logprob)
        elif begins:
            shared += math.exp(logprob)
    ranked = sorted(own.values(), reverse=True)
    if not ranked or ranked[0] == 0.0 or (len(ranked) > 1 and ranked[0] - ranked[1] <= shared):
        why = "begin with the same token" if shared else "are not among the likeliest tokens"
        raise ModelError(
            f"{where}: options cannot be scored by the first token of the answer: {', '.join(options)} {why} "
            f"({', '.join(token for token, _ in listed[:5])}). Use `score: generate`, or letters as options."
        )
    least = min(logprob for _, logprob in listed)
    return {option: math.log(p) if p else least for option, p in own.items()}


def _first_tokens(choice: dict[str, Any]) -> list[tuple[str, float]]:
    """(token without blanks and case, log-probability) of the likeliest, where the answer's first word begins."""
    try:
        steps = (choice.get("logprobs") or {}).get("content") or []
        step = next((step for step in steps if step["token"].strip()), None)
        listed = [] if step is None else step["top_logprobs"]
        return [(one["token"].strip().casefold(), float(one["logprob"])) for one in listed]
    except (KeyError, TypeError, AttributeError, ValueError):
        return []
