"""The component `hf`: any vision-language checkpoint of transformers, opened as sessions of rows."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal

from icl.errors import ConfigError, ModelError, did_you_mean
from icl.models.base import Request
from icl.params import Count, PositiveInt
from icl.registry import component
from icl.types import Generation, Prompt

if TYPE_CHECKING:
    from icl.models.hf.checkpoint import Checkpoint
    from icl.models.hf.engine import Engine
    from icl.models.hf.pixels import PictureProcessor
    from icl.models.hf.rendering import Renderer
    from icl.models.hf.rows import Rows

DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZE = ("none",)


@component("model", "hf")
@dataclass(frozen=True)
class HF:
    """Any AutoModelForImageTextToText checkpoint with its processor, in batches, by sessions.

    Pictures are encoded once and kept, beginnings that prompts share are prefilled once, prompts of like length run
    together. Out of memory halves the batch.
    """

    abilities: ClassVar[frozenset[str]] = frozenset({"logits", "score"})
    needs: ClassVar[frozenset[str]] = frozenset()

    path: str = "tiny"  # hub id, folder, or `tiny`: the checkpoint that comes with the toolkit
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = (
        "auto"  # auto: float32 on a CPU, else the checkpoint's own
    )
    device: str = "auto"  # auto: cuda where there is one; cpu, cuda, cuda:1, mps
    device_map: str | None = None  # of accelerate (auto, balanced, …), to spread the layers; device is not read then
    attn_implementation: str = "auto"  # auto: transformers chooses; sdpa, eager, flash_attention_2
    quantize: Literal["none"] = "none"
    token_budget: PositiveInt = 8192  # padded tokens of one prefill forward
    picture_cache_mb: Count = 512  # MiB of picture features kept; a quarter of it again for processed pixels
    trust_remote_code: bool = False  # whether Python code that a checkpoint brings along may run
    revision: str | None = None  # branch, tag or commit on the hub

    def __post_init__(self) -> None:
        for key, value, known in (("dtype", self.dtype, DTYPES), ("quantize", self.quantize, QUANTIZE)):
            if value not in known:
                raise ConfigError(
                    f"model.{key}: '{value}' is not known.{did_you_mean(value, known)} Known: {', '.join(known)}."
                )

    @cached_property
    def checkpoint(self) -> "Checkpoint":
        from icl.models.hf.checkpoint import Checkpoint

        return Checkpoint(self.path, self.revision, self.trust_remote_code)

    @cached_property
    def digest(self) -> str:
        """Names weights and the settings that can change an output (budget and caches cannot)."""
        from icl.models.hf import placing
        from icl.models.hf.checkpoint import told

        settings = {key: value for key, value in asdict(self).items() if key in ("attn_implementation", "quantize")}
        precision = placing.precision(self.device, self.device_map, self.dtype)
        return told({"checkpoint": self.checkpoint.digest, "dtype": precision, **settings})[:32]

    @cached_property
    def renderer(self) -> "Renderer":
        from icl.models.hf.rendering import Renderer

        return Renderer(self.checkpoint.processor, self.path)

    @cached_property
    def pixels(self) -> "PictureProcessor":
        from icl.models.hf.pixels import PictureProcessor

        return PictureProcessor(self.checkpoint.processor, self.picture_cache_mb * 2**20 // 4)

    @cached_property
    def engine(self) -> "Engine":
        from icl.models.hf.engine import Engine

        return Engine(self)

    @property
    def max_tokens(self) -> int | None:
        from icl.models.hf.checkpoint import max_tokens

        return max_tokens(self.checkpoint.config)

    @cached_property
    def stop_tokens(self) -> frozenset[int]:
        from icl.models.hf.checkpoint import stop_tokens

        return stop_tokens(self.checkpoint)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is switched off for this checkpoint and why, once it is loaded."""
        return self.engine.notes

    def load(self) -> None:
        _ = self.engine

    def unload(self) -> None:
        """Let the weights and caches go; the next use reads them again."""
        from icl.models.hf.memory import free

        if vars(self).pop("engine", None) is not None:
            free()

    def rendered(self, prompt: Prompt) -> str:
        """The text that the model reads, one placeholder a picture. Raises ModelError."""
        return self.renderer.text(prompt)

    def count_tokens(self, prompt: Prompt) -> int:
        return len(self.renderer.ids(self._whole(prompt)))

    def open(self, prompts: Sequence[Prompt]) -> "Rows":
        if not prompts:
            raise ModelError("a session needs at least one prompt.")
        return self.engine.open(prompts)

    def text(self, tokens: Sequence[int]) -> str:
        return str(self.renderer.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()

    def option_ids(self, prompt: Prompt, options: Sequence[str]) -> list[list[int]]:
        return self.renderer.option_ids(prompt, options)

    def counters(self) -> Mapping[str, int]:
        return self.engine.counters.told()

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        raise ModelError(
            "the backend 'hf' answers through sessions: use `decoding.engine.run_jobs`, which runs any strategy on it."
        )

    def _whole(self, prompt: Prompt) -> str:
        shown = prompt.pictures
        replacements = [self.pixels.text(picture, len(shown)) for picture in shown]
        return self.renderer.expanded(self.renderer.text(prompt), replacements)
