"""Sizes of batches and caches, from the memory that is free after a checkpoint is loaded.

    usable      free - 5 % of the device
    features    usable / 8
    prefill     as many tokens as one prompt may have within usable / 4, at most 8,192
    passing     max(peak of that prefill, usable / 8): memory of one forward pass
    rows        (usable - features - passing) / bytes of a row          icl.models.hf.memory_estimate
    options     half of `passing` for repeated rows, half for their logits
    images      images of one pass of the vision tower: its peak is at most `passing`

More than 8,192 tokens make a prefill no faster, because its matrix products then use a whole device. On a CPU the sizes
are `DEFAULT_BUDGETS`, unless the free memory allows less. A size that the user sets is used as it is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

from icl.models.hf.device_memory import DeviceMemory
from icl.models.hf.memory_estimate import (
    RESERVED_FRACTION,
    DecoderSizes,
    decode_copies,
    kv_bytes_per_token,
    logits_bytes,
    prefill_bytes,
)

MAX_PREFILL_TOKENS, UNBOUNDED = 8192, 2**62
ROWS_PER_PREFILL = 4
"""Tokens of decoding rows for each token of a prefill, where the memory is not measured."""

FEATURE_FRACTION, PREFILL_FRACTION, PASSING_FRACTION = 1 / 8, 1 / 4, 1 / 8
SCORE_BYTES = 10
"""Bytes of a logit of an option: in the dtype of the model, as float32, and its log-probability."""


@dataclass(frozen=True)
class MemoryBudgets:
    """Sizes of batches and caches.

    Attributes:
        prefill_tokens: Padded tokens of one prefill.
        row_tokens: Tokens of all rows of a decoding batch, prompts and answers together.
        option_tokens: Tokens of all repeated rows of a forward pass that scores options.
        option_scores: Logits of such a pass.
        feature_bytes: Size of the cache of image features.
        tower_bytes: Peak of one pass of the vision tower.
        row_overhead: What a row needs besides its tokens, in tokens.
    """

    prefill_tokens: int = MAX_PREFILL_TOKENS
    row_tokens: int = ROWS_PER_PREFILL * MAX_PREFILL_TOKENS
    option_tokens: int = ROWS_PER_PREFILL * MAX_PREFILL_TOKENS
    option_scores: int = 2**26
    feature_bytes: int = 512 * 2**20
    tower_bytes: int = UNBOUNDED
    row_overhead: int = 0

    def with_user_settings(self, token_budget: int | None, feature_bytes: int | None) -> "MemoryBudgets":
        """These sizes with those that the user sets."""
        result = self if feature_bytes is None else replace(self, feature_bytes=feature_bytes)
        if token_budget is None:
            return result
        rows = ROWS_PER_PREFILL * token_budget
        return replace(result, prefill_tokens=token_budget, row_tokens=rows, option_tokens=rows, row_overhead=0)


DEFAULT_BUDGETS = MemoryBudgets()


def measured_budgets(
    shape: DecoderSizes,
    memories: Sequence[DeviceMemory],
    element_bytes: float,
    *,
    attention: str = "sdpa",
    feature_bytes: int | None = None,
) -> MemoryBudgets:
    """Sizes for a loaded model.

    Args:
        shape: Sizes of the decoder.
        memories: Memory of the devices that hold its layers.
        element_bytes: Bytes of an element of activations and KV cache.
        attention: Implementation of attention.
        feature_bytes: Size of the cache of image features, if the user sets it.
    """
    if not memories:
        return DEFAULT_BUDGETS
    usable = [max(0.0, memory.free - RESERVED_FRACTION * memory.total) for memory in memories]
    least = min(usable)
    features = least * FEATURE_FRACTION if feature_bytes is None else feature_bytes

    def peak(tokens: int) -> float:
        return prefill_bytes(shape, 1, tokens, element_bytes, attention=attention)

    prefill_tokens = largest_that_fits(lambda tokens: peak(tokens) <= PREFILL_FRACTION * least, MAX_PREFILL_TOKENS)
    passing = max(peak(prefill_tokens), PASSING_FRACTION * least)
    token = kv_bytes_per_token(shape, element_bytes)
    decoding_token = token * decode_copies(shape, attention)
    row_tokens = min(
        (size - features - passing) / (decoding_token * memory.layer_fraction)
        for size, memory in zip(usable, memories, strict=True)
    )
    budgets = MemoryBudgets(
        prefill_tokens=prefill_tokens,
        row_tokens=max(1, int(row_tokens)),
        option_tokens=max(1, int(passing / 2 / token)),
        option_scores=max(1, int(passing / 2 / SCORE_BYTES)),
        feature_bytes=int(features),
        tower_bytes=int(passing),
        row_overhead=round(logits_bytes(shape, element_bytes) / decoding_token),
    )
    return _at_most(budgets, DEFAULT_BUDGETS) if memories[0].kind == "cpu" else budgets


def _at_most(budgets: MemoryBudgets, bounds: MemoryBudgets) -> MemoryBudgets:
    """The smaller value of each size, with the overhead of a row only where its bound is not the smaller one."""
    sizes = {
        field.name: min(getattr(budgets, field.name), getattr(bounds, field.name)) for field in fields(MemoryBudgets)
    }
    if sizes["row_tokens"] < bounds.row_tokens:
        sizes["row_overhead"] = budgets.row_overhead
    return MemoryBudgets(**sizes)


def largest_that_fits(fits: Callable[[int], bool], bound: int) -> int:
    """The largest number from 1 to `bound` that fits, or 1. What fits is below what does not."""
    low, high = 1, bound
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
