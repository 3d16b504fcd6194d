"""The component `vllm`: a vLLM engine in this process for generation, option scores and every strategy."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

from icl import torch, transformers
from icl.errors import ConfigError, ModelError
from icl.images import Image
from icl.models.base import Model, Request
from icl.models.hf.adapter import LoraAdapter
from icl.models.hf.checkpoint import penalty_notes, text_config
from icl.models.hf.model import HF
from icl.models.hf.prequantized import method
from icl.models.hf.template_facts import TemplateFacts
from icl.models.hf.tracing import CheckpointTracer
from icl.models.tracing import STEPS, TOP, Facts, Stage, Trace, greedy_trace, to_array
from icl.models.vllm import lora
from icl.models.vllm.engine import INSTALL_HINT, PLUGIN_ARGS, OnGroup, Replicas, VLLMEngine, scheduling_args
from icl.models.vllm.engine_io import EngineOutput, EngineRequest, blocks
from icl.registry import Fraction, Positive, PositiveInt, component, later_parameter
from icl.text.json_text import canonical_digest
from icl.text.reasoning_blocks import ReasoningMarkers
from icl.types import Generation, Prompt, Usage

GIB = 2**30
CPU_CACHE_GIB = 2.0
"""Size of the KV cache in GiB without a GPU. vLLM's own default is nine tenths of the memory."""
DEFAULT_MAX_IMAGES = 64
"""Maximum number of images in a prompt, if neither the config nor the run sets it."""

SIXTEEN_BIT_FORMATS = frozenset({"awq", "gptq", "auto_awq", "auto_gptq", "awq_marlin", "gptq_marlin"})
"""Quantization formats with kernels that need 16-bit inputs."""

CPU_COMPILATION = {"custom_ops": ["-rotary_embedding"]}
"""Rotary embeddings in PyTorch. vLLM's kernel for CPUs reads queries of shape [tokens, heads, size], as in LFM2, as
[rows, size], and rotates them by the numbers of rows."""

LENGTH_STEP = 256
"""A planned length is a multiple of this number of tokens."""


