"""The weights, and the one place where the language model is called."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from icl.models.hf import layers
from icl.models.hf.counters import ModelCounters
from icl.models.hf.early_exit import EarlyExitHead
from icl.models.hf.image_features import EncodedImage, given
from icl.models.hf.session import HFSession

KINDS = ("mm_token_type_ids", "token_type_ids")
"""The names under which architectures ask which tokens are images."""


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """One prompt as the model reads it.

    ids: [T]. positions: [..., T]. kinds: [T] token types or None. images: its parts, in order. plain: the processor's
    own inputs, where the image cache is off. key: like ids, with another negative number in the slots of each image
    that is another: equal keys are equal prompts. starts, ends: where each image's slots begin and end.
    """

    ids: Tensor
    positions: Tensor
    kinds: Tensor | None
    images: tuple[EncodedImage, ...]
    key: tuple[int, ...]
    starts: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    plain: dict[str, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.key)


class LanguageModel:
    """Forwards through one model. Nothing here knows what a prompt or a strategy is."""

    def __init__(self, model: Any, processor: Any, counters: ModelCounters, budget: int = 8192) -> None:
        self.model, self.processor, self.counters, self.budget = model, processor, counters, budget
        names = inspect.signature(model.forward).parameters
        self.kinds_name = next((name for name in KINDS if name in names), None)
        if not getattr(processor, "return_mm_token_type_ids", False):
            self.kinds_name = None
        self.keeps = "logits_to_keep" in names

    @property
    def device(self) -> torch.device:
        return torch.device(self.model.get_input_embeddings().weight.device)

    def forward(
        self,
        tokens: Tensor,
        mask: Tensor,
        positions: Tensor,
        cache: Any,
        *,
        keep: Tensor | int = 1,
        kinds: Tensor | None = None,
        images: Sequence[EncodedImage] = (),
        plain: dict[str, Tensor] | None = None,
        early_exits: bool = False,
    ) -> Tensor:
        """Logits [R, kept columns, V] of a chunk on top of a cache, which grows.

        exits: [R, kept columns, 1 + early layers, V], what early layers say (`icl.models.hf.early_exit`) behind the
        last.
        """
        more: dict[str, Any] = {"keep": keep, "kinds": kinds, "images": images, "plain": plain}
        said = self.called(tokens, mask, positions, cache, **more, states=early_exits)
        logits: Tensor = said.logits if self.keeps else kept(said.logits, keep)
        if not early_exits:
            return logits
        return self.early_exit_head.with_early_logits(logits, [kept(states, keep) for states in said.hidden_states])

    @cached_property
    def reach(self) -> int:
        """SharedPrefixLayer up to which no layer forgets any (`layers.reach`)."""
        return layers.reach(layers.new_cache(self.model.config).layers)

    @cached_property
    def early_exit_head(self) -> EarlyExitHead:
        return EarlyExitHead(self.model)

    def called(
        self,
        tokens: Tensor,
        mask: Tensor,
        positions: Tensor,
        cache: Any,
        *,
        keep: Tensor | int = 1,
        kinds: Tensor | None = None,
        images: Sequence[EncodedImage] = (),
        plain: dict[str, Tensor] | None = None,
        states: bool = False,
    ) -> Any:
        """All that the model gives for a chunk. states: with the hidden states of every layer."""
        more: dict[str, Any] = given(images) | (plain or {})
        if kinds is not None and self.kinds_name is not None:
            more[self.kinds_name] = kinds
        if states:
            more["output_hidden_states"] = True
        self.counters.forwards += 1
        with torch.no_grad():
            return self.model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=positions,
                cache=cache,
                use_cache=True,
                logits_to_keep=keep,
                **more,
            )

    def padded(self, prompts: Sequence[EncodedPrompt]) -> dict[str, Any]:
        """The arguments of one forward of prompts, padded on the left, with a new cache."""
        width = max(map(len, prompts))
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        kinds = [prompt.kinds for prompt in prompts if prompt.kinds is not None]
        return {
            "tokens": stacked([prompt.ids for prompt in prompts], width),
            "mask": (torch.arange(width, device=self.device) >= width - lengths[:, None]).long(),
            "positions": stacked([prompt.positions for prompt in prompts], width),
            "cache": layers.new_cache(self.model.config),
            "kinds": stacked(kinds, width) if kinds else None,
            "images": [image for prompt in prompts for image in prompt.images],
            "plain": prompts[0].plain,
        }

    def prefill(self, prompts: Sequence[EncodedPrompt], early_exits: bool = False) -> HFSession:
        """One forward of prompts, padded on the left. exits: with early layers."""
        given_ = self.padded(prompts)
        cache, mask, positions = given_["cache"], given_["mask"], given_["positions"]
        logits = self.forward(**given_, early_exits=early_exits)
        layers.check(cache.layers)
        ends, keys = positions[..., -1:].clone(), [prompt.key for prompt in prompts]
        rows = HFSession(self, cache, mask, ends, logits[:, -1].float(), keys=keys)
        if rows.slides:
            layers.settle(cache.layers)
        self.count(sum(map(len, prompts)), mask.numel())
        return rows

    def count(self, tokens: int, padded: int) -> None:
        self.counters.prefills += 1
        self.counters.prefill_tokens += tokens
        self.counters.padded_tokens += padded


def kept(logits: Tensor, columns: Tensor | int) -> Tensor:
    """What `logits_to_keep` keeps, for a class that gives them all: the last columns (0: all), or those named."""
    return logits[:, columns] if isinstance(columns, Tensor) else logits[:, -columns:]


def stacked(parts: Sequence[Tensor], width: int) -> Tensor:
    """[..., T] each -> [..., R, W], zeros on the left."""
    return torch.stack([torch.nn.functional.pad(part, (width - part.shape[-1], 0)) for part in parts], -2)
