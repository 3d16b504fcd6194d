"""A loaded checkpoint: weights, image cache and prefiller, configured by checks of what the checkpoint supports."""

import logging
from collections.abc import Sequence

from icl import BatchLimit, ModelError, Prompt, StateObserver
from icl.memory import keep_freed_memory
from icl.models.hf import HFSession, Prefiller, conventions, device_placement, free, quantization, self_check
from icl.models.hf.counters import ModelCounters
from icl.models.hf.device_placement import cuda_problem
from icl.models.hf.image_encoder import ImageEncoder, probe_image
from icl.models.hf.language_model import LanguageModel
from icl.models.hf.memory import DEFAULT_BUDGETS, MemoryBudgets, decoder_shape, measured_budgets, model_memories
from icl.models.hf.model import HF
from icl.models.hf.prompt_encoding import PromptEncoder

logger = logging.getLogger(__name__)


class HFEngine:
    """A loaded checkpoint that opens sessions.

    Attributes:
        counters: Work done so far.
        runner: The language model.
        prompt_encoder: Turns prompts into model inputs.
        prefiller: Prefills encoded prompts.
        budgets: Sizes of batches and caches.
        notes: What is switched off for this checkpoint, and why.
    """

    def __init__(self, hf: HF) -> None:
        conventions.check_version()
        processor = hf.checkpoint.processor
        kind, _ = device_placement.resolve_device(hf.device, hf.device_map)
        if kind == "cpu":
            keep_freed_memory()
        elif kind == "cuda" and (problem := cuda_problem()):
            raise ModelError(f"model.device: {problem} Or use `device: cpu`.")
        hf.quantization.check()
        placed = device_placement.loading_arguments(hf.device, hf.device_map, hf.dtype, hf.attn_implementation)
        if hf.lora is not None:
            _ = hf.lora.folder  # raises before weights are read
        hf.check_memory(())
        logger.info("loading %s (%s)", hf.path, ", ".join(f"{key} {value}" for key, value in placed.items()))
        model = quantization.fix_layers(hf.checkpoint.weights(**placed, **hf.quantization.arguments()))
        if hf.lora is not None:
            model = hf.lora.apply_to(model, hf.path, hf.merge)
            logger.info("adapter %s %s", hf.lora.folder, "merged into the weights" if hf.merge else "added")
        conventions.check_class(model, hf.path)
        self.counters = ModelCounters()
        self.runner = LanguageModel(model, processor, self.counters)
        self.name, self.limit = hf.path, hf.max_tokens
        doubt = None if hf.lora is None else hf.lora.base_note(hf.path)
        self.notes: tuple[str, ...] = (doubt,) if doubt else ()
        self.prompt_encoder = self._make_prompt_encoder(hf)
        if self.prompt_encoder.encoder is not None:
            tower = ImageEncoder(hf.pixels, model, 0, ModelCounters())
            self.runner.read_image = lambda: tower.encode([[probe_image()]])
        sharing = self._can_share_prefixes()
        if hf.cuda_graphs:
            self.runner.graphs = self_check.check_step_graphs(self.prompt_encoder, self.runner)
            if kind == "cpu":
                self.notes += ("cuda_graphs on a CPU repeats recorded operations one by one, which saves no time.",)
        self.budgets = self._budgets(hf)
        self.runner.option_limit = BatchLimit(self.budgets.option_tokens)
        self.runner.max_scores = self.budgets.option_scores
        encoder = self.prompt_encoder.encoder
        if encoder is not None:
            encoder.cache.clear()
            encoder.cache.limit, encoder.max_bytes = self.budgets.feature_bytes, self.budgets.tower_bytes
        self.prefiller = Prefiller(
            self.runner,
            self.budgets.prefill_tokens,
            sharing,
            free_features=(lambda: None) if encoder is None else encoder.cache.clear,
        )
        self.runner.prefill_limit = self.prefiller.limit
        vars(self.counters).update(vars(ModelCounters()))
        size = model.get_memory_footprint() / 2**20
        logger.info("loaded %s: %s, %s on %s, %.0f MiB", hf.path, type(model).__name__, model.dtype, model.device, size)
        logger.info("%s", self.budgets)
        for note in self.notes:
            logger.info("%s", note)

    @property
    def shares_prefix(self) -> bool:
        """Whether new prompts can reuse the KV cache of an open session's rows."""
        return self.prefiller.sharing and self.runner.shareable_length > 0

    def free_buffers(self) -> None:
        """Drop cached prefixes and image features, and give unused memory back to the device."""
        self.prefiller.free_buffers()
        if self.runner.graphs is not None:
            self.runner.graphs.clear()
        free()

    def open(
        self,
        prompts: Sequence[Prompt],
        early_exits: bool = False,
        prefix_source: HFSession | None = None,
        observe: StateObserver | None = None,
    ) -> HFSession:
        reads = self.prompt_encoder.read(prompts, observe)
        longest = max(map(len, reads))
        if self.limit is not None and longest >= self.limit:
            raise ModelError(
                f"a prompt has {longest:,} tokens, and {self.name} reads at most {self.limit:,} with its answer. Take "
                "fewer shots or smaller images."
            )
        return self.prefiller.open(reads, early_exits, prefix_source)

    def _budgets(self, hf: HF) -> MemoryBudgets:
        """Sizes of batches and caches from the memory that is free now."""
        model, features = self.runner.model, hf.max_feature_bytes
        if self.runner.device.type != "cpu":  # main memory has no cache to empty
            free()
        try:
            shape = decoder_shape(model.config)
        except ModelError as error:
            self.notes += (f"batches are not sized by the free memory: {error}",)
            return DEFAULT_BUDGETS.with_user_settings(hf.token_budget, features)
        attention = str(getattr(model.config, "_attn_implementation", None) or "sdpa")
        budgets = measured_budgets(
            shape,
            model_memories(model),
            model.dtype.itemsize,
            attention=attention,
            cuda_graphs=hf.cuda_graphs,
            feature_bytes=features,
        )
        return budgets.with_user_settings(hf.token_budget, features)

    def _make_prompt_encoder(self, hf: HF) -> PromptEncoder:
        plain = PromptEncoder(hf.renderer, hf.pixels, self.runner, None)
        if hf.renderer.text_only:
            return plain
        if not hasattr(self.runner.model.base_model, "get_image_features"):
            verdict = self_check.CheckResult(False, "the architecture has no get_image_features")
        else:
            encoder = ImageEncoder(hf.pixels, self.runner.model, DEFAULT_BUDGETS.feature_bytes, self.counters)
            cached = PromptEncoder(hf.renderer, hf.pixels, self.runner, encoder)
            verdict = self_check.check_image_cache(cached, plain, self.runner)
            if verdict.holds:
                encoder.cache.clear()
                return cached
        self_check.check_plain_reading(plain, self.runner, hf.path)
        self.notes += (f"the image cache is off for {hf.path}: {verdict.reason}",)
        return plain

    def _can_share_prefixes(self) -> bool:
        if not self.prompt_encoder.by_parts:
            return False
        verdict = self_check.check_shared_prefix(self.prompt_encoder, self.runner)
        if not verdict.holds:
            self.notes += (f"common prefixes are not shared: {verdict.reason}",)
        return verdict.holds
