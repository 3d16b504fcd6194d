"""Row operations on the layers of a `DynamicCache`: full attention, sliding windows and linear attention alike.

A layer holds keys and values by slot (attention), or states by row (linear attention, convolutions), or both. Slots are
`[padding | tokens]`, aligned on the right. Nothing here writes into a tensor that another cache may hold: an operation
gives new tensors, and a copied layer owns its dictionaries of states, which linear attention updates in place.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from icl.errors import ModelError

SLOTS = ("keys", "values")
STATES = ("conv_states", "recurrent_states")
KNOWN = frozenset(
    {"DynamicLayer", "DynamicSlidingWindowLayer", "LinearAttentionLayer", "LinearAttentionAndFullAttentionLayer"}
)
"""Layer classes whose every state the functions below carry along. Another kind is refused, not guessed at."""


def new_cache(config: Any) -> Any:
    """An empty cache for a model of this config, whose sliding layers forget only when told (see `settle`)."""
    from transformers import DynamicCache

    cache = DynamicCache(config=config)
    for layer in cache.layers:
        if is_sliding(layer):
            layer.activate_past_recording()
    return cache


def check(layers: Sequence[Any]) -> None:
    """Raises ModelError where a filled layer is of a kind that holds more than is carried along here."""
    for layer in layers:
        if type(layer).__name__ not in KNOWN:
            raise ModelError(
                f"this architecture keeps a cache layer of the kind {type(layer).__name__}, which sessions cannot "
                "split into rows yet. Use a checkpoint of another architecture."
            )


def settle(layers: Sequence[Any]) -> None:
    """After a forward: sliding layers go back to their window."""
    for layer in layers:
        if is_sliding(layer):
            layer.crop(0)


def is_sliding(layer: Any) -> bool:
    """Whether the layer forgets what is behind its window."""
    return bool(getattr(layer, "is_sliding", False))


def has_states(layer: Any) -> bool:
    """Whether the layer carries a recurrent state, which would take padding in."""
    return hasattr(layer, "recurrent_states")


def selected(layer: Any, rows: Tensor) -> Any:
    """The rows, copied."""
    layer = owned(layer)
    layer.reorder_cache(rows)
    return layer


def joined(parts: Sequence[Any], slots: int) -> Any:
    """The rows of all parts, in order, at a width of `slots` (or of the window, if that is less)."""
    layer = owned(parts[0])
    if getattr(layer, "keys", None) is not None:
        width = min(slots, layer.sliding_window - 1) if is_sliding(layer) else slots
        for name in SLOTS:
            setattr(layer, name, torch.cat([padded(getattr(part, name), width, 2) for part in parts]))
        if is_sliding(layer):
            layer.cumulative_length = slots
    for name in STATES:
        for key, state in getattr(layer, name, {}).items():
            if state is not None:
                getattr(layer, name)[key] = torch.cat([getattr(part, name)[key] for part in parts])
    return layer


def trimmed(layer: Any, slots: int) -> Any:
    """The layer with its last `slots` slots alone, or those of its window."""
    if getattr(layer, "keys", None) is not None:
        if is_sliding(layer):
            layer.cumulative_length = slots
        layer.keys, layer.values = layer.keys[:, :, -slots:], layer.values[:, :, -slots:]
    return layer


def shifted(layer: Any, by: Tensor) -> None:
    """Row r moves right by `by[r]` slots; what falls off on the right comes in on the left, where the mask hides it."""
    layer.keys, layer.values = rolled(layer.keys, by, 2), rolled(layer.values, by, 2)


def owned(layer: Any) -> Any:
    """A copy of the layer that shares tensors and owns everything else."""
    layer = copy.copy(layer)
    for name, value in vars(layer).items():
        if isinstance(value, dict):
            setattr(layer, name, dict(value))
    return layer


def rolled(tensor: Tensor, by: Tensor, dim: int = 1) -> Tensor:
    """Each row r rolled right by `by[r]` along `dim`."""
    size = tensor.shape[dim]
    source = (torch.arange(size, device=tensor.device) - by.to(tensor.device)[:, None]) % size
    source = source.view(len(by), *[1] * (dim - 1), size, *[1] * (tensor.ndim - dim - 1))
    return tensor.gather(dim, source.expand(tensor.shape))


def padded(tensor: Tensor, size: int, dim: int) -> Tensor:
    """Zeros on the left of `dim` up to `size`."""
    missing = size - tensor.shape[dim]
    if missing == 0:
        return tensor
    shape = list(tensor.shape)
    shape[dim] = missing
    return torch.cat([tensor.new_zeros(shape), tensor], dim)
