"""Traces of prompts through the backend `hf`, and the part of them that every backend with its checkpoints shares."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from icl import Prompt, canonical_digest
from icl.models.hf import image_placeholder, method
from icl.models.hf.checkpoint import text_config
from icl.models.hf.image_processing import pixel_name
from icl.models.hf.image_settings import NOT_SETTINGS
from icl.models.hf.prompt_encoding import process_prompt
from icl.models.tracing import WEIGHTS, Facts, SessionTracer, Stage, Trace, Tracer, package_versions, to_array

PACKAGES = ("transformers", "tokenizers", "torch", "torchvision", "pillow", "vllm")
LARGEST_EDGE = 1000
"""A larger number in the settings of an image processor counts pixels of an area, or is an upper limit."""


class CheckpointTracer(Tracer):
    """Knows the checkpoint, for backends that render by `hf`."""

    @property
    def hf(self) -> Any:
        """The model of the backend `hf` that renders."""
        return getattr(self.model, "hf", self.model)

    @property
    def image_edge(self) -> int | None:
        own = replace(self.hf.checkpoint, image_processor={}).processor
        size = dict(getattr(getattr(own, "image_processor", None), "size", None) or {})
        edges = [size.get(name) for name in ("longest_edge", "height", "shortest_edge")]
        return next((int(edge) for edge in edges if edge and edge <= LARGEST_EDGE), None)

    def facts_with(self, dtype: str, quantize: str | None, **arithmetic: Any) -> Facts:
        """Facts of checkpoint and settings. quantize: how weights are quantized when they are loaded."""
        hf, model = self.hf, self.model
        config, processor = hf.checkpoint.config, hf.renderer.processor
        text, vision = text_config(config), getattr(config, "vision_config", None)
        own = getattr(processor, "image_processor", None)
        settings = {} if own is None else own.to_dict()
        adapter = None if model.lora is None else f"{model.lora.path} ({model.lora.digest[:8]})"
        return {
            "checkpoint": {
                "model_type": config.model_type,
                "hidden_size": text.hidden_size,
                "num_hidden_layers": text.num_hidden_layers,
                "vocab_size": text.vocab_size,
                "vision hidden_size": getattr(vision, "hidden_size", None),
            },
            "weights": {
                WEIGHTS: hf.checkpoint.weights_digest[:12],
                "adapter": adapter,
                "merge": model.merge,
                "quantize": quantize,
                "stored as": method(hf.checkpoint),
            },
            "arithmetic": {"dtype": dtype.removeprefix("torch."), "device": model.device_type, **arithmetic},
            "template": {"chat template": canonical_digest(hf.renderer.template)[:12], **hf.template},
            "tokenizer": {
                "tokens": len(hf.tokenizer),
                "special tokens": {name: str(token) for name, token in hf.tokenizer.special_tokens_map.items()},
                "image tokens": image_placeholder(processor, config).ids,
            },
            "images": {k: v for k, v in settings.items() if k not in NOT_SETTINGS and not k.startswith("_")},
            "versions": package_versions(*PACKAGES),
        }


class HFTracer(CheckpointTracer, SessionTracer):
    """Shows every stage; image features where the image cache works."""

    @property
    def hidden(self) -> Mapping[Stage, str]:
        is_cached = self.model.engine.prompt_encoder.by_parts
        return {} if is_cached else {Stage.FEATURES: "not visible in hf: the image cache is off for this checkpoint"}

    @cached_property
    def facts(self) -> Facts:
        hf = self.model
        quantize = None if hf.quantize == "none" else hf.quantize
        return self.facts_with(str(hf.engine.runner.model.dtype), quantize, attn_implementation=hf.attn_implementation)

    def trace(self, prompt: Prompt, *, raw_images: bool = False) -> Trace:
        trace, ids = super().trace(prompt), tuple(self.model.token_ids(prompt))
        pixels, features = self._pixels(prompt), self._features(prompt)
        return replace(trace, ids=ids, prompt_tokens=len(ids), pixels=pixels, features=features)

    def _pixels(self, prompt: Prompt) -> tuple[np.ndarray, ...]:
        """The processed pixels of each image, or of all together if the processor takes whole prompts only."""
        hf, images = self.model, prompt.images
        if not images:
            return ()
        if hf.engine.prompt_encoder.encoder is None:
            inputs = process_prompt(hf.renderer, prompt)
            whole = to_array(inputs[pixel_name(inputs)])
            return tuple(np.split(whole, len(images))) if len(whole) % len(images) == 0 else (whole,)
        several = [hf.pixels.key(image, len(images))[1] for image in images]
        processed = hf.pixels.pixels(list(zip(images, several, strict=True)))
        values = [inputs[pixel_name(inputs)] for inputs, _ in processed]
        return tuple(to_array(_half(v) if doubled else v) for v, doubled in zip(values, several, strict=True))

    def _features(self, prompt: Prompt) -> tuple[np.ndarray, ...] | None:
        encoder = self.model.engine.prompt_encoder.encoder
        if encoder is None:
            return () if self.model.renderer.text_only else None
        fields = [next(iter(part.features.values())) for part in encoder.encode([prompt.images])[0]]
        return tuple(
            np.concatenate([to_array(one) for one in ([value] if isinstance(value, Tensor) else value)])
            for value in fields
        )


def _half(values: Tensor) -> Tensor:
    """One of two copies of an image, which stand in the first axis that is longer than one."""
    copies = values[0] if len(values) == 1 else values
    return copies[: len(copies) // 2]
