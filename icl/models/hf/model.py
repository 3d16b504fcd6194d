"""The model `hf`: any vision-language checkpoint of transformers, and any language model that reads text only."""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import date
from functools import cached_property
from typing import Any, ClassVar, Literal, cast, get_args

from icl import (
    END,
    Image,
    Intervention,
    LogitModel,
    LRUByteCache,
    Prompt,
    ReasoningMarkers,
    Session,
    Site,
    StateObserver,
    Tensor,
    Where,
    canonical_digest,
    np,
    steer,
    torch,
)
from icl.errors import ConfigError, ModelError, did_you_mean
from icl.models import hf
from icl.models.hf.device_placement import TYPES
from icl.registry import Count, NonNegative, PositiveInt, component, later_parameter

CHOICE_KEYS = ("dtype", "quantize", "compute_dtype")
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantize = Literal["none", "nf4", "fp4", "int8"]
DTYPES: tuple[str, ...] = get_args(Dtype)
QUANTIZE: tuple[str, ...] = get_args(Quantize)
ATTENTION = (
    "auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention",
)  # fmt: skip
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
FOUR_BITS = ("double_quant", "compute_dtype", "quantize_vision", "quantize_head")
QUANTIZATION_SETTINGS = {
    "nf4": FOUR_BITS,
    "fp4": FOUR_BITS,
    "int8": ("outlier_threshold", "quantize_vision", "quantize_head"),
}
"""The settings that each quantization uses."""

FEATURE_CACHE_MB = 512
"""`image_cache_mb` for the cache of processed pixels in main memory, which has a quarter of it."""

CACHED_CHARACTERS = 32 * 2**20
"""Size of the cache of prompt texts with expanded image placeholders."""


