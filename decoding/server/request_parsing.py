"""Parses a chat request with a strategy: prompt, arm and limits. An invalid request is an error with a message.

The request is OpenAI's, with `vllm_xargs: {strategy: vcd, alpha: 1.0}`: the name of a strategy and its parameters, or
the whole node as JSON text if it is nested. Sampling follows temperature, top_p, top_k, min_p and seed of the request.

Three extensions, which the model `remote` uses:

- `max_thinking_tokens` limits the reasoning block, and max_tokens is then the limit of the answer after it.
- A piece of a message may have a `name`: its span, such as `demo[0].answer`.
- The key `icl` requests what OpenAI's API cannot express: `icl: {trace: true, options: [yes, no], normalize: mean}`.
  The answer then has tokens, traces and option scores.
"""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from decoding.arms.arm import Arm, Normalize
from decoding.engine.requests import AnswerMode
from decoding.lockstep.request_metadata import METADATA_KEY
from decoding.server.strategy_parsing import SAMPLING, check_runs, parse_strategy
from icl import spans
from icl.errors import ConfigError, DataError, did_you_mean
from icl.images import Image
from icl.streams import StreamKey
from icl.text.reasoning_blocks import max_output_tokens
from icl.types import Part, Prompt, Turn

MAX_CHARACTERS = 2**20
"""Maximum number of characters in all texts of a request."""

