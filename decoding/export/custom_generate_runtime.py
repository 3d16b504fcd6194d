"""Second half of an exported `custom_generate/generate.py`: it reads the other branches and combines their logits.

`decoding.export.custom_generate` copies everything behind the imports. The copy defines STRATEGY and BRANCHES above.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin, LogitsProcessor

STRATEGY: Any = None
BRANCHES: int | None = None


class OtherBranch:
    """One more prompt per row, read with a cache of its own.

    M-RoPE models store the distance between positions and cached tokens (`rope_deltas`) on the model. A forward pass of
    this branch replaces it with the branch's own and restores it afterwards.
    """

    def __init__(self, model: Any, inputs: dict[str, Any]) -> None:
        self.model = model
        self.inputs = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
        self.ids = inputs["input_ids"]
        self.mask = inputs.get("attention_mask", torch.ones_like(self.ids))
        self.cache: Any = None
        self.delta: Any = 0
        parameters = inspect.signature(model.forward).parameters
        self.cache_name = "cache" if "cache" in parameters else "past_key_values"

    def next_logits(self, token: Tensor | None) -> Tensor:
        """[B, V] float32 logits behind the prompt (None) or behind one more token per row, [B, 1]."""
        inner = getattr(self.model, "model", self.model)
        has_mrope = hasattr(inner, "rope_deltas")
        outer_delta = getattr(inner, "rope_deltas", None)
        fed, more = (self.ids, dict(self.inputs)) if token is None else (token, {})
        if token is not None:
            self.mask = torch.cat([self.mask, torch.ones_like(token)], 1)
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)[:, -fed.shape[1] :]
        if not has_mrope:
            more["position_ids"] = positions
        elif token is not None or not any(name.endswith("grid_thw") for name in more):
            more["position_ids"] = (positions + self.delta)[None].expand(3, -1, -1)
        try:
            if has_mrope:
                inner.rope_deltas = None
            output = self.model(
                input_ids=fed, attention_mask=self.mask, use_cache=True, **{self.cache_name: self.cache}, **more
            )
            if has_mrope and token is None and inner.rope_deltas is not None:
                self.delta = inner.rope_deltas
        finally:
            if has_mrope:
                inner.rope_deltas = outer_delta
        self.cache = getattr(output, self.cache_name)
        logits: Tensor = output.logits[:, -1].float()
        return logits


class Branches(LogitsProcessor):  # type: ignore[misc]
    """Processor that replaces the logits of the prompt by the combined scores of all branches."""

    def __init__(self, model: Any, strategy: Any, negatives: list[dict[str, Any]], prompt_length: int) -> None:
        self.strategy = strategy
        self.branches = [OtherBranch(model, one) for one in negatives]
        self.prompt_length = prompt_length

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [B, V] float32 of the next token. scores: the prompt's own logits."""
        step = input_ids.shape[1] - self.prompt_length
        token = None if step == 0 else input_ids[:, -1:]
        reference = scores.float()
        others = [branch.next_logits(token).to(scores.device) for branch in self.branches]
        logits = torch.stack([reference, *others])
        combined: Tensor = self.strategy.combine_stateful(logits, step, ())
        mask = self.strategy.mask(reference)
        if mask is not None:
            combined = combined.masked_fill(~mask, -float("inf"))
        return combined.masked_fill(reference == -float("inf"), -float("inf"))


def generate(model: Any, *args: Any, negative: Any = None, **kwargs: Any) -> Any:
    """`model.generate` with the strategy.

    Args:
        model: A model of transformers.
        args: Passed to `model.generate`, as are other keywords.
        negative: The processor's outputs for each other branch, a list (or one mapping if there is one), left-padded,
            with the rows of the prompt, on the model's device.

    Raises:
        ValueError: Branches are missing or have other rows, or the generation mode reorders rows.
    """
    name = type(STRATEGY).__name__
    ids = next((v for v in (kwargs.get("input_ids"), kwargs.get("inputs"), *args[:1]) if v is not None), None)
    if ids is None:
        raise ValueError(f"{name} needs input_ids: pass the processor's outputs, generate(**inputs, ...).")
    negatives = [dict(one) for one in ([negative] if hasattr(negative, "keys") else negative or [])]
    if BRANCHES is not None and len(negatives) != BRANCHES - 1:
        raise ValueError(
            f"{name} reads {BRANCHES - 1} prompts beside the model's own, and negative= has {len(negatives)}: "
            "pass a list of the processor's outputs for each."
        )
    for i, one in enumerate(negatives):
        if one["input_ids"].shape[0] != ids.shape[0]:
            raise ValueError(f"negative[{i}] has {one['input_ids'].shape[0]} rows, the prompt has {ids.shape[0]}.")
        padding = one.get("attention_mask")
        if padding is not None and not bool(padding[:, -1].all()):
            raise ValueError(f"negative[{i}] is padded on the right: set processor.tokenizer.padding_side = 'left'.")
    config = kwargs.get("generation_config") or model.generation_config
    for key in ("num_beams", "num_return_sequences", "prompt_lookup_num_tokens"):
        value = kwargs[key] if key in kwargs else getattr(config, key, None)
        if value not in (None, 1):
            raise ValueError(f"{key}={value}: {name} decodes one answer per row, token by token. Remove {key}.")
    if kwargs.get("assistant_model") is not None:
        raise ValueError(f"assistant_model: {name} decodes token by token. Remove assistant_model.")
    processors = list(kwargs.pop("logits_processor", None) or [])
    kwargs["logits_processor"] = [Branches(model, STRATEGY, negatives, ids.shape[1]), *processors]
    return GenerationMixin.generate(model, *args, **kwargs)