@component("model", "hf")
@dataclass(frozen=True)
class HF(LogitModel):
    """Most AutoModelForImageTextToText checkpoints of transformers, with their processor, or a language model of text.

    Image features are cached, common prefixes are prefilled once, and prompts of similar length run together. A batch
    that does not fit into memory is halved.
    """

    abilities: ClassVar[frozenset[str]] = frozenset(
        {"logits", "score", "hidden_states", "embed", "text_logprobs", "interventions"}
    )
    quantizations: ClassVar[tuple[str, ...]] = (
        *QUANTIZE[1:],
        "the checkpoint's own (gptq, awq, compressed-tensors, …)",
    )
    supports_adapters: ClassVar[bool] = True

    path: str = "tiny"  # hub id, folder, or a shipped checkpoint: `tiny`, `small`
    dtype: Dtype = "auto"  # auto: float32 on a CPU, else the checkpoint's own
    device: str = "auto"  # auto: cuda if available; or cpu, cuda, cuda:1, mps
    device_map: str | None = None  # of accelerate (auto, balanced, …), to spread the layers; device is ignored then
    attn_implementation: str = field(
        default="auto", metadata={"needs_trust": lambda name: str(name) not in ATTENTION}
    )  # auto: transformers chooses; sdpa, eager, flash_attention_2; owner/name: a kernel of the hub, which is code
    quantize: Quantize = "none"  # weights by bitsandbytes; none: as stored, also packed (GPTQ, AWQ)
    double_quant: bool = False  # nf4, fp4: whether scales are stored in 8 bits
    compute_dtype: Dtype = "auto"  # nf4, fp4: dtype of products; auto: `dtype`
    outlier_threshold: NonNegative = (
        6.0  # int8: larger inputs run in 16 bits; 0: none, so rows do not depend on the batch
    )
    quantize_vision: bool = False  # whether the vision tower and its projection are quantized too
    quantize_head: bool = False  # whether the output head is quantized too
    adapter: str | None = None  # folder of a LoRA adapter saved by peft
    merge: bool = False  # whether the adapter is merged into the weights: faster, equal up to rounding
    token_budget: PositiveInt | None = later_parameter(None, 8192)
    # padded tokens of one prefill, a quarter of the tokens of all rows; null: by free memory
    image_cache_mb: Count | None = later_parameter(None, 512)  # MiB of cached image features; null: by free memory
    trust_remote_code: bool = False  # whether Python code of the checkpoint may run
    revision: str | None = None  # branch, tag or commit on the hub
    template: dict[str, Any] = later_parameter({})  # arguments of the chat template, such as enable_thinking
    image_processor: dict[str, Any] = later_parameter({})  # settings of the image processor, such as max_pixels
    cuda_graphs: bool = later_parameter(False)  # run decoding steps as CUDA graphs; not those with interventions

    def __post_init__(self) -> None:
        values = (self.dtype, self.quantize, self.compute_dtype)
        for key, value, choices in zip(CHOICE_KEYS, values, (DTYPES, QUANTIZE, DTYPES), strict=True):
            if value not in choices:
                raise ConfigError(
                    f"model.{key}: '{value}' is not known.{did_you_mean(value, choices)} Known: {', '.join(choices)}."
                )
        self._check_word("attn_implementation", ATTENTION, "/" in self.attn_implementation, "a kernel on the hub")
        if self.device_map is not None:
            is_device = self.device_map.partition(":")[0] in TYPES
            self._check_word("device_map", DEVICE_MAPS, is_device, "a device")
        for key in ("quantize_vision", "quantize_head") if self.quantize == "none" else ():
            if getattr(self, key):
                raise ConfigError(f"model.{key} only applies if `quantize` is set, but it is none.")
        if self.cuda_graphs and (self.device_map is not None or self.device.startswith(("mps", "xpu"))):
            raise ConfigError("model.cuda_graphs: a CUDA graph runs on one GPU. Remove `device_map`, or `cuda_graphs`.")
        if self.merge and self.adapter is None:
            raise ConfigError("model.merge: there is no `adapter` to merge.")
        if self.merge and self.quantize != "none":
            raise ConfigError(
                f"model.merge: an adapter merged into {self.quantize} weights would be rounded to them. Use "
                "`merge: false`, or merge into full precision and save that."
            )

    def _check_word(self, key: str, words: tuple[str, ...], is_other: bool, other: str) -> None:
        """Raise ConfigError if a parameter is none of the words, nor `other`."""
        value = getattr(self, key)
        if value not in words and not is_other:
            raise ConfigError(
                f"model.{key}: '{value}' is not known.{did_you_mean(value, words)} "
                f"Known: {', '.join(words)}, or {other}."
            )

    @cached_property
    def checkpoint(self) -> "hf.Checkpoint":
        return hf.Checkpoint(self.path, self.revision, self.trust_remote_code, self.image_processor)

    @cached_property
    def digest(self) -> str:
        """Name of the weights and of the settings that can change an output. Token budget and cache sizes cannot.

        Raises:
            ModelError: Checkpoint, adapter, device and installation do not fit together.
        """
        self.quantization.check()
        names = ["attn_implementation", "quantize", *QUANTIZATION_SETTINGS.get(self.quantize, ())]
        settings = {name: getattr(self, name) for name in names}
        settings |= self.prompt_settings
        if self.cuda_graphs:
            settings["cuda_graphs"] = True
        if self.lora is not None:
            self.lora.check_base(self.path)
            settings |= {"adapter": self.lora.digest, "merge": self.merge}
        precision = hf.resolve_dtype(self.device, self.device_map, self.dtype)
        return canonical_digest({"checkpoint": self.checkpoint.digest, "dtype": precision, **settings})[:32]

    @cached_property
    def prompt_settings(self) -> Mapping[str, Any]:
        """What is set of the parameters that change prompts, for a digest. Raises ModelError if one is wrong."""
        settings = {}
        if self.image_processor:
            hf.check_settings(self.checkpoint)
            settings["image_processor"] = self.image_processor
        if self.template:
            hf.check_arguments(self.renderer)
            settings["template"] = self.template
        return settings

    @property
    def model_revision(self) -> str:
        return self.checkpoint.hub_name

    @property
    def quantization(self) -> "hf.Quantization":
        return hf.Quantization(**{one.name: getattr(self, one.name) for one in fields(hf.Quantization)})

    @cached_property
    def lora(self) -> "hf.LoraAdapter | None":
        return None if self.adapter is None else hf.LoraAdapter(self.adapter)

    @cached_property
    def renderer(self) -> "hf.PromptRenderer":
        return hf.PromptRenderer(self.checkpoint.processor, self.path, self.path in hf.SHIPPED, self.template, self.day)

    @cached_property
    def day(self) -> date:
        """The date that a chat template may write into prompts."""
        return date.today()

    def set_day(self, day: date) -> None:
        if day == self.day:
            return
        vars(self)["day"] = day
        for name in ("renderer", "_wholes"):  # what is cached may have another date
            vars(self).pop(name, None)

    @cached_property
    def pixels(self) -> "hf.ImageProcessor":
        cache_mb = FEATURE_CACHE_MB if self.image_cache_mb is None else self.image_cache_mb
        return hf.ImageProcessor(self.checkpoint.processor, cache_mb * 2**20 // 4)

    @cached_property
    def engine(self) -> "hf.HFEngine":
        return hf.HFEngine(self)

    @property
    def max_tokens(self) -> int | None:
        return hf.max_tokens(self.checkpoint.config)

    @property
    def num_layers(self) -> int:
        return int(hf.text_config(self.checkpoint.config).num_hidden_layers)

    @property
    def image_token_problem(self) -> str | None:
        return hf.image_token_problem(self.checkpoint.config)

    @cached_property
    def stop_tokens(self) -> frozenset[int]:
        return hf.stop_tokens(self.checkpoint)

    @property
    def plan_notes(self) -> tuple[str, ...]:
        """Notes on a quantized checkpoint, on its generation config, and on prompts."""
        method = hf.prequantized.method(self.checkpoint)
        packed = (hf.prequantized.note(method),) if method else ()
        return (*packed, *hf.penalty_notes(self.checkpoint), *self.prompt_notes)

    @cached_property
    def prompt_notes(self) -> tuple[str, ...]:
        """Notes on how prompts are written, the same for every backend that renders them."""
        plain = f"{self.path} has no chat template: a prompt is plain text without roles, as for a base model."
        return (
            *([plain] if self._is_plain_text else []),
            *(hf.argument_notes(self.renderer) if self.template else ()),
            *(hf.setting_notes(self.checkpoint) if self.image_processor else ()),
        )

    @property
    def _is_plain_text(self) -> bool:
        """Whether the checkpoint has no chat template. A plan of counted prompts reads no processor for that."""
        stores_template = self.checkpoint.stores_template
        return not stores_template and hf.is_plain_text(self.checkpoint.processor.chat_template)

    @property
    def device_type(self) -> str:
        return hf.resolve_device(self.device, self.device_map)[0]

    def gpu_bytes(self, total: float) -> float:
        """The weights, and a quarter of the GPU for batches and features; all of it if that cannot be estimated."""
        if self.device_type == "cpu":
            return 0.0
        try:
            return hf.model_bytes(
                self.memory_needs(hf.resolve_dtype(self.device, self.device_map, self.dtype)).weights, total
            )
        except ModelError:  # `load` says what is wrong with the checkpoint, if anything is
            return total

    def memory_plan(self, request: "hf.RequestSize", device: float) -> "hf.MemoryPlan | None":
        """What the checkpoint needs on a GPU of `device` bytes. None if its weights are stored packed.

        Raises:
            ModelError: The config of the checkpoint cannot be read, or lacks a size.
            ImageError: The largest image cannot be read.
        """
        if hf.prequantized.method(self.checkpoint):
            return None
        plan = hf.plan_memory(
            self.memory_needs(self.dtype, request),
            request,
            device,
            token_budget=self.token_budget,
            max_feature_bytes=self.max_feature_bytes,
        )
        return plan if self.device_map is None else replace(plan, problem="")

    @property
    def max_feature_bytes(self) -> int | None:
        """Size of the cache of image features in bytes, if `image_cache_mb` sets it."""
        return None if self.image_cache_mb is None else self.image_cache_mb * 2**20

    def memory_needs(self, dtype: str, request: "hf.RequestSize | None" = None) -> "hf.MemoryNeeds":
        """What the checkpoint needs, with a pass of its vision tower over the request's largest image.

        A checkpoint that is stored packed counts as if it were not. Raises as `memory_plan`.

        Args:
            dtype: Name of the dtype, or 'auto' for the checkpoint's own.
            request: The largest request.
        """

        config, attention = self.checkpoint.config, self.attn_implementation
        kind = getattr(torch, dtype) if dtype != "auto" else getattr(config, "dtype", None) or torch.float32
        stored = hf.WeightPrecision(str(kind).removeprefix("torch."), kind.itemsize, self.quantize, self.double_quant)
        shape = hf.model_shape(
            config,
            vision=self.quantize_vision,
            head=self.quantize_head,
            trust_remote_code=self.trust_remote_code,
        )
        tower = hf.tower_sizes(config)
        if tower is not None and request is not None and request.largest_image is not None:
            ((inputs, _),) = self.pixels.pixels([(hf.without_pixel_edits(request.largest_image), False)])
            tower = replace(
                tower.of(inputs),
                tokens=request.image_tokens,
                token_values=shape.hidden,
                element_bytes=stored.element_bytes,
                attention=attention,
            )
        passes = tower if tower is not None and tower.patches else None
        return hf.MemoryNeeds(shape, stored, attention, passes, self.cuda_graphs)

    def check_memory(self, requests: "Iterable[hf.RequestSize]") -> None:
        """Raise ModelError if the weights and one of the requests do not fit into the free memory of the device.

        Nothing is reserved, so that only what cannot fit is an error. Layers that `device_map` spreads are left to
        accelerate, which moves what does not fit to main memory. Nothing is checked if the memory of the architecture
        cannot be estimated, or if the model is loaded: its weights are then in the memory that is not free.
        """
        if "engine" in vars(self) or self.device_map is not None or hf.prequantized.method(self.checkpoint):
            return
        place, dtype = hf.resolve_device(self.device)[1], hf.resolve_dtype(self.device, None, self.dtype)
        if problem := hf.free_shortage(lambda request: self.memory_needs(dtype, request), requests, place):
            raise ModelError(f"model {self.path}: {problem}")

    @property
    def notes(self) -> tuple[str, ...]:
        """What is switched off for this checkpoint, and why. Loads the model."""
        return self.engine.notes

    @property
    def weights_bytes(self) -> int:
        """Bytes of all parameters and buffers in memory."""
        return int(self.engine.runner.model.get_memory_footprint())

    @property
    def max_batch_tokens(self) -> int:
        """Tokens of all rows of a batch. Loads the model: the memory that is then free decides."""
        return self.engine.budgets.row_tokens

    @property
    def row_overhead(self) -> int:
        return self.engine.budgets.row_overhead

    def free_buffers(self) -> None:
        self.engine.free_buffers()

    def check_loadable(self) -> None:
        self.checkpoint.check_weights()

    def load(self) -> None:
        self.check_loadable()
        _ = self.stop_tokens, self.engine

    def unload(self) -> None:
        """Free weights and caches. The next use loads them again."""
        engine = vars(self).pop("engine", None)
        if engine is not None:
            model = weakref.ref(engine.runner.model)
            del engine
            hf.free(collect=model() is not None)

    @cached_property
    def template_facts(self) -> "hf.TemplateFacts":
        """What the chat template does. Kept in the cache folder, so that a plan need not load the processor."""
        return hf.kept_facts([self.checkpoint.digest, self.template], lambda: self.renderer.facts)

    @property
    def reasoning_block(self) -> ReasoningMarkers | None:
        return self.renderer.facts.block

    def render(self, prompt: Prompt) -> str:
        """The text that the model reads, with one placeholder for each image. Raises ModelError."""
        return self.renderer.text(prompt)

    def count_tokens(self, prompt: Prompt) -> int:
        return len(self.token_ids(prompt))

    def thinking_budget_refusal(self) -> None:
        """None: the token loop limits reasoning blocks."""

    @property
    def tokenizer(self) -> Any:
        return self.renderer.tokenizer

    def token_ids(self, prompt: Prompt) -> Sequence[int]:
        if prompt.images and not self._by_parts:
            ids: list[int] = hf.process_prompt(self.renderer, prompt)["input_ids"][0].tolist()
            return ids
        return self.ids(prompt)

    def tokens_of_image(self, image: Image) -> tuple[int, int] | None:
        """As `Model.tokens_of_image`. None if the processor does not report what it writes for an image."""
        counts = []
        for model in (self, replace(self, image_processor={})) if self.image_processor else (self,):
            _, text = model.pixels.process(image.open(), 1)
            if text == hf.UNKNOWN_TEXT:
                return None
            ids = hf.image_placeholder(model.checkpoint.processor, model.checkpoint.config).ids
            counts.append(sum(token in ids for token in model.renderer.ids(text)))
        return counts[0], counts[-1]

    def ids(self, prompt: Prompt) -> tuple[int, ...]:
        """Token ids of a prompt with expanded image placeholders. Cached, because a run asks for them often."""
        whole = self._wholes.get(prompt.digest)
        if whole is None:
            text, images = self.renderer.text(prompt), prompt.images
            pieces = [self.pixels.text(image, len(images)) for image in images]
            whole = self._wholes.put(prompt.digest, self.renderer.expanded(text, pieces))
        return self.renderer.ids(whole)

    @property
    def shares_prefix(self) -> bool:
        """Whether new prompts can reuse the KV cache of another session's rows. Loads the model."""
        return self.engine.shares_prefix

    def open(
        self,
        prompts: Sequence[Prompt],
        *,
        early_exits: bool = False,
        prefix_source: Session | None = None,
        interventions: "Sequence[Intervention | None] | None" = None,
        observe: StateObserver | None = None,
    ) -> "hf.HFSession":
        """As `LogitModel.open`.

        Args:
            prompts: At least one prompt.
            early_exits: Whether the session has `early_exit_logits`.
            prefix_source: A session of this model. Its rows may be reused.
            interventions: One for each prompt, or None, after those that the prompt carries.
            observe: Sees the states of every row.
        """
        if not prompts:
            raise ModelError("a session needs at least one prompt.")
        if interventions is not None:
            prompts = [
                steer(p, *(() if one is None else (one,))) for p, one in zip(prompts, interventions, strict=True)
            ]
        return self.engine.open(prompts, early_exits, cast("hf.HFSession | None", prefix_source), observe)

    @property
    def sites(self) -> "hf.DecoderSites":
        """The places of hidden states that interventions can name. Loads the model. Raises ModelError."""
        return self.engine.runner.sites

    def observe(
        self,
        prompts: Sequence[Prompt],
        sites: "Sequence[Site]",
        where: "Where" = END,
        reduce: "Callable[[Tensor], Tensor] | None" = None,
    ) -> "list[dict[Site, Tensor]]":
        """The states of each prompt at some sites, under the interventions that it carries.

        Args:
            prompts: The prompts.
            sites: What is read, for all prompts.
            where: The tokens to return states of. The states of others are not stored.
            reduce: From the states of some tokens [n, ...] to what is returned of each [n, ...], if not the states.

        Returns:
            For each prompt, site -> states [tokens, d] (heads: [tokens, H, e]) in float32 on the host.

        Raises:
            ModelError: The model lacks a site, or a prompt a part.
        """
        return hf.observed_states(self.engine.prompt_encoder, prompts, tuple(sites), where, reduce)

    def image_logits(self, prompt: Prompt, layer: int, names: Sequence[str]) -> "list[Tensor]":
        """The model's final norm and output layer on a layer's states of tokens of images.

        Args:
            prompt: The prompt.
            layer: The layer, from 0.
            names: Names of the images, such as demo[0].image[0].

        Returns:
            For each image [n, V] float32 on the host.

        Raises:
            ModelError: The model has no such layer, or the prompt no such image.
        """
        return hf.image_logits(self.engine.prompt_encoder, prompt, layer, names)

    def patch_grid(self, image: Image) -> tuple[int, int]:
        """Rows and columns of an image's tokens, if each stands for one patch of a grid over the whole image.

        Measured once for each size of images (`icl.models.hf.patch_grid`). Raises ModelError if they do not.
        """
        if image.size not in self._grids:
            self._grids[image.size] = hf.measure_grid(self.observe, self.path, image.size)
        return self._grids[image.size]

    @cached_property
    def _grids(self) -> dict[tuple[int, int], tuple[int, int]]:
        return {}

    def span_tokens(self, prompts: Sequence[Prompt], spans: Sequence[str]) -> list[dict[str, list[tuple[int, int]]]]:
        """For each prompt, span -> (first, after the last) of each run of tokens of the part, or of the group's parts.

        A text is one run. An image has its patches, without markers between their rows.

        Raises:
            ModelError: A prompt has no such part, or its images have no tokens (`image_token_problem`).
        """
        return hf.tokens_by_span(self.engine.prompt_encoder, prompts, spans)

    def enable_threads(self) -> bool:
        """Whether prompts are read part by part. Otherwise the processor on whole prompts is not for two threads."""
        if not self.engine.prompt_encoder.by_parts or not self._by_parts:
            return False
        self.pixels.separate_tokenizer()
        return True

    def prepare_ahead(self, prompts: Sequence[Prompt]) -> None:
        """Process images that are neither encoded nor processed yet."""
        if self.engine.prompt_encoder.encoder is not None:
            self.engine.prompt_encoder.encoder.prepare_ahead([prompt.images for prompt in prompts])

    def embed(self, prompts: Sequence[Prompt]) -> "np.ndarray":
        """Hidden state of the last layer at each prompt's last token: [N, D] float32. Raises as `open`."""
        return hf.last_states(self.engine.prompt_encoder, prompts).numpy()

    def text_logprobs(self, prompts: Sequence[Prompt], name: str) -> list[list[float]]:
        """For each prompt, the log-probability of each token of its part `name`. Raises ModelError, ImageError."""
        return hf.text_logprobs(self.engine.prompt_encoder, prompts, name)

    def tracer(self) -> "hf.HFTracer":
        return hf.HFTracer(self)

    def text(self, tokens: Sequence[int]) -> str:
        return self._answers.text(tokens)

    def before_answer(self, prompt: Prompt, reasoning: str = "") -> Prompt:
        return replace(prompt, answer_start=self.renderer.answer_start(prompt, reasoning))

    def option_ids(self, prompt: Prompt, options: Sequence[str]) -> list[list[int]]:
        return self.renderer.option_ids(prompt, options)

    def counters(self) -> Mapping[str, int]:
        return asdict(self.engine.counters)

    @cached_property
    def _answers(self) -> "hf.AnswerDecoder":
        return hf.AnswerDecoder(self.renderer.tokenizer, self.renderer.facts)

    @cached_property
    def _by_parts(self) -> bool:
        return self.renderer.text_only or hf.reads_by_parts(self.renderer, self.pixels)

    @cached_property
    def _wholes(self) -> LRUByteCache[str, str]:
        return LRUByteCache(CACHED_CHARACTERS, len)
