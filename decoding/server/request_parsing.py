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
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.functional_validators import AfterValidator

from decoding import AnswerMode, Arm, Normalize, parse_arm, unsupported_reason
from decoding.lockstep.request_metadata import METADATA_KEY
from icl import ConfigError, DataError, Image, Part, Prompt, StreamKey, Turn, did_you_mean, max_output_tokens, spans
from icl.errors import PlanError
from icl.models.vllm.model import VLLM

# Parses the strategy of a chat request. A client may name registered strategies only, and neither code nor files.
#
# A name that is a path would run the client's code here, and the key `fitted` would read a file. Strategies that an
# engine cannot run are refused before they reach it.


SAMPLING = ("temperature", "top_p", "top_k", "min_p")
NO_TRUNCATION = {"top_p": 1, "top_k": 0, "min_p": 0}
"""Values that keep the whole distribution."""


def parse_strategy(body: Mapping[str, Any]) -> Arm:
    """The arm of a request with a strategy. Raises ConfigError."""
    try:
        return _parsed_arm(body)
    except RecursionError as error:
        raise ConfigError("vllm_xargs: the strategy is nested too deeply.") from error


def _parsed_arm(body: Mapping[str, Any]) -> Arm:
    parameters = dict(body["vllm_xargs"])
    strategy = parameters.pop("strategy")
    node = {"name": strategy} if isinstance(strategy, str) and not strategy.lstrip().startswith("{") else strategy
    if isinstance(node, str):
        try:
            node = json.loads(node)
        except ValueError as error:
            raise ConfigError(f"vllm_xargs.strategy is not JSON: {error}.") from error
    if not isinstance(node, dict):
        raise ConfigError("vllm_xargs.strategy must be a name, or the JSON string of a mapping with a name.")
    _check_node(node | parameters)
    sampling = {key: body[key] for key in SAMPLING if body.get(key) is not None}
    for key, value in sampling.items():
        _check_node(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{key} is a number, not {value!r:.80}.")
    if sampling.get("top_k") in (-1, 0):
        del sampling["top_k"]
    cuts = [key for key, value in sampling.items() if value != NO_TRUNCATION.get(key, value)]
    if cuts and "temperature" not in sampling:
        raise ConfigError(f"{cuts[0]} requires a temperature. Set both, or neither.")
    if sampling.get("temperature") and "sampling" in node | parameters:
        raise ConfigError("temperature and vllm_xargs.sampling both set the sampling. Remove one of them.")
    if not sampling.get("temperature", 0):
        return parse_arm(node | parameters, "vllm_xargs")
    return parse_arm(node | parameters | {"sampling": sampling}, "vllm_xargs")


def check_runs(arm: Arm, answer_mode: AnswerMode, counts_votes: bool) -> None:
    """Raises PlanError if an engine cannot run the arm, or if it is a vote and the client does not count votes."""
    if problem := unsupported_reason(arm, VLLM.abilities, answer_mode):
        raise PlanError(problem)
    if arm.strategy.traits.num_samples > 1 and not counts_votes:
        raise PlanError(
            f"{arm.label} chooses among {arm.strategy.traits.num_samples} answers, but a request generates one of them."
        )


def _check_node(node: Any) -> None:
    """Raises ConfigError unless a node has registered names, finite numbers and no files.

    A client must not choose what code runs or what files are read here.
    """
    if isinstance(node, dict):
        if "fitted" in node:
            raise ConfigError("vllm_xargs: fitted is the path of a file. Send the parameters in that file instead.")
        name = node.get("name", "")
        if not isinstance(name, str) or ":" in name or "/" in name:
            raise ConfigError(f"vllm_xargs: {name!r} is not the name of a strategy (icl ls strategies).")
        for value in node.values():
            _check_node(value)
    elif isinstance(node, list):
        for value in node:
            _check_node(value)
    elif isinstance(node, str) and not _is_whole_text(node):
        raise ConfigError("vllm_xargs: a string contains an unpaired surrogate, which cannot be encoded.")
    elif isinstance(node, str) and _is_path(node):
        raise ConfigError(f"vllm_xargs: {node!r} is not the name of a strategy (icl ls strategies).")
    elif isinstance(node, float) and not math.isfinite(node):
        raise ConfigError(f"vllm_xargs: {node} is not a finite number.")


def _is_whole_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_path(text: str) -> bool:
    """Whether a text might name code: `module:name`, `file.py:name`. A sentence with a colon does not."""
    before, colon, _ = text.rpartition(":")
    return bool(colon) and (before.endswith(".py") or not re.search(r"\s", before.strip()))


CONFIG_KEY = "strategy_models"
"""The key of vLLM's `additional_config` with the names and their nodes."""


def with_strategy_of_model(body: Any, nodes: Mapping[str, Any]) -> Any:
    """The body of a request with the strategy of its model; any other body as it is.

    `icl serve tiny --as tiny-vcd='{name: vcd, alpha: 0.5}'` serves the checkpoint under two names, for clients that
    cannot send `vllm_xargs`. A chat request to `tiny-vcd` is decoded by vcd, and both names are in `/v1/models`.

    Args:
        body: The body.
        nodes: Model name -> node of the strategy that answers under it.

    Raises:
        ConfigError: The request names another strategy.
    """
    model = body.get("model") if isinstance(body, dict) else None
    if not isinstance(model, str) or model not in nodes:
        return body
    extra = body.get("vllm_xargs") or {}
    if not isinstance(extra, dict) or "strategy" in extra:
        raise ConfigError(f"the model '{model}' has a strategy. Remove vllm_xargs.strategy, or use another model.")
    return body | {"vllm_xargs": extra | {"strategy": nodes[model]}}


def check_strategy_model(name: str, node: Any) -> None:
    """Raises ConfigError unless a node is a strategy that the server can run, as for the requests of a client."""
    if not re.fullmatch(r"(?!-)[\w.:/-]+", name):
        raise ConfigError(
            f"--as: write NAME=STRATEGY, such as tiny-vcd=vcd. {name!r:.80} cannot be a name: use letters, digits and "
            "the characters . : / _ -, and start with no hyphen."
        )
    is_name = isinstance(node, str) and bool(node) and not node.lstrip().startswith("{")
    if not is_name and not isinstance(node, dict):
        raise ConfigError(f"--as: write NAME=STRATEGY, such as {name}=vcd or {name}='{{name: vcd, alpha: 0.5}}'.")
    try:
        check_runs(parse_strategy({"vllm_xargs": {"strategy": node}}), "generate", counts_votes=False)
    except (ConfigError, PlanError) as error:
        raise ConfigError(f"--as {name}: {str(error).removeprefix('vllm_xargs: ')}") from error


MAX_CHARACTERS = 2**20
"""Maximum number of characters in all texts of a request."""

KNOWN_KEYS = frozenset(
    {"model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "max_thinking_tokens"}
    | {"chat_template_kwargs", "mm_processor_kwargs"}
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
SPAN_NAME = r"^[\w.\[\]-]{0,80}$"

WORDS = {
    "messages": "a list with at least one message",
    "messages[]": "a mapping with a role and content",
    "role": "system, user or assistant",
    "content": "a string, or a list of texts and images",
    "content[]": "a mapping of type text or image_url",
    "text": "a string",
    "name": "the name of a span, such as demo[0].answer",
    "max_tokens": "an integer of at least 1",
    "max_completion_tokens": "an integer of at least 1",
    "max_thinking_tokens": f"an integer from 0 to {MAX_THINKING_TOKENS}",
    "stop": f"a string or a list of strings, at most {MAX_STOPS} of at most {MAX_STOP_CHARACTERS} characters",
    "seed": "an integer of 64 bits",
    "user": f"a string of at most {MAX_NAME_CHARACTERS} characters",
    "model": f"a string of at most {MAX_NAME_CHARACTERS} characters",
    "stream": "true or false",
    "return_token_ids": "true or false",
    "chat_template_kwargs": "a mapping of arguments of the chat template",
    "mm_processor_kwargs": "a mapping of settings of the image processor",
    "icl": "a mapping with the keys trace, top, options, normalize, reasoning, other, day",
    "day": "a date, such as 2026-12-01",
    "options": f"a list of at most {MAX_OPTIONS} strings, each once",
    "normalize": f"one of {', '.join(get_args(Normalize))}",
    "reasoning": f"a string of at most {MAX_CHARACTERS} characters",
    "top": f"a number of tokens, at most {MAX_OPTIONS}",
    "other": "the prompt of another sample: a mapping with messages",
}
"""What each field must be, for the error message. `[]`: an element of the field."""


def _each_once(texts: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(texts)) < len(texts):
        raise ValueError
    return texts


def _as_tuple(value: Any) -> Any:
    """A list as a tuple, and None as an empty one. Anything else as it is."""
    return () if value is None else tuple(value) if isinstance(value, list) else value


Name = Annotated[str, Field(max_length=MAX_NAME_CHARACTERS)] | None
Limit = Annotated[int, Field(ge=1)] | None
SpanName = Annotated[str, StringConstraints(pattern=SPAN_NAME)] | None


class _Fields(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class TextPiece(_Fields):
    """A text of a message. name: its span."""

    type: Literal["text"]
    text: str
    name: SpanName = None


class ImagePiece(_Fields):
    """An image of a message. name: its span."""

    type: Literal["image_url"]
    image_url: Any = None
    name: SpanName = None


class Message(_Fields):
    """A message of a chat."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[list[Annotated[TextPiece | ImagePiece, Field(discriminator="type")]], Field(min_length=1)] | str


class PromptFields(_Fields):
    """The fields of a request that make its prompt."""

    messages: list[Message] = Field(min_length=1)
    seed: Annotated[int, Field(gt=-(2**63), lt=2**63)] | None = None
    user: Name = None


class ExtendedOptions(_Fields):
    """The key `icl` of a request.

    Attributes:
        trace: Whether to return the numbers of each step.
        top: Number of tokens to return of each branch in each step.
        options: Options to score, in place of a text.
        normalize: Normalization of option scores; None: the strategy's own.
        reasoning: What the reasoning block before the options contains.
        other: The prompt of another sample.
        day: The date that the chat template may write, such as 2026-12-01; None: today's.
    """

    model_config = ConfigDict(extra="forbid")

    trace: Annotated[bool, BeforeValidator(bool)] = False
    top: int = Field(default=0, ge=0, le=MAX_OPTIONS)
    options: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        BeforeValidator(_as_tuple),
        Field(max_length=MAX_OPTIONS),
        AfterValidator(_each_once),
    ] = ()
    normalize: Normalize | None = None
    reasoning: Annotated[str, Field(max_length=MAX_CHARACTERS)] = ""
    other: PromptFields | None = None
    day: Annotated[date, Field(strict=False)] | None = None


class ChatFields(PromptFields):
    """The fields of a chat request, except the fields of its strategy."""

    model: Name = None
    max_tokens: Limit = None
    max_completion_tokens: Limit = None
    max_thinking_tokens: Annotated[int, Field(ge=0, le=MAX_THINKING_TOKENS)] | None = None
    stop: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)], ...],
        BeforeValidator(lambda value: (value,) if isinstance(value, str) and value else _as_tuple(value or ())),
        Field(max_length=MAX_STOPS),
    ] = ()
    stream: bool | None = None
    stream_options: Any = None
    return_token_ids: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    mm_processor_kwargs: dict[str, Any] | None = None
    icl: ExtendedOptions | None = None


@dataclass(frozen=True)
class StrategyRequest:
    """A parsed chat request with a strategy.

    Attributes:
        prompt: The prompt.
        arm: Strategy and sampler.
        max_tokens: Maximum number of new tokens, None if the request does not limit them.
        stop: Texts that end the answer.
        stream: Whether to stream the answer.
        model: Name of the model, '' if the request names no model.
        token_ids: Whether to return the token ids of the answer.
        extended: The value of the key `icl`, None without this key.
        stream_usage: Whether the last event of a stream counts tokens.
        max_thinking_tokens: Thinking budget (`decoding.engine.thinking_budget`), or None.
        template: Arguments of the chat template.
        image_processor: Settings of the image processor.
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
    template: Mapping[str, Any] = field(default_factory=dict)
    image_processor: Mapping[str, Any] = field(default_factory=dict)

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
    try:
        fields = ChatFields.model_validate(body)
    except ValidationError as error:
        raise ConfigError(_sentence(body, error)) from None
    extended, thinking = fields.icl, fields.max_thinking_tokens
    if fields.stop and thinking is not None:
        raise ConfigError("stop would also end the reasoning. Remove it, or max_thinking_tokens.")
    if extended is not None and (fields.stream or fields.stop):
        raise ConfigError("icl: these results are available for complete answers only. Remove stream and stop.")
    if extended is not None and extended.options and thinking is not None:
        raise ConfigError(
            "options are scored after the reasoning that icl.reasoning contains. Remove max_thinking_tokens, or "
            "icl.options."
        )
    if extended is not None and extended.reasoning and not extended.options:
        raise ConfigError("icl.reasoning: it precedes options. Add icl.options, or remove it.")
    paired = None if extended is None or extended.other is None else _prompt(extended.other)
    prompt, arm = _prompt(fields, paired), parse_strategy(body)
    answer_mode: Any = "options" if extended is not None and extended.options else "generate"
    check_runs(arm, answer_mode, counts_votes=extended is not None)
    options = fields.stream_options
    return StrategyRequest(
        prompt,
        arm,
        fields.max_tokens if fields.max_completion_tokens is None else fields.max_completion_tokens,
        fields.stop,
        bool(fields.stream),
        fields.model or "",
        bool(fields.return_token_ids),
        extended,
        stream_usage=isinstance(options, dict) and bool(options.get("include_usage")),
        max_thinking_tokens=thinking,
        template=fields.chat_template_kwargs or {},
        image_processor=fields.mm_processor_kwargs or {},
    )


def _sentence(body: Any, error: ValidationError) -> str:
    """What the first invalid field must be, and what it is: 'icl.top must be ..., not 1.5.'."""
    where, words, value = "", "", None
    node: Any = body
    path = error.errors()[0]["loc"]
    for i, key in enumerate(path):
        if key in ("text", "image_url") and isinstance(path[i - 1], int):
            continue  # the type of a piece, before the name of its field
        name = key if isinstance(key, str) else f"{where.rpartition('.')[2].partition('[')[0]}[]"
        if name in WORDS and isinstance(node, list | dict):
            items = dict(enumerate(node)) if isinstance(node, list) else node
            node = items.get(key)
            where += f"[{key}]" if isinstance(key, int) else f".{key}" if where else key
            words, value = WORDS[name], node
    return f"{where} must be {words}, not {value!r:.80}."


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


def _prompt(fields: PromptFields, paired: Prompt | None = None) -> Prompt:
    """The prompt of messages. The last user message is the query and those before it are demonstrations.

    So edits of a strategy find their parts.
    """
    roles = [message.role for message in fields.messages]
    if "user" not in roles:
        raise ConfigError("messages has no message of role 'user'.")
    turns = tuple(
        Turn(message.role, tuple(_parts(message, f"messages[{i}].content", owner)))
        for i, (message, owner) in enumerate(zip(fields.messages, spans.turn_owners(roles), strict=True))
    )
    if sum(len(part.text or "") for turn in turns for part in turn.parts) > MAX_CHARACTERS:
        raise DataError(f"the messages have more than {MAX_CHARACTERS} characters.")
    return Prompt(turns, StreamKey(fields.seed or 0, fields.user or ""), paired_prompt=paired)


def _parts(message: Message, where: str, owner: str) -> Iterator[Part]:
    """The parts of a message. A piece without a name has the usual span of its place."""
    content, images, texts = message.content, 0, 0
    for j, piece in enumerate([TextPiece(type="text", text=content)] if isinstance(content, str) else content):
        if isinstance(piece, ImagePiece):
            usual, data = spans.image(owner, images), _image(piece.image_url, f"{where}[{j}]")
            images += 1
            yield Part(data, usual if piece.name is None else piece.name)
        else:
            usual = "" if texts else spans.turn_text(message.role, owner)
            texts += 1
            yield Part(piece.text, usual if piece.name is None else piece.name)


def _image(url: Any, where: str) -> Image:
    url = url.get("url") if isinstance(url, dict) else url
    if not isinstance(url, str) or not url.startswith("data:image/"):
        raise DataError(f"{where}: send the image itself (data:image/png;base64,...). The server does not fetch URLs.")
    _, _, data = url.partition(";base64,")
    try:
        return Image.from_bytes(base64.b64decode(data, validate=True), where)
    except binascii.Error as error:
        raise DataError(f"{where}: the image is not base64: {error}.") from error
