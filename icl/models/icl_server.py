"""The client side of `icl serve`: the server's description, requests with a strategy, and their responses.

Every endpoint is asked for its description. Other servers answer with an error or an unrelated text, and have no
strategies. `icl serve` receives the prompt part by part with the names of its spans, and renders it with the code of
the model `hf`. So its branches equal the branches of a local run. It answers with the whole `Generation`.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from icl import Generation, ModelError, Prompt, Request, pydantic
from icl.models import Endpoint, EndpointUnavailableError, data_url, mended

PATH = "/strategies"
"""Path of the description, relative to the API's address."""

WHO = "mm-icl"


@dataclass(frozen=True)
class ServerInfo:
    """The description of a server of `icl serve`.

    Attributes:
        strategies: Names of its strategies.
        max_branches: Maximum number of branches of one request.
        version: Version of its toolkit.
        adapters: Names of its adapters, None if the server does not list them.
        template: Arguments that its chat template takes. None from a server that writes its own day into prompts.
    """

    strategies: frozenset[str]
    max_branches: int
    version: str
    adapters: tuple[str, ...] | None = None
    template: tuple[str, ...] | None = None

    def refusal(self, node: Mapping[str, Any]) -> str | None:
        """Why this server does not run a strategy, or None.

        node: as `decoding.engine.server_engine.arm_config` writes it.
        """
        for name in _names(node):
            if ":" in name or "/" in name:
                return (
                    f"{name} is your own code, and a server runs only strategies that it knows by name. Use the model "
                    "'vllm' or 'hf', which run it in this process."
                )
            if name not in self.strategies:
                return (
                    f"the server (mm-icl {self.version}) has no strategy '{name}'. Update the server, or "
                    "remove the strategy."
                )
        return None


class NotReady(str):
    """The reason why it is not known yet what a server is: it answers that it is not ready."""


def server_info(endpoint: Endpoint) -> ServerInfo | str:
    """The description of a server of `icl serve`, or the reason why the endpoint is none."""
    try:
        reply = endpoint.get(PATH)
    except EndpointUnavailableError as error:
        return NotReady(error)
    except ModelError as error:
        return str(error)
    try:
        if reply["server"] != WHO:
            raise ValueError(reply["server"])
        adapters, template = (tuple(map(str, reply[key])) if key in reply else None for key in ("adapters", "template"))
        strategies = frozenset(map(str, reply["strategies"]))
        return ServerInfo(strategies, int(reply["branches"]), str(reply["version"]), adapters, template)
    except (KeyError, TypeError, ValueError, OverflowError):
        return f"{endpoint.url}{PATH} answers something else"


def strategy_request(request: Request, day: date | None = None) -> dict[str, Any]:
    """The fields of a chat request that has a strategy. day: the date that a chat template may write; None: today's."""
    key = request.prompt.key
    more: dict[str, Any] = {"trace": not request.score_options, "top": request.top, "normalize": request.normalize}
    budget: dict[str, Any] = {}
    if day is not None:
        more["day"] = day.isoformat()
    if request.score_options:
        more["options"] = list(request.options)
    if request.reasoning:
        more["reasoning"] = request.reasoning
    if (other := request.prompt.paired_prompt) is not None:
        more["other"] = {"messages": named_messages(other), "seed": other.key.seed, "user": other.key.query}
    if request.max_thinking_tokens is not None:
        budget["max_thinking_tokens"] = request.max_thinking_tokens
    return {
        **budget,
        "messages": named_messages(request.prompt),
        "temperature": 0,
        "seed": key.seed,
        "user": key.query,
        "vllm_xargs": {"strategy": json.dumps(request.strategy)},
        "icl": more,
    }


def named_messages(prompt: Prompt) -> list[dict[str, Any]]:
    """The prompt as messages. Their content items carry the names of their spans."""
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


def generation_in(response: Mapping[str, Any], where: str) -> Generation:
    """The generation in a response. Raises ModelError if it is malformed."""
    try:
        reply = dict(response["choices"][0]["icl"])
        reply["text"] = mended(reply["text"])
        generation = pydantic.TypeAdapter(Generation).validate_python(reply)
        if any(map(math.isnan, generation.option_scores.values())):
            raise ValueError(reply)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{where}: the answer to a strategy has no choices[0].icl: {str(response)[:200]}.") from error
    return generation


def _names(node: Any) -> Iterator[str]:
    """Names of the strategy, of nested strategies and of functions."""
    if isinstance(node, Mapping):
        for key in ("name", "function"):
            if isinstance(node.get(key), str):
                yield node[key]
        for value in node.values():
            yield from _names(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _names(value)