KNOWN_KEYS = frozenset(
    {"model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "max_thinking_tokens"}
    | {"stop", "seed", "user", "return_token_ids", "vllm_xargs", "icl", *SAMPLING}
)
IGNORED_KEYS = frozenset(
    {"metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "priority", "request_id"}
    | {"session_id", "parallel_tool_calls", "include_reasoning"}
)
"""Keys that cannot change an answer."""

NEUTRAL_VALUES = {
    "n": 1, "best_of": 1, "use_beam_search": False, "length_penalty": 1, "logprobs": False, "top_logprobs": 0,
    "tools": [], "tool_choice": "none", "functions": [], "response_format": {"type": "text"}, "echo": False,
    "presence_penalty": 0, "frequency_penalty": 0, "repetition_penalty": 1, "logit_bias": {}, "bad_words": [],
    "min_tokens": 0, "ignore_eos": False, "stop_token_ids": [], "include_stop_str_in_output": False,
    "skip_special_tokens": True, "spaces_between_special_tokens": True, "add_special_tokens": False,
    "add_generation_prompt": True, "continue_final_message": False,
}  # fmt: skip
"""Keys that a request with a strategy cannot have, with the value at which they have no effect."""

MAX_THINKING_TOKENS = 100_000
MAX_STOPS = 64
MAX_STOP_CHARACTERS = 1024
MAX_NAME_CHARACTERS = 1024  # of a model or a user
MAX_OPTIONS = 256
SPAN_NAME = re.compile(r"[\w.\[\]-]{0,80}")


@dataclass(frozen=True)
class ExtendedOptions:
    """The key `icl` of a request.

    Attributes:
        trace: Whether to return the numbers of each step.
        top: Number of tokens to return of each branch in each step.
        options: Options to score, in place of a text.
        normalize: Normalization of option scores; None: the strategy's own.
    """

    trace: bool = False
    top: int = 0
    options: tuple[str, ...] = ()
    normalize: Normalize | None = None


@dataclass(frozen=True)
class StrategyRequest:
    """A parsed chat request with a strategy.

    Attributes:
        prompt: The prompt.
        arm: Strategy and sampler.
        max_tokens: Maximum number of new tokens, None if the request does not limit them.
        max_thinking_tokens: Thinking budget (`decoding.engine.thinking_budget`), or None.
        stop: Texts that end the answer.
        stream: Whether to stream the answer.
        model: Name of the model, '' if the request has none.
        token_ids: Whether to return the token ids of the answer.
        extended: The key `icl`, None if the request has none.
        stream_usage: Whether the last event of a stream counts tokens.
    """

    prompt: Prompt
    arm: Arm
    max_tokens: int | None
    stop: tuple[str, ...]
    stream: bool
    model: str
    token_ids: bool = False
    extended: ExtendedOptions | None = None
    stream_usage: bool = False
    max_thinking_tokens: int | None = None

    @property
    def max_output_tokens(self) -> int | None:
        """Maximum number of tokens of reasoning and answer together, None if the request does not limit them."""
        return None if self.max_tokens is None else max_output_tokens(self.max_tokens, self.max_thinking_tokens)


def names_strategy(body: Any) -> bool:
    """Whether a request names a strategy."""
    extra = body.get("vllm_xargs") if isinstance(body, dict) else None
    return isinstance(extra, dict) and "strategy" in extra


def extension_without_strategy(body: Any) -> str:
    """The extension in a request without a strategy, '' if there is none. vLLM would ignore it."""
    keys = ("icl", "max_thinking_tokens")
    return next((key for key in keys if isinstance(body, dict) and body.get(key) is not None), "")


def names_group(body: Any) -> bool:
    """Whether a request has the metadata of a branch, which only the server itself may send."""
    extra = body.get("vllm_xargs") if isinstance(body, dict) else None
    return isinstance(extra, dict) and METADATA_KEY in extra


def parse_request(body: Mapping[str, Any]) -> StrategyRequest:
    """The request of a body.

    Raises:
        ConfigError: A key or value is invalid.
        DataError: An image or a text is invalid.
        PlanError: An engine cannot run the strategy.
    """
    _check_keys(body)
    limit = body.get("max_completion_tokens")
    limit = body.get("max_tokens") if limit is None else limit
    if limit is not None and (not _is_whole(limit) or limit < 1):
        raise ConfigError(f"max_tokens must be an integer of at least 1, not {limit!r}.")
    thinking = body.get("max_thinking_tokens")
    if thinking is not None and (not _is_whole(thinking) or not 0 <= thinking <= MAX_THINKING_TOKENS):
        raise ConfigError(
            f"max_thinking_tokens must be an integer from 0 to {MAX_THINKING_TOKENS}, not {thinking!r:.80}."
        )
    stop = _stop(body)
    if stop and thinking is not None:
        raise ConfigError("stop would also end the reasoning. Remove it, or max_thinking_tokens.")
    prompt = _prompt(body)
    extended = None if body.get("icl") is None else _extended(body["icl"])
    stream = _flag(body, "stream")
    if extended is not None and (stream or stop):
        raise ConfigError("icl: these results are available for complete answers only. Remove stream and stop.")
    if extended is not None and body["icl"].get("other") is not None:
        other = body["icl"]["other"]
        if not isinstance(other, dict):
            raise ConfigError("icl.other must be the prompt of another sample: a mapping with messages.")
        prompt = replace(prompt, paired_prompt=_prompt(other))
    arm = parse_strategy(body)
    answer_mode: AnswerMode = "options" if extended is not None and extended.options else "generate"
    if thinking is not None and answer_mode == "options":
        raise ConfigError("options are scored without reasoning. Remove max_thinking_tokens, or icl.options.")
    check_runs(arm, answer_mode, counts_votes=extended is not None)
    stream_options = body.get("stream_options")
    return StrategyRequest(
        prompt,
        arm,
        limit,
        stop,
        stream,
        _text(body, "model"),
        _flag(body, "return_token_ids"),
        extended,
        stream_usage=isinstance(stream_options, dict) and bool(stream_options.get("include_usage")),
        max_thinking_tokens=thinking,
    )


def _stop(body: Mapping[str, Any]) -> tuple[str, ...]:
    texts = body.get("stop") or ()
    texts = (texts,) if isinstance(texts, str) else texts
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) and text for text in texts):
        raise ConfigError(f"stop must be a string or a list of strings, not {texts!r}.")
    if len(texts) > MAX_STOPS or any(len(text) > MAX_STOP_CHARACTERS for text in texts):
        raise ConfigError(f"stop may have at most {MAX_STOPS} strings of at most {MAX_STOP_CHARACTERS} characters.")
    return tuple(texts)


def _check_keys(body: Mapping[str, Any]) -> None:
    """Raises ConfigError for keys that would be ignored although they change an answer."""
    unread = [
        key for key in body if key not in KNOWN_KEYS | IGNORED_KEYS and body[key] not in (None, NEUTRAL_VALUES.get(key))
    ]
    if unread:
        suggestion = "" if unread[0] in NEUTRAL_VALUES else did_you_mean(unread[0], KNOWN_KEYS)
        raise ConfigError(
            f"{', '.join(unread):.400}: a request with a strategy returns one plain answer. Remove this "
            f"field.{suggestion}"
        )


def _text(body: Mapping[str, Any], key: str) -> str:
    text = body.get(key)
    if text is not None and (not isinstance(text, str) or len(text) > MAX_NAME_CHARACTERS):
        raise ConfigError(f"{key} must be a string of at most {MAX_NAME_CHARACTERS} characters.")
    return text or ""


def _flag(body: Mapping[str, Any], key: str) -> bool:
    value = body.get(key)
    if value is not None and not isinstance(value, bool):
        raise ConfigError(f"{key} must be true or false, not {value!r:.80}.")
    return bool(value)


