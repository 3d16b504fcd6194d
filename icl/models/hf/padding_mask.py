"""Attention masks of rows that are padded on the left. Their lengths are on the host, so no mask is read from a device.

row 0   . . a b c d e | 1 2 3 | , ,         a row: padding, tokens          , spare columns, so that the mask
row 1   f g h i j k l | 4 5 . | , ,         a chunk: tokens, padding          of the next step is a longer view
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from icl.memory.device_copies import copied_to_device

SPARE_COLUMNS = 64
"""Columns behind the mask, so that a step takes a longer view and writes nothing."""


def mask_of_rows(lengths: Sequence[int], width: int, slots: int, device: torch.device) -> Tensor:
    """[R, slots + SPARE_COLUMNS] bool, whether a slot is no padding. Slots from `width` on are none."""
    starts = copied_to_device([[width - length] for length in lengths], torch.long, device)
    return torch.arange(slots + SPARE_COLUMNS, device=device) >= starts


def mask_of_step(mask: Tensor, attention: str, dtype: torch.dtype) -> Tensor:
    """The mask [R, T] bool as the attention reads it, so that transformers leaves it alone: [R, 1, 1, T].

    Args:
        mask: Whether a slot is no padding.
        attention: `sdpa`, which reads bool, or `eager`, which adds the mask to the scores.
        dtype: Type of the scores.
    """
    mask = mask[:, None, None]
    if attention == "sdpa":
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)


def mask_of_chunk(mask: Tensor, padding: Sequence[int]) -> Tensor:
    """The mask [R, T] bool of rows and a chunk behind them, without the last `padding[r]` columns of each row r."""
    width = mask.shape[1]
    ends = copied_to_device([[width - missing] for missing in padding], torch.long, mask.device)
    return mask & (torch.arange(width, device=mask.device) < ends)


def pad_chunks(chunks: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, list[int]]:
    """Tokens [R, W] with zeros on the right, and R lengths."""
    width = max(map(len, chunks))
    padded = [[*chunk, *[0] * (width - len(chunk))] for chunk in chunks]
    return copied_to_device(padded, torch.long, device), [len(chunk) for chunk in chunks]
