"""Row operations on the layers of a KV cache: full attention, sliding windows and linear attention.

A layer holds keys and values by slot (attention), states by row (linear attention, convolutions), or both. Rows are
`[padding | tokens]`, aligned on the right. Operations return new tensors and never write to a tensor that another cache
may hold. A copied layer owns its dictionaries of states, which linear attention updates in place.

Layers of full attention are `SharedPrefixLayer`. Only they store a common prefix once. Sliding windows, recurrent
states and mixed layers use the classes of transformers, and their rows hold copies.

Attention masks of the rows are made from lengths on the host, so that no mask is read from a device:

    row 0   . . a b c d e | 1 2 3 | , ,         a row: padding, tokens          , spare columns, so that the mask
    row 1   f g h i j k l | 4 5 . | , ,         a chunk: tokens, padding          of the next step is a longer view
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from icl import ModelError, RowIndex, copied_to_device, transformers
from icl.models.hf import CrossAttentionLayer, Place, PromptLayer, SharedPrefixLayer, shared_prefix, step_arguments

SLOT_TENSORS = ("keys", "values", "indexer_keys", "indexer_position_ids")
"""Tensors of a layer with an entry for each slot. The last two belong to attention with an index of keys."""
STATES = ("conv_states", "recurrent_states")
SUPPORTED_LAYERS = frozenset(
    {
        "SharedPrefixLayer",
        "CrossAttentionLayer",
        "StepArgumentsLayer",
        "DummyLayer",
        "DynamicLayer",
        "DynamicSlidingWindowLayer",
        "DynamicIndexedLayer",
        "LinearAttentionLayer",
        "LinearAttentionAndFullAttentionLayer",
    }
)
"""Layer classes. The functions below handle their complete state. Other classes are refused."""


def new_cache(config: Any) -> Any:
    """An empty cache for a model of this config. Its sliding layers drop slots only in `crop_windows`."""
    cache = transformers.DynamicCache(config=config)
    crossing = step_arguments.cross_attention_layers(config)
    cache.layers = [
        CrossAttentionLayer()
        if i in crossing
        else SharedPrefixLayer()
        if type(layer) is transformers.cache_utils.DynamicLayer
        else layer
        for i, layer in enumerate(cache.layers)
    ]
    for layer in cache.layers:
        if is_sliding(layer):
            layer.activate_past_recording()
    return cache


def check(layers: Sequence[Any]) -> None:
    """Raise ModelError if a layer is of an unsupported class."""
    for layer in layers:
        if type(layer).__name__ not in SUPPORTED_LAYERS:
            raise ModelError(
                f"this architecture keeps a cache layer of the kind {type(layer).__name__}, which sessions cannot "
                "split into rows yet. Use a checkpoint of another architecture."
            )


def crop_windows(layers: Sequence[Any]) -> None:
    """Crop sliding layers to their window, after a forward pass."""
    for layer in layers:
        if is_sliding(layer):
            layer.crop(0)


def is_sliding(layer: Any) -> bool:
    """Whether the layer drops slots outside its window."""
    return bool(getattr(layer, "is_sliding", False))


def has_states(layer: Any) -> bool:
    """Whether the layer has a recurrent state, which padding would change."""
    return hasattr(layer, "recurrent_states")


def holds_nothing(layer: Any) -> bool:
    """Whether the layer of the model has no cache of its own, such as a layer of experts only."""
    return type(layer).__name__ == "DummyLayer"


def shareable_length(layers: Sequence[Any]) -> int:
    """Number of slots up to which every layer keeps all entries, so that prefixes can be shared."""
    if any(has_states(layer) or isinstance(layer, PromptLayer) for layer in layers):
        return 0
    return min([layer.sliding_window - 1 for layer in layers if is_sliding(layer)], default=2**31)


def prefix_rows(layer: Any, places: Sequence[Place], prefix_slots: int, whole: bool) -> Any:
    """New rows that contain the beginning of existing rows.

    Args:
        layer: The layer of the existing rows.
        places: For each new row: the existing row, and the slot at which its part ends.
        prefix_slots: Width of the new rows.
        whole: Whether each part is a complete row, so that states and cropped windows can be copied too.
    """
    if isinstance(layer, SharedPrefixLayer):
        return shared_prefix.rows_on_prefix(layer, places, prefix_slots)
    if whole or holds_nothing(layer):
        return select_rows(layer, RowIndex([row for row, _ in places]))
    made = shallow_copy(layer)
    for name, source in slot_tensors(layer):
        part = source.new_empty(len(places), source.shape[1], prefix_slots, source.shape[3])
        shared_prefix.SharedPrefix(source, source, tuple(places), prefix_slots).fill(part, source)
        set_slots(made, name, part)
    made.cumulative_length = prefix_slots
    return made


def select_rows(layer: Any, rows: RowIndex) -> Any:
    """A copy of the selected rows."""
    layer = shallow_copy(layer)
    if isinstance(layer, SharedPrefixLayer | PromptLayer):
        layer.select(rows)
    elif not holds_nothing(layer):
        layer.reorder_cache(rows.on(_device(layer)))
    return layer


def _device(layer: Any) -> torch.device:
    """The device of the layer's tensors; the host if it has no tensors."""
    entries = [
        own for value in vars(layer).values() for own in (value.values() if isinstance(value, dict) else [value])
    ]
    return next((entry.device for entry in entries if isinstance(entry, Tensor)), torch.device("cpu"))