def _is_whole(value: Any) -> bool:
    """Whether a value is a whole number. True is not."""
    return isinstance(value, int) and not isinstance(value, bool)


def _prompt(body: Mapping[str, Any]) -> Prompt:
    seed = body.get("seed") or 0
    if not _is_whole(seed) or abs(seed) >= 2**63:
        raise ConfigError(f"seed must be an integer{' of 64 bits' if _is_whole(seed) else ''}, not {seed!r:.80}.")
    return Prompt(tuple(_turns(body.get("messages"))), StreamKey(seed, _text(body, "user")))


def _extended(node: Any) -> ExtendedOptions:
    keys = ("trace", "top", "options", "normalize", "other")
    if not isinstance(node, dict) or node.keys() - set(keys):
        raise ConfigError(f"icl must be a mapping with the keys {', '.join(keys)}.")
    options, normalize = node.get("options", []), node.get("normalize")
    if not isinstance(options, list) or not all(isinstance(option, str) and option for option in options):
        raise ConfigError("icl.options must be a list of strings.")
    if len(options) > MAX_OPTIONS or len(set(options)) != len(options):
        raise ConfigError(f"icl.options has {len(options)} texts; it may have {MAX_OPTIONS}, each once.")
    if normalize is not None and normalize not in get_args(Normalize):
        raise ConfigError(f"icl.normalize must be one of {', '.join(get_args(Normalize))}.")
    top = node.get("top", 0)
    if not _is_whole(top) or not 0 <= top <= MAX_OPTIONS:
        raise ConfigError(f"icl.top must be a number of tokens, at most {MAX_OPTIONS}.")
    return ExtendedOptions(bool(node.get("trace")), top, tuple(options), normalize)


def _turns(messages: Any) -> Iterator[Turn]:
    """The turns of messages. The last user message is the query and those before it are demonstrations.

    So edits of a strategy find their parts.
    """
    if not isinstance(messages, list) or not messages:
        raise ConfigError("messages must be a list with at least one message.")
    roles = [message.get("role") if isinstance(message, dict) else None for message in messages]
    if "user" not in roles:
        raise ConfigError("messages has no message of role 'user'.")
    length = 0
    for i, (message, role, owner) in enumerate(zip(messages, roles, spans.turn_owners(roles), strict=True)):
        if role not in ("system", "user", "assistant"):
            raise ConfigError(f"messages[{i}]: the role must be system, user or assistant, not {role!r}.")
        content = message.get("content")
        pieces = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(pieces, list) or not pieces:
            raise ConfigError(f"messages[{i}].content must be a string, or a list of texts and images.")
        parts = tuple(_parts(pieces, i, role, owner))
        length += sum(len(part.text or "") for part in parts)
        if length > MAX_CHARACTERS:
            raise DataError(f"the messages have more than {MAX_CHARACTERS} characters.")
        yield Turn(role, parts)


def _parts(pieces: list[Any], i: int, role: str, owner: str) -> Iterator[Part]:
    images = texts = 0
    for j, piece in enumerate(pieces):
        where = f"messages[{i}].content[{j}]"
        kind = piece.get("type") if isinstance(piece, dict) else None
        if kind == "text" and isinstance(piece.get("text"), str):
            yield Part(piece["text"], _name(piece, "" if texts else spans.turn_text(role, owner), where))
            texts += 1
        elif kind == "image_url":
            url = piece.get("image_url")
            image = _image(url.get("url") if isinstance(url, dict) else url, where)
            yield Part(image, _name(piece, spans.image(owner, images), where))
            images += 1
        else:
            raise ConfigError(f"{where}: the type of a content part must be text or image_url, not {kind!r}.")


def _name(piece: Mapping[str, Any], usual: str, where: str) -> str:
    """The span that a piece names, otherwise the usual span of its place."""
    name = piece.get("name", usual)
    if not isinstance(name, str) or not SPAN_NAME.fullmatch(name):
        raise ConfigError(f"{where}.name is the name of a span, such as demo[0].answer, not {str(name)[:80]!r}.")
    return name


def _image(url: Any, where: str) -> Image:
    if not isinstance(url, str) or not url.startswith("data:image/"):
        raise DataError(f"{where}: send the image itself (data:image/png;base64,...). The server does not fetch URLs.")
    _, _, data = url.partition(";base64,")
    try:
        return Image.from_bytes(base64.b64decode(data, validate=True), where)
    except binascii.Error as error:
        raise DataError(f"{where}: the image is not base64: {error}.") from error
