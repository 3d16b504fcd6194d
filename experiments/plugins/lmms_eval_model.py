"""The model `mm_icl` of lmms-eval: any model of this toolkit, decoded by any strategy.

    lmms-eval --model mm_icl --model_args path=tiny,decoding=vcd,alpha=0.5 --tasks pope

Arguments that begin with `model_` are parameters of the model (`model_dtype=float32`), other ones are parameters of the
strategy. lmms-eval splits its arguments at commas, so nested nodes are in a file: `config=arm.yaml` with the keys
`model` and `decoding` of an experiment file.

A task's `max_new_tokens`, `temperature`, `top_p` and `top_k` count. `until` does not, as with lmms-eval's own chat
models of Hugging Face.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms

from icl import ConfigError, Generation, Image, ModelError, Part, Prompt, StreamKey, Turn, build, spans

if TYPE_CHECKING:
    from decoding import Arm

MAX_NEW_TOKENS = 1024
"""The limit of a task that names none, as in lmms-eval's own models."""

REQUESTS_AT_ONCE = 64
"""Requests with images open at the same time. The engine chooses the size of its batches itself."""

SAMPLING = ("temperature", "top_p", "top_k")
CONFIG_KEYS = ("model", "decoding")


class MMICL(lmms):  # type: ignore[misc]  # lmms_eval has no types
    """A model of this toolkit behind lmms-eval's interface of chat models."""

    is_simple = False

    def __init__(
        self,
        *,
        path: str = "tiny",
        backend: str = "hf",
        decoding: str = "greedy",
        config: str = "",
        seed: int = 0,
        device: str | None = None,
        batch_size: Any = None,
        max_batch_size: Any = None,
        **parameters: Any,
    ) -> None:
        """The model is loaded.

        Args:
            path: The checkpoint.
            backend: The name of a model of this toolkit, such as `hf` or `vllm`.
            decoding: The name of a strategy.
            config: A YAML file with the keys `model` and `decoding`, in place of the other arguments.
            seed: Seed of noise and sampling.
            device: The device of the model, by lmms-eval's option.
            batch_size: Not used: the engine chooses the size of its batches.
            max_batch_size: Not used.
            parameters: Parameters of the model, with the prefix `model_`, and of the strategy.

        Raises:
            ConfigError: An argument is unknown or out of range, or several processes run.
        """
        super().__init__()
        from decoding.arms.arm import parse_arm

        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError("mm_icl runs in one process. Start lmms-eval without accelerate or torchrun.")
        if config:
            if parameters or (path, backend, decoding) != ("tiny", "hf", "greedy"):
                raise ConfigError("model_args: config stands for all other arguments. Write them into that file.")
            model_node, self.node = _read(Path(config))
        else:
            prefix = "model_"
            model_node = {"name": backend, "path": path} | ({} if device is None else {"device": device})
            model_node |= {k.removeprefix(prefix): v for k, v in parameters.items() if k.startswith(prefix)}
            self.node = {"name": decoding} | {k: v for k, v in parameters.items() if not k.startswith(prefix)}
        self.arms: dict[str, Arm] = {"": parse_arm(self.node, "model_args")}
        self.model = build("model", model_node, "model_args")
        self.seed = int(seed)
        if not self.model.abilities & {"logits", "strategies"}:
            raise ConfigError(f"model_args: the model '{model_node['name']}' cannot be decoded by a strategy.")
        self.model.load()

    def generate_until(self, requests: Sequence[Any]) -> list[Any]:
        """The answers in the order of the requests. Raises ModelError if a request gets no answer."""
        answers: list[Any] = []
        for start in range(0, len(requests), REQUESTS_AT_ONCE):
            answers += self._answers([request.args for request in requests[start : start + REQUESTS_AT_ONCE]])
        return answers

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[Any]:
        """Not supported."""
        raise NotImplementedError("mm_icl answers in one turn. Tasks with several rounds are not supported.")

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """Not supported."""
        raise NotImplementedError(
            "mm_icl generates answers. To score options, run the task in this toolkit with answer_mode: options."
        )

    def _answers(self, requests: Sequence[tuple[Any, ...]]) -> list[Any]:
        from decoding.engine.requests import DecodingRequest
        from experiments.running.generation import engine_for

        decoding_requests = []
        for _, messages_of, settings, row, task, split in requests:
            messages = messages_of(self.task_dict[task][split][row])
            prompt = Prompt(tuple(turns_of(messages, f"{task}/{row}")), StreamKey(self.seed, f"{task}/{row}"))
            limit = int(settings.get("max_new_tokens") or MAX_NEW_TOKENS)
            decoding_requests.append(DecodingRequest(prompt, self._arm(settings), max_new_tokens=limit))
        results = engine_for(self.model)(self.model, decoding_requests)
        for result, (*_, row, task, _) in zip(results, requests, strict=True):
            if not isinstance(result, Generation):
                raise ModelError(f"{task}, doc_id {row}: {result.reason}")
        return [GenerationResult(r.text, TokenCounts(r.usage.prompt_tokens, r.usage.new_tokens)) for r in results]

    def _arm(self, settings: Mapping[str, Any]) -> "Arm":
        """The strategy with the sampling of a task. Raises ConfigError for beams."""
        from decoding.arms.arm import parse_arm

        if int(settings.get("num_beams") or 1) > 1:
            raise ConfigError("the task asks for beams (num_beams), which mm_icl does not have. Set num_beams=1.")
        if not float(settings.get("temperature") or 0) or settings.get("do_sample") is False:
            return self.arms[""]
        sampling = {key: settings[key] for key in SAMPLING if settings.get(key) is not None}
        key = repr(sampling)
        if key not in self.arms:
            self.arms[key] = parse_arm(self.node | {"sampling": sampling}, "the task's generation_kwargs")
        return self.arms[key]