def join_rows(parts: Sequence[Any], width: int, order: Sequence[int] | None = None) -> Any:
    """The rows of all parts at this width, or at the window's if smaller. order: index of each row in the result."""
    if isinstance(parts[0], SharedPrefixLayer):
        return shared_prefix.join_layers(parts, width, order)
    if isinstance(parts[0], PromptLayer):
        return parts[0].join(parts[1:], order)
    layer = shallow_copy(parts[0])
    if getattr(layer, "keys", None) is not None:
        size = min(width, layer.sliding_window - 1) if is_sliding(layer) else width
        for tensors in zip(*(slot_tensors(part) for part in parts), strict=True):
            padded = [pad_left(tensor, size, 2) for _, tensor in tensors]
            set_slots(layer, tensors[0][0], shared_prefix.concat_rows(padded, order))
        if is_sliding(layer):
            layer.cumulative_length = width
    for name in STATES:
        for key, state in getattr(layer, name, {}).items():
            if state is not None:
                getattr(layer, name)[key] = shared_prefix.concat_rows(
                    [getattr(part, name)[key] for part in parts], order
                )
    return layer


def trim(layer: Any, width: int) -> None:
    """Keep only the last `width` slots, or the slots of the window."""
    if isinstance(layer, SharedPrefixLayer):
        layer.trim(width)
    elif not isinstance(layer, PromptLayer) and getattr(layer, "keys", None) is not None:
        if is_sliding(layer):
            layer.cumulative_length = width
        for name, tensor in slot_tensors(layer):
            set_slots(layer, name, tensor[:, :, -width:])


def shift(layer: Any, by: Sequence[int]) -> None:
    """Move row r right by `by[r]` slots, over padding."""
    if isinstance(layer, SharedPrefixLayer):
        layer.shift(by)
    elif not isinstance(layer, PromptLayer) and not holds_nothing(layer):
        for name, tensor in slot_tensors(layer):
            set_slots(layer, name, shared_prefix.shift_right(tensor, by))


def slot_tensors(layer: Any) -> list[tuple[str, Tensor]]:
    """Names and tensors [R, H, T, D] of what a layer holds by slot."""
    made = []
    for name in SLOT_TENSORS:
        tensor = getattr(layer, name, None)
        if tensor is None:
            continue
        if name == "indexer_keys":  # [R, T, D]
            tensor = tensor[:, None]
        elif name == "indexer_position_ids":  # [P, R, T]
            tensor = tensor.movedim(0, 1)[..., None]
        made.append((name, tensor))
    return made


def set_slots(layer: Any, name: str, tensor: Tensor) -> None:
    """Set a tensor of `slot_tensors`."""
    if name == "indexer_keys":
        tensor = tensor[:, 0]
    elif name == "indexer_position_ids":
        tensor = tensor[..., 0].movedim(1, 0)
    setattr(layer, name, tensor)


def shallow_copy(layer: Any) -> Any:
    """A copy of the layer that shares tensors and owns everything else."""
    layer = copy.copy(layer)
    for name, value in vars(layer).items():
        if isinstance(value, dict):
            setattr(layer, name, dict(value))
    return layer


def pad_left(tensor: Tensor, size: int, dim: int) -> Tensor:
    """Zeros on the left of dimension `dim` up to `size`."""
    missing = size - tensor.shape[dim]
    if missing == 0:
        return tensor
    shape = list(tensor.shape)
    shape[dim] = missing
    return torch.cat([tensor.new_zeros(shape), tensor], dim)


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
