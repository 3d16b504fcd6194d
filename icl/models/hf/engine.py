"""A loaded checkpoint: weights, image cache and opener, put together after asking the checkpoint what it allows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from icl.errors import ModelError
from icl.models.hf import conventions
from icl.models.hf import device_placement as placing
from icl.models.hf import quantization as quantizing
from icl.models.hf import self_check as selfcheck
from icl.models.hf import version_check as version
from icl.models.hf.counters import ModelCounters
from icl.models.hf.image_encoder import ImageEncoder
from icl.models.hf.language_model import LanguageModel
from icl.models.hf.malloc_tuning import keep_freed_memory
from icl.models.hf.prefill import Prefiller
from icl.models.hf.prompt_encoding import PromptEncoder
from icl.models.hf.session import HFSession
from icl.types import Prompt

if TYPE_CHECKING:
    from icl.models.hf.model import HF


class HFEngine:
    """What `HF.load` makes. notes: what is switched off for this checkpoint, and why."""

    def __init__(self, hf: "HF") -> None:
        version.check()
        processor = hf.checkpoint.processor
        if placing.device(hf.device, hf.device_map)[0] == "cpu":
            keep_freed_memory()
        quantizing.check(hf)
        placed = placing.how(hf.device, hf.device_map, hf.dtype, hf.attn_implementation)
        if hf.lora is not None:
            _ = hf.lora.folder  # whether it is whole, before weights are read
        model = quantizing.settled(hf.checkpoint.weights(**placed, **quantizing.arguments(hf)))
        if hf.lora is not None:
            model = hf.lora.applied(model, hf.path, hf.merge)
        conventions.check_class(model, hf.path)
        self.counters = ModelCounters()
        self.runner = LanguageModel(model, processor, self.counters, hf.token_budget)
        self.name, self.limit = hf.path, hf.max_tokens
        doubt = None if hf.lora is None else hf.lora.doubt(hf.path)
        self.notes: tuple[str, ...] = (doubt,) if doubt else ()
        self.reader = self._reader(hf)
        self.opener = Prefiller(self.runner, hf.token_budget, self._sharing())
        vars(self.counters).update(vars(ModelCounters()))

    @property
    def shares_prefix(self) -> bool:
        """Whether prompts that are opened beside a session may begin on its rows."""
        return self.opener.sharing and self.runner.reach > 0

    def open(
        self, prompts: Sequence[Prompt], early_exits: bool = False, prefix_source: HFSession | None = None
    ) -> HFSession:
        reads = self.reader.read(prompts)
        longest = max(map(len, reads))
        if self.limit is not None and longest >= self.limit:
            raise ModelError(
                f"a prompt has {longest:,} tokens, and {self.name} reads at most {self.limit:,} with its answer. Take "
                "fewer shots or smaller images."
            )
        return self.opener.open(reads, early_exits, prefix_source)

    def _reader(self, hf: "HF") -> PromptEncoder:
        plain = PromptEncoder(hf.renderer, hf.pixels, self.runner, None)
        if not hasattr(self.runner.model.base_model, "get_image_features"):
            verdict = selfcheck.CheckResult(False, "the architecture has no get_image_features")
        else:
            encoder = ImageEncoder(hf.pixels, self.runner.model, hf.image_cache_mb * 2**20, self.counters)
            cached = PromptEncoder(hf.renderer, hf.pixels, self.runner, encoder)
            verdict = selfcheck.image_cache(cached, plain, self.runner)
            if verdict.holds:
                encoder.known.clear()
                return cached
        selfcheck.plain_reading(plain, self.runner, hf.path)
        self.notes += (f"the image cache is off for {hf.path}: {verdict.reason}",)
        return plain

    def _sharing(self) -> bool:
        if self.reader.encoder is None:
            return False
        verdict = selfcheck.shared_beginnings(self.reader, self.runner)
        if not verdict.holds:
            self.notes += (f"shared beginnings are prefilled anew each time: {verdict.reason}",)
        return verdict.holds
