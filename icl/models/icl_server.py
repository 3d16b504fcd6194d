"""Servers of `icl serve`: what one says of itself, what it is asked with a strategy, and what it answers.

Any endpoint may be asked what it is; one that is another server answers with a status or a text of its own, and has no
strategies. Ours gets the prompt part by part, each with the span that it is, and renders it with the code of the model
`hf`; so its branches are those that a strategy would make here. It answers with the whole `Generation`.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from icl.errors import ModelError
from icl.models.base import Request
from icl.models.chat_messages import data_url, mended
from icl.models.endpoint import Endpoint
from icl.types import Generation, Prompt, Usage

PATH = "/strategies"
"""Under the API's address."""

WHO = "mm-icl"

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class ServerInfo:
    """strategies, adapters: names (None: it does not say). most: branches of a group. version: of its toolkit."""

    strategies: frozenset[str]
    most: int
    version: str
    adapters: tuple[str, ...] | None = None

    def refusal(self, node: Mapping[str, Any]) -> str | None:
        """Why this server does not run a strategy, or None.

        node: as `decoding.engine.server_engine.node_of` writes it.
        """
        for name in _names(node):
            if ":" in name or "/" in name:
                return (
                    f"{name} is code of yours, and a server runs the strategies that it has by name. Use the model "
                    "'vllm' or 'hf', which run it in this process."
                )
            if name not in self.strategies:
                return f"the server (mm-icl {self.version}) has no strategy '{name}'. Update it, or leave that out."
        return None


def told(endpoint: Endpoint) -> ServerInfo | str:
    """What the endpoint says, or why it is none of ours."""
    try:
        said = endpoint.get(PATH)
    except ModelError as error:
        return str(error)
    try:
        if said["server"] != WHO:
            raise ValueError(said["server"])
        adapters = tuple(map(str, said["adapters"])) if "adapters" in said else None
        return ServerInfo(
            frozenset(map(str, said["strategies"])), int(said["branches"]), str(said["version"]), adapters
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return f"{endpoint.url}{PATH} answers something else"


def asked(request: Request) -> dict[str, Any]:
    """The fields of a chat request that has a strategy."""
    key = request.prompt.key
    more: dict[str, Any] = {"trace": not request.score_options, "top": request.top, "normalize": request.normalize}
    if request.score_options:
        more["options"] = list(request.options)
    if (other := request.prompt.paired_prompt) is not None:
        more["other"] = {"messages": named(other), "seed": other.key.seed, "user": other.key.query}
    return {
        "messages": named(request.prompt),
        "temperature": 0,
        "seed": key.seed,
        "user": key.query,
        "vllm_xargs": {"strategy": json.dumps(request.strategy)},
        "icl": more,
    }


def named(prompt: Prompt) -> list[dict[str, Any]]:
    """The prompt as messages, each part a piece with the name of its span."""
    return [
        {
            "role": turn.role,
            "content": [
                {"name": part.name, "type": "text", "text": part.text}
                if part.image is None
                else {"name": part.name, "type": "image_url", "image_url": {"url": data_url(part.image)}}
                for part in turn.parts
            ],
        }
        for turn in prompt.turns
    ]


def answered(told: Mapping[str, Any], where: str) -> Generation:
    """The generation in an answer. Raises ModelError where there is none."""
    try:
        said = dict(told["choices"][0]["icl"])
        return Generation(
            text=mended(str(said["text"])),
            tokens=tuple(map(int, said["tokens"])),
            finish=_one_of(said["finish"], ("stop", "length")),
            usage=Usage(**{name: int(count) for name, count in said["usage"].items()}),
            trace={name: tuple(map(float, values)) for name, values in said["trace"].items()},
            option_scores={option: _score(value) for option, value in said["option_scores"].items()},
            steps=dict(said["steps"]),
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ModelError(f"{where}: the answer to a strategy has no choices[0].icl: {str(told)[:200]}.") from error


def _one_of(value: Any, known: tuple[Finish, ...]) -> Finish:
    if value not in known:
        raise ValueError(value)
    return value  # type: ignore[no-any-return]


def _score(value: Any) -> float:
    score = float(value)
    if math.isnan(score):
        raise ValueError(value)
    return score


def _names(node: Any) -> Iterator[str]:
    """Of the strategy, of strategies inside it, and of functions."""
    if isinstance(node, Mapping):
        for key in ("name", "function"):
            if isinstance(node.get(key), str):
                yield node[key]
        for value in node.values():
            yield from _names(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _names(value)