@component("model", "vllm")
@dataclass(frozen=True)
class VLLM(Model):
    """A checkpoint in a vLLM engine of this process, which decodes the branches of strategies in step.

    Prompts have the token ids of the backend `hf`, which is checked. All prompts are submitted at once, in an order
    that keeps shared prefixes in the prefix cache.
    """

    abilities: ClassVar[frozenset[str]] = frozenset({"generate", "score", "strategies"})
    supports_adapters: ClassVar[bool] = True
    plans_prompt_sizes: ClassVar[bool] = True
    owns_gpu: ClassVar[bool] = True
    quantizations: ClassVar[tuple[str, ...]] = ("any that vLLM knows", "the checkpoint's own")

    path: str = "tiny"  # hub id, folder, or a shipped checkpoint: `tiny`, `small`
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # auto: float32 on a CPU, else the checkpoint's
    quantization: str | None = None  # awq, gptq, fp8, bitsandbytes, ...; none: as in the checkpoint's config
    adapter: str | None = None  # folder of a LoRA that peft has saved, applied to every request
    merge: bool = False  # merge the adapter into the weights, in a copy of the checkpoint in the cache
    tensor_parallel_size: PositiveInt = 1  # GPUs that share each layer
    data_parallel_size: PositiveInt = 1  # number of engines, each with `tensor_parallel_size` GPUs
    max_model_len: PositiveInt | None = (
        None  # tokens of prompt and answer; none: as the run needs, else the checkpoint's
    )
    max_images: PositiveInt | None = None  # maximum per prompt; none: as the run needs, else 64
    gpu_memory_utilization: Fraction = 0.9  # fraction of a GPU for weights and cache
    cache_gib: Positive | None = None  # size of the KV cache; none: what gpu_memory_utilization leaves, on a CPU 2
    enforce_eager: bool = False  # no compilation and no CUDA graphs: starts faster, decodes slower
    enable_prefix_caching: bool = True  # compute shared prefixes of prompts once
    trace: bool = True  # record numbers of each step; without them greedy decodes outside of groups
    in_flight: PositiveInt = 1024  # maximum number of requests submitted to the engine at once
    trust_remote_code: bool = False  # whether Python code of a checkpoint may run
    revision: str | None = None  # branch, tag or commit on the hub
    template: dict[str, Any] = later_parameter({})  # arguments of the chat template, such as enable_thinking
    image_processor: dict[str, Any] = later_parameter({})  # settings of the image processor, such as max_pixels
    engine_args: dict[str, Any] = field(
        default_factory=dict, hash=False, metadata={"needs_trust": True}
    )  # any other engine argument of vLLM; some of them name classes

    def __post_init__(self) -> None:
        reserved = {
            "model",
            "dtype",
            "quantization",
            "tensor_parallel_size",
            "max_model_len",
            "enforce_eager",
            "revision",
        }
        reserved |= {"scheduler_cls", "logits_processors", "worker_extension_cls", "enable_lora"}
        reserved |= {"data_parallel_size", *(["mm_processor_kwargs"] if self.image_processor else [])}
        if taken := reserved & self.engine_args.keys():
            raise ConfigError(f"model.engine_args: {', '.join(sorted(taken))} is set by the backend or its own fields.")
        if self.merge and self.adapter is None:
            raise ConfigError("model.merge: there is no `adapter` to merge.")

    @cached_property
    def hf(self) -> HF:
        """The model of the backend `hf`, which renders and tokenizes. Its weights are never loaded."""
        return HF(
            self.path,
            trust_remote_code=self.trust_remote_code,
            revision=self.revision,
            template=self.template,
            image_processor=self.image_processor,
        )

    @cached_property
    def lora(self) -> LoraAdapter | None:
        return None if self.adapter is None else LoraAdapter(self.adapter)

    @cached_property
    def digest(self) -> str:
        """Digest of weights and settings that can change an output. Raises ModelError if they do not go together."""
        keys = ("dtype", "quantization", "engine_args")
        settings = {key: value for key, value in asdict(self).items() if key in keys}
        if self.lora is not None:
            settings["adapter"] = self.lora.digest
        settings |= self.hf.prompt_settings
        if self.merge:
            lora.check_merge(self.hf.checkpoint)
            settings["merge"] = True
        return canonical_digest(
            {"backend": "vllm", "checkpoint": self.hf.checkpoint.digest, "device": self.device_type, **settings}
        )[:32]

    @property
    def model_revision(self) -> str:
        return self.hf.model_revision

    @property
    def device_type(self) -> str:
        """'cpu', or the kind of accelerator."""

        return "cuda" if has_gpu() else "cpu"

    @property
    def precision(self) -> str:
        """The value of vLLM's `dtype`; 'auto' is the checkpoint's own.

        AWQ, GPTQ and linear attention have no kernels for float32 on a CPU.
        """
        if self.device_type != "cpu" or self.dtype != "auto":
            return self.dtype
        is_16_bit = (self.quantization or method(self.hf.checkpoint)) in SIXTEEN_BIT_FORMATS
        return "bfloat16" if is_16_bit or "linear_attention" in self._layer_types else "float32"

    @property
    def _layer_types(self) -> frozenset[str]:

        return frozenset(getattr(text_config(self.hf.checkpoint.config), "layer_types", None) or ())

    @property
    def _stores_states(self) -> bool:
        """Whether some layers store a state, according to the caches of transformers for their types."""
        kinds = [transformers.cache_utils.DYNAMIC_LAYER_TYPE_MAPPING.get(name, object) for name in self._layer_types]
        return any(issubclass(kind, transformers.cache_utils.LinearAttentionCacheLayerMixin) for kind in kinds)

    @property
    def request_adapter(self) -> LoraAdapter | None:
        """The adapter of every request, None if it is merged into the weights."""
        return None if self.merge else self.lora

    def weights(self) -> str:
        """Folder or hub id of the weights. Raises ModelError if the adapter cannot be merged into them."""
        if self.merge and self.lora is not None:
            return str(lora.merged(self.hf.checkpoint, self.lora, self.precision))
        return str(self.hf.checkpoint.folder_with_weights)

    def arguments(self) -> dict[str, Any]:
        """The arguments of the engine."""
        cpu = self.device_type == "cpu"
        cache = self.cache_gib or (CPU_CACHE_GIB if cpu else None)
        arguments: dict[str, Any] = {
            "dtype": self.precision,
            "quantization": self.quantization,
            "tensor_parallel_size": self.tensor_parallel_size,
            "max_model_len": self.max_model_len or self._planned_length(),
            "gpu_memory_utilization": self.gpu_memory_utilization,
            "kv_cache_memory_bytes": None if cache is None else math.ceil(cache * GIB),
            "enforce_eager": self.enforce_eager or cpu,
            "enable_prefix_caching": self.enable_prefix_caching,
            "mm_device_do_normalize": False,  # pixels as the checkpoint's own processor makes them, for edits on them
            "limit_mm_per_prompt": {"image": self.max_images or self.planned[0] or DEFAULT_MAX_IMAGES, "video": 0},
            "trust_remote_code": self.trust_remote_code,
            "seed": 0,
        }
        if self.image_processor:
            arguments["mm_processor_kwargs"] = self.image_processor
        if cpu:
            arguments |= {"block_size": self.block_size, "compilation_config": dict(CPU_COMPILATION)}
        if self.request_adapter is not None:
            arguments |= lora.arguments(self.request_adapter)
        is_async = bool(self.engine_args.get("async_scheduling", not cpu))
        return arguments | PLUGIN_ARGS | self.engine_args | scheduling_args(is_async, self.has_groups)

    @property
    def block_size(self) -> int:
        """Tokens of a block of the KV cache. Only complete blocks are shared; vLLM's 128 for CPUs would share few."""
        return int(self.engine_args.get("block_size", 32 if self.device_type == "cpu" else 16))

    def prefix_blocks(self, prompt: Prompt) -> tuple[int, list[int]]:
        """Block size, and a number for each block of a prompt that can be in the prefix cache.

        Equal numbers mean equal prompts up to the end of the block. A model with recurrent layers has no numbers: vLLM
        chooses blocks of the size of a state when it starts.
        """
        is_cached = self.enable_prefix_caching and not self._stores_states
        hashes = blocks(self.hf, prompt, self.block_size) if is_cached else []
        return self.block_size, hashes

    @cached_property
    def planned(self) -> tuple[int, int, int]:
        """Numbers of images, tokens and branches that a run will need; 0 without a plan."""
        return 0, 0, 0

    def expect_prompts(self, images: int, tokens: int, branches: int) -> None:
        """Sets what the largest prompt of a run needs, before the engine starts. A larger prompt restarts it."""
        vars(self)["planned"] = images, tokens, branches

    @property
    def has_groups(self) -> bool:
        """Whether an engine that starts now decodes the branches of strategies in step, by this project's scheduler.

        Otherwise every prompt of the run decodes alone, by vLLM's own scheduler.
        """
        return self.planned[2] != 1

    @property
    def is_planned(self) -> bool:
        """Whether an engine that starts now has lower limits than the checkpoint allows."""
        return bool(
            (self.max_images is None and self.planned[0]) or (not self.max_model_len and self._planned_length())
        )

    def _planned_length(self) -> int | None:
        """Context length for the plan. None: the checkpoint's."""
        tokens, limit = LENGTH_STEP * math.ceil(self.planned[1] / LENGTH_STEP), self.hf.max_tokens
        return None if not tokens or (limit is not None and tokens >= limit) else tokens

    @cached_property
    def engine(self) -> VLLMEngine | Replicas:
        return VLLMEngine(self) if self.data_parallel_size == 1 else Replicas(self)

    def set_day(self, day: date) -> None:
        self.hf.set_day(day)

    def check_loadable(self) -> None:
        if find_spec("vllm") is None:
            raise ModelError(f"the backend 'vllm' needs the package vllm, which is not installed here. {INSTALL_HINT}")
        self.hf.check_loadable()

    def load(self) -> None:
        _ = self.engine

    def unload(self) -> None:
        """Stops the engine and frees its memory."""
        if "engine" in self.__dict__:
            self.engine.stop()
            del self.__dict__["engine"]

    @property
    def max_tokens(self) -> int | None:
        limits = [limit for limit in (self.max_model_len, self.hf.max_tokens) if limit is not None]
        return min(limits, default=None)

    @property
    def plan_notes(self) -> tuple[str, ...]:

        return (*penalty_notes(self.hf.checkpoint), *self.hf.prompt_notes)

    @property
    def stop_tokens(self) -> frozenset[int]:
        return self.hf.stop_tokens

    def thinking_budget_refusal(self) -> None:
        """None: the logits processor of the engine limits reasoning blocks."""

    @property
    def tokenizer(self) -> Any:
        """The `transformers` tokenizer."""
        return self.hf.tokenizer

    def tokens_of_image(self, image: Image) -> tuple[int, int] | None:
        return self.hf.tokens_of_image(image)

    def count_tokens(self, prompt: Prompt) -> int:
        return self.hf.count_tokens(prompt)

    @property
    def template_facts(self) -> TemplateFacts:
        return self.hf.template_facts

    @property
    def reasoning_block(self) -> ReasoningMarkers | None:
        return self.hf.reasoning_block

    def render(self, prompt: Prompt) -> str:
        return self.hf.render(prompt)

    def tracer(self) -> "VLLMTracer":

        return VLLMTracer(self)

    def text(self, tokens: Sequence[int]) -> str:
        return self.hf.text(tokens)

    def before_answer(self, prompt: Prompt, reasoning: str = "") -> Prompt:
        return self.hf.before_answer(prompt, reasoning)

    def option_ids(self, prompt: Prompt, options: Sequence[str]) -> list[list[int]]:
        return self.hf.option_ids(prompt, options)

    def counters(self) -> Mapping[str, int]:
        """requests, prompt_tokens, cached_tokens (found in the prefix cache), new_tokens, num_images."""
        return self.engine.counts

    def run_groups(self, groups: Iterable[Sequence[EngineRequest]], on_group: OnGroup) -> None:
        """Runs groups of prompts. Calls `on_group` with number and outputs of a group as soon as it has ended."""
        self.engine.run(groups, on_group)

    def take_records(self, groups: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        """Removes the records of groups from the engine, and returns them: traces, option log-probabilities, faults."""
        return self.engine.take_records(groups)

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        if any(request.max_thinking_tokens is not None for request in requests):
            raise ModelError(
                "`generate` does not limit reasoning. Use `icl.answer(..., max_thinking_tokens=...)` or "
                "`decoding.lockstep.engine.run_requests`."
            )
        answers: dict[int, Generation] = {}

        def on_group(number: int, outputs: list[EngineOutput]) -> None:
            answers[number] = self._generation(outputs[0])

        self.run_groups([[EngineRequest(request.prompt, request.max_new_tokens)] for request in requests], on_group)
        return [answers[i] for i in range(len(requests))]

    def _generation(self, output: EngineOutput) -> Generation:
        if output.finish not in ("stop", "length"):
            raise ModelError(output.reason or f"vLLM ended the request: {output.finish}.")
        stopped = bool(output.tokens) and output.tokens[-1] in self.stop_tokens
        tokens = output.tokens[:-1] if stopped else output.tokens
        usage = Usage(output.prompt_tokens, len(output.tokens), len(output.tokens))
        return Generation(self.text(tokens), tokens, "stop" if stopped else "length", usage)


DEVICES = Path("/dev")
DEVICE_FILES = ("nvidia[0-9]*", "dxg", "kfd")
"""Files of NVIDIA GPUs, of GPUs in the Windows Subsystem for Linux, and of AMD GPUs."""


def has_gpu() -> bool:
    """Whether torch can use a GPU here, found out without starting CUDA in this process.

    vLLM forks its engine's process unless CUDA was started before, and a fork of a process that asked CUDA for its
    devices cannot use CUDA ("Cannot re-initialize CUDA in forked subprocess"). `torch.cuda.is_available()` asks CUDA,
    and so does `torch.cuda.device_count()` if NVML does not work.
    """
    if torch.version.cuda is None and torch.version.hip is None:
        return False
    if os.name == "posix" and not any(any(DEVICES.glob(pattern)) for pattern in DEVICE_FILES):
        return False
    return torch.cuda.device_count() > 0


# Traces of prompts through a vLLM engine of this process.


class VLLMTracer(CheckpointTracer):
    """Shows every stage but image features, which stay in the engine."""

    @property
    def hidden(self) -> Mapping[Stage, str]:
        return {Stage.FEATURES: "not visible in vLLM's engine"}

    @cached_property
    def facts(self) -> Facts:
        return self.facts_with(str(self._engine.llm.model_config.dtype), self.model.quantization)

    @property
    def _engine(self) -> Any:
        """The engine, or the first of several."""
        engine: Any = self.model.engine
        return getattr(engine, "engines", [engine])[0]

    def trace(self, prompt: Prompt, *, raw_images: bool = False) -> Trace:
        processed = self._engine.inputs.processed(prompt)
        pixels = [item.get("pixel_values") for item in (processed["mm_kwargs"]["image"] if prompt.images else ())]
        ids, outputs = tuple(processed["prompt_token_ids"]), list[EngineOutput]()
        self.model.run_groups([[EngineRequest(prompt, STEPS, top=TOP)]], lambda _, group: outputs.extend(group))
        return greedy_trace(
            self.model,
            outputs[0].steps,
            text=self.model.render(prompt),
            ids=ids,
            prompt_tokens=len(ids),
            pixels=None if None in pixels else tuple(to_array(one.data) for one in pixels),
            error=outputs[0].reason,
        )
