"""A chat request that asks for a strategy, read: the prompt, the arm, the limits. Everything wrong is a sentence.

The request is OpenAI's, with `vllm_xargs: {strategy: vcd, alpha: 1.0}`: the name of a strategy of the toolkit and its
parameters, or the whole node as a text of JSON where it is nested. Sampling is what the request says of temperature,
top_p, top_k, min_p and seed.
"""

import base64
import binascii
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from decoding.arm import Arm, parse_arm
from icl.errors import ConfigError, DataError
from icl.pictures import Picture
from icl.streams import StreamKey
from icl.types import Part, Prompt, Turn

SAMPLING = ("temperature", "top_p", "top_k", "min_p")
LONGEST = 2**20
"""Characters of text that a request may have."""


@dataclass(frozen=True)
class Wanted:
    """max_tokens: None where the request does not say. token_ids: whether the answer's ids are wanted too."""

    prompt: Prompt
    arm: Arm
    max_tokens: int | None
    stop: tuple[str, ...]
    stream: bool
    model: str
    token_ids: bool = False


def strategy_asked(body: Any) -> bool:
    """Whether a request names a strategy."""
    extra = body.get("vllm_xargs") if isinstance(body, dict) else None
    return isinstance(extra, dict) and "strategy" in extra


def wanted(body: Mapping[str, Any]) -> Wanted:
    """Raises ConfigError, DataError, PlanError."""
    for key, neutral in (("n", 1), ("logprobs", False), ("tools", None), ("response_format", None)):
        if body.get(key, neutral) not in (neutral, None):
            raise ConfigError(f"{key}: a request with a strategy gives one plain answer; leave it out.")
    limit = body.get("max_completion_tokens", body.get("max_tokens"))
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ConfigError(f"max_tokens is a number of tokens, at least 1, not {limit!r}.")
    stop = body.get("stop") or ()
    stop = (stop,) if isinstance(stop, str) else tuple(stop)
    if not all(isinstance(word, str) and word for word in stop):
        raise ConfigError("stop is a text or a list of texts.")
    seed = body.get("seed") or 0
    if not isinstance(seed, int):
        raise ConfigError(f"seed is a whole number, not {seed!r}.")
    prompt = Prompt(tuple(_turns(body.get("messages"))), StreamKey(seed, str(body.get("user") or "")))
    told = str(body.get("model", "")), bool(body.get("return_token_ids"))
    return Wanted(prompt, _arm(body), limit, stop, bool(body.get("stream")), *told)


def _arm(body: Mapping[str, Any]) -> Arm:
    given = dict(body["vllm_xargs"])
    strategy = given.pop("strategy")
    node = {"name": strategy} if isinstance(strategy, str) and not strategy.lstrip().startswith("{") else strategy
    if isinstance(node, str):
        try:
            node = json.loads(node)
        except ValueError as error:
            raise ConfigError(f"vllm_xargs.strategy is not JSON: {error}.") from error
    if not isinstance(node, dict):
        raise ConfigError("vllm_xargs.strategy is a name, or a mapping with a name as a text of JSON.")
    _check_node(node | given)
    sampling = {key: body[key] for key in SAMPLING if body.get(key) is not None}
    _check_node(sampling)
    if sampling.pop("top_k", -1) not in (-1, 0) and "top_k" in body:
        sampling["top_k"] = body["top_k"]
    if not sampling.get("temperature", 0):
        return parse_arm(node | given, "vllm_xargs")
    return parse_arm(node | given | {"sampling": sampling}, "vllm_xargs")


def _check_node(node: Any) -> None:
    """Only registered names, since a path would run the client's code; only finite numbers."""
    if isinstance(node, dict):
        name = node.get("name", "")
        if not isinstance(name, str) or ":" in name or "/" in name:
            raise ConfigError(f"vllm_xargs: {name!r} is not the name of a strategy (icl ls strategies).")
        for value in node.values():
            _check_node(value)
    elif isinstance(node, list):
        for value in node:
            _check_node(value)
    elif isinstance(node, str) and ":" in node:
        raise ConfigError(f"vllm_xargs: {node!r} is not the name of a strategy (icl ls strategies).")
    elif isinstance(node, float) and not math.isfinite(node):
        raise ConfigError(f"vllm_xargs: {node} is not a finite number.")


def _turns(messages: Any) -> Iterator[Turn]:
    """The last user message is the query, those before it are demonstrations, so that edits find their parts."""
    if not isinstance(messages, list) or not messages:
        raise ConfigError("messages is a list with at least one message.")
    users = [i for i, message in enumerate(messages) if isinstance(message, dict) and message.get("role") == "user"]
    if not users:
        raise ConfigError("messages has no message of role 'user'.")
    length = 0
    for i, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ("system", "user", "assistant"):
            raise ConfigError(f"messages[{i}]: a role is system, user or assistant, not {role!r}.")
        content = message.get("content")
        pieces = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(pieces, list) or not pieces:
            raise ConfigError(f"messages[{i}].content is a text, or a list of texts and pictures.")
        demo = sum(user < i for user in users) - (role == "assistant")
        place = "query" if i == users[-1] else f"demo[{demo}]"
        parts = tuple(_parts(pieces, i, role, place))
        length += sum(len(part.text or "") for part in parts)
        if length > LONGEST:
            raise DataError(f"the messages have more than {LONGEST} characters.")
        yield Turn(role, parts)


def _parts(pieces: list[Any], i: int, role: str, place: str) -> Iterator[Part]:
    pictures = texts = 0
    for j, piece in enumerate(pieces):
        where = f"messages[{i}].content[{j}]"
        kind = piece.get("type") if isinstance(piece, dict) else None
        if kind == "text" and isinstance(piece.get("text"), str):
            name = {"user": f"{place}.question", "assistant": f"{place}.answer"}.get(role, "instruction")
            yield Part(piece["text"], name if not texts else "")
            texts += 1
        elif kind == "image_url":
            url = piece.get("image_url")
            yield Part(
                _picture(url.get("url") if isinstance(url, dict) else url, where), f"{place}.picture[{pictures}]"
            )
            pictures += 1
        else:
            raise ConfigError(f"{where}: a piece is of type text or image_url, not {kind!r}.")


def _picture(url: Any, where: str) -> Picture:
    if not isinstance(url, str) or not url.startswith("data:image/"):
        raise DataError(f"{where}: send the picture itself (data:image/png;base64,...): the server fetches nothing.")
    _, _, data = url.partition(";base64,")
    try:
        return Picture.from_bytes(base64.b64decode(data, validate=True), where)
    except binascii.Error as error:
        raise DataError(f"{where}: the picture is not base64: {error}.") from error
