"""A chat request that asks for a strategy, read: the prompt, the arm, the limits. Everything wrong is a sentence.

The request is OpenAI's, with `vllm_xargs: {strategy: vcd, alpha: 1.0}`: the name of a strategy of the toolkit and its
parameters, or the whole node as a text of JSON where it is nested. Sampling is what the request says of temperature,
top_p, top_k, min_p and seed.

A client that knows more than messages can say it (the model `remote` does): a piece of a message has a `name`, the span
that it is (`demo[0].answer`), and the key `icl` asks for what OpenAI's API has no place for, so that the answer brings
its tokens, traces and option scores: `icl: {trace: true, options: [yes, no], normalize: mean}`.
"""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from decoding.arms.arm import Arm
from decoding.engine.requests import Normalize
from decoding.lockstep.request_metadata import METADATA_KEY
from decoding.server.strategy_parsing import SAMPLING, check_runs, parse_strategy
from icl import spans
from icl.errors import ConfigError, DataError, did_you_mean
from icl.images import Image
from icl.streams import StreamKey
from icl.types import Part, Prompt, Turn

LONGEST = 2**20
"""Characters of text that a request may have."""

READ = frozenset(
    {"model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "stop", "seed", "user"}
    | {"return_token_ids", "vllm_xargs", "icl", *SAMPLING}
)
INERT = frozenset(
    {"metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "priority", "request_id"}
    | {"session_id", "parallel_tool_calls", "include_reasoning"}
)
"""What cannot change an answer."""

NEUTRAL = {
    "n": 1, "best_of": 1, "use_beam_search": False, "length_penalty": 1, "logprobs": False, "top_logprobs": 0,
    "tools": [], "tool_choice": "none", "functions": [], "response_format": {"type": "text"}, "echo": False,
    "presence_penalty": 0, "frequency_penalty": 0, "repetition_penalty": 1, "logit_bias": {}, "bad_words": [],
    "min_tokens": 0, "ignore_eos": False, "stop_token_ids": [], "include_stop_str_in_output": False,
    "skip_special_tokens": True, "spaces_between_special_tokens": True, "add_special_tokens": False,
    "add_generation_prompt": True, "continue_final_message": False,
}  # fmt: skip
"""Of what a strategy has no place for, the value at which it does nothing."""

STOPS, STOP_LONGEST, NAME_LONGEST = 64, 1024, 1024
"""Stop texts, their characters, and those of a user's name."""

NAME = re.compile(r"[\w.\[\]-]{0,80}")
MOST_OPTIONS = 256


@dataclass(frozen=True)
class ExtendedOptions:
    """What the key `icl` asks for. options: to be scored, instead of a text. top: tokens kept of every step.

    normalize: None where it does not say, and the strategy's own word for it counts.
    """

    trace: bool = False
    top: int = 0
    options: tuple[str, ...] = ()
    normalize: Normalize | None = None


@dataclass(frozen=True)
class StrategyRequest:
    """max_tokens: None where the request does not say. token_ids: whether the answer's ids are wanted too.

    stream_usage: whether the last event of a stream counts tokens.
    """

    prompt: Prompt
    arm: Arm
    max_tokens: int | None
    stop: tuple[str, ...]
    stream: bool
    model: str
    token_ids: bool = False
    more: ExtendedOptions | None = None
    stream_usage: bool = False


def names_strategy(body: Any) -> bool:
    """Whether a request names a strategy."""
    extra = body.get("vllm_xargs") if isinstance(body, dict) else None
    return isinstance(extra, dict) and "strategy" in extra


def names_group(body: Any) -> bool:
    """Whether a request says that it is a branch, which only the server's own are."""
    extra = body.get("vllm_xargs") if isinstance(body, dict) else None
    return isinstance(extra, dict) and METADATA_KEY in extra


def parse_request(body: Mapping[str, Any]) -> StrategyRequest:
    """Raises ConfigError, DataError, PlanError."""
    _check_keys(body)
    limit = body.get("max_completion_tokens")
    limit = body.get("max_tokens") if limit is None else limit
    if limit is not None and (not _is_whole(limit) or limit < 1):
        raise ConfigError(f"max_tokens is a number of tokens, at least 1, not {limit!r}.")
    said = body.get("stop") or ()
    said = (said,) if isinstance(said, str) else said
    if not isinstance(said, list | tuple) or not all(isinstance(word, str) and word for word in said):
        raise ConfigError(f"stop is a text or a list of texts, not {said!r}.")
    stop = tuple(said)
    if len(stop) > STOPS or any(len(word) > STOP_LONGEST for word in stop):
        raise ConfigError(f"stop has {STOPS} texts at most, each of {STOP_LONGEST} characters at most.")
    prompt = _prompt(body)
    more = None if body.get("icl") is None else _more(body["icl"])
    stream = _flag(body, "stream")
    if more is not None and (stream or stop):
        raise ConfigError("icl: what it asks for comes with a whole answer; leave out stream and stop.")
    if more is not None and body["icl"].get("other") is not None:
        other = body["icl"]["other"]
        if not isinstance(other, dict):
            raise ConfigError("icl.other is another sample's prompt: a mapping with messages.")
        prompt = replace(prompt, paired_prompt=_prompt(other))
    arm = parse_strategy(body)
    check_runs(arm, "options" if more is not None and more.options else "generate", counts_votes=more is not None)
    told = _text(body, "model"), _flag(body, "return_token_ids")
    options = body.get("stream_options")
    counted = isinstance(options, dict) and bool(options.get("include_usage"))
    return StrategyRequest(prompt, arm, limit, stop, stream, *told, more, counted)


def _check_keys(body: Mapping[str, Any]) -> None:
    """Raises ConfigError for what the request says and nobody would read: its answer would be another one."""
    unread = [key for key in body if key not in READ | INERT and body[key] not in (None, NEUTRAL.get(key))]
    if unread:
        meant = "" if unread[0] in NEUTRAL else did_you_mean(unread[0], READ)
        raise ConfigError(
            f"{', '.join(unread):.400}: a request with a strategy gives one plain answer; leave it out.{meant}"
        )


def _text(body: Mapping[str, Any], key: str) -> str:
    told = body.get(key)
    if told is not None and (not isinstance(told, str) or len(told) > NAME_LONGEST):
        raise ConfigError(f"{key} is a text of {NAME_LONGEST} characters at most.")
    return told or ""


def _flag(body: Mapping[str, Any], key: str) -> bool:
    told = body.get(key)
    if told is not None and not isinstance(told, bool):
        raise ConfigError(f"{key} is true or false, not {told!r:.80}.")
    return bool(told)


def _is_whole(value: Any) -> bool:
    """Whether it is a whole number; True is none."""
    return isinstance(value, int) and not isinstance(value, bool)


def _prompt(body: Mapping[str, Any]) -> Prompt:
    seed = body.get("seed") or 0
    if not _is_whole(seed) or abs(seed) >= 2**63:
        raise ConfigError(f"seed is a whole number{' of 64 bits' if _is_whole(seed) else ''}, not {seed!r:.80}.")
    return Prompt(tuple(_turns(body.get("messages"))), StreamKey(seed, _text(body, "user")))


def _more(told: Any) -> ExtendedOptions:
    known = ("trace", "top", "options", "normalize", "other")
    if not isinstance(told, dict) or told.keys() - set(known):
        raise ConfigError(f"icl is a mapping of {', '.join(known)}.")
    options, normalize = told.get("options", []), told.get("normalize")
    if not isinstance(options, list) or not all(isinstance(option, str) and option for option in options):
        raise ConfigError("icl.options is a list of texts.")
    if len(options) > MOST_OPTIONS or len(set(options)) != len(options):
        raise ConfigError(f"icl.options has {len(options)} texts; it may have {MOST_OPTIONS}, each once.")
    if normalize is not None and normalize not in get_args(Normalize):
        raise ConfigError(f"icl.normalize is one of {', '.join(get_args(Normalize))}.")
    top = told.get("top", 0)
    if not _is_whole(top) or not 0 <= top <= MOST_OPTIONS:
        raise ConfigError(f"icl.top is a number of tokens, at most {MOST_OPTIONS}.")
    return ExtendedOptions(bool(told.get("trace")), top, tuple(options), normalize)


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
            raise ConfigError(f"messages[{i}].content is a text, or a list of texts and images.")
        demo = sum(user < i for user in users) - (role == "assistant")
        place = spans.QUERY if i == users[-1] else spans.demo(demo)
        parts = tuple(_parts(pieces, i, role, place))
        length += sum(len(part.text or "") for part in parts)
        if length > LONGEST:
            raise DataError(f"the messages have more than {LONGEST} characters.")
        yield Turn(role, parts)


def _parts(pieces: list[Any], i: int, role: str, place: str) -> Iterator[Part]:
    images = texts = 0
    for j, piece in enumerate(pieces):
        where = f"messages[{i}].content[{j}]"
        kind = piece.get("type") if isinstance(piece, dict) else None
        if kind == "text" and isinstance(piece.get("text"), str):
            name = {"user": spans.question(place), "assistant": spans.answer(place)}.get(role, spans.INSTRUCTION)
            yield Part(piece["text"], _name(piece, name if not texts else "", where))
            texts += 1
        elif kind == "image_url":
            url = piece.get("image_url")
            image = _image(url.get("url") if isinstance(url, dict) else url, where)
            yield Part(image, _name(piece, spans.image(place, images), where))
            images += 1
        else:
            raise ConfigError(f"{where}: a piece is of type text or image_url, not {kind!r}.")


def _name(piece: Mapping[str, Any], usual: str, where: str) -> str:
    """The span that a piece says it is, or what its place says."""
    name = piece.get("name", usual)
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(f"{where}.name is the name of a span, such as demo[0].answer, not {str(name)[:80]!r}.")
    return name


def _image(url: Any, where: str) -> Image:
    if not isinstance(url, str) or not url.startswith("data:image/"):
        raise DataError(f"{where}: send the image itself (data:image/png;base64,...): the server fetches nothing.")
    _, _, data = url.partition(";base64,")
    try:
        return Image.from_bytes(base64.b64decode(data, validate=True), where)
    except binascii.Error as error:
        raise DataError(f"{where}: the image is not base64: {error}.") from error