def turns_of(messages: Sequence[Mapping[str, Any]], name: str) -> Iterator[Turn]:
    """The turns of chat messages as lmms-eval's tasks give them, with named parts that strategies edit.

    The last message of the user is the query, and those before it are demonstrations.

    Args:
        messages: `role`, and `content`: a text, or pieces with a type, a text, or an image as a PIL image or a path.
        name: The name of the sample, for messages.

    Raises:
        ConfigError: A piece is neither a text nor an image.
    """
    owners = spans.turn_owners([message["role"] for message in messages])
    for message, owner in zip(messages, owners, strict=True):
        role, content = message["role"], message["content"]
        parts, images, texts = list[Part](), 0, 0
        for piece in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if piece["type"] == "text":
                parts.append(Part(str(piece["text"]), "" if texts else spans.turn_text(role, owner)))
                texts += 1
            elif piece["type"] == "image":
                parts.append(Part(_image(piece["url"], f"{name}, image {images}"), spans.image(owner, images)))
                images += 1
            else:
                raise ConfigError(f"{name} has a piece of type {piece['type']}. mm_icl reads texts and images.")
        yield Turn(role, tuple(parts))


def _image(source: Any, origin: str) -> Image:
    return Image.from_path(source, origin) if isinstance(source, str | Path) else Image.from_pil(source, origin)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The nodes of the model and of the decoding in a file. Raises ConfigError."""
    from experiments.config.yaml_document import parse_yaml

    try:
        keys, _ = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise ConfigError(f"model_args, config: {path} cannot be read ({error.strerror}).") from error
    if not isinstance(keys, dict) or set(keys) - set(CONFIG_KEYS):
        raise ConfigError(f"{path} may have the keys {', '.join(CONFIG_KEYS)}, and no others.")
    nodes = [keys.get("model", {"name": "hf", "path": "tiny"}), keys.get("decoding", "greedy")]
    model, decoding = ({"name": node} if isinstance(node, str) else node for node in nodes)
    return model, decoding
