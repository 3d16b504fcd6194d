"""Row operations on the layers of a cache: full attention, sliding windows and linear attention alike.

A layer holds keys and values by slot (attention), or states by row (linear attention, convolutions), or both.
SharedPrefixLayer are `[padding | tokens]`, aligned on the right. Nothing here writes into a tensor that another cache
may hold: an operation gives new tensors, and a copied layer owns its dictionaries of states, which linear attention
updates in place.

Layers of full attention are our own (`icl.models.hf.shared_prefix`): only they keep a beginning once for the rows that
share it. A window is short and forgets, a state is one a row, and layers that are both are transformers' own: rows of
these hold copies.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from icl.errors import ModelError
from icl.models.hf import shared_prefix as slots
from icl.models.hf.shared_prefix import Place, SharedPrefixLayer

SLOTS = ("keys", "values")
STATES = ("conv_states", "recurrent_states")
KNOWN = frozenset(
    {
        "SharedPrefixLayer",
        "DynamicLayer",
        "DynamicSlidingWindowLayer",
        "LinearAttentionLayer",
        "LinearAttentionAndFullAttentionLayer",
    }
)
"""Layer classes whose every state the functions below carry along. Another kind is refused, not guessed at."""


def new_cache(config: Any) -> Any:
    """An empty cache for a model of this config, whose sliding layers forget only when told (see `settle`)."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    cache = DynamicCache(config=config)
    cache.layers = [SharedPrefixLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
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


def reach(layers: Sequence[Any]) -> int:
    """Number of positions up to which every layer of a cache keeps all entries, so that they can be shared."""
    if any(map(has_states, layers)):
        return 0
    return min([layer.sliding_window - 1 for layer in layers if is_sliding(layer)], default=2**31)


def begun(layer: Any, places: Sequence[Place], front: int, whole: bool) -> Any:
    """HFSession at a width of `front` that are the slots of some row up to some place.

    whole: up to the end of every row, so that a state can be taken too, and a window that has forgotten.
    """
    if isinstance(layer, SharedPrefixLayer):
        return slots.standing(layer, places, front)
    if whole:
        return selected(layer, torch.tensor([row for row, _ in places]))
    made = owned(layer)
    for name in SLOTS:
        held = getattr(layer, name)
        part = held.new_empty(len(places), held.shape[1], front, held.shape[3])
        slots.SharedPrefix(held, held, tuple(places), front).fill(part, held)
        setattr(made, name, part)
    made.cumulative_length = front
    return made


def selected(layer: Any, rows: Tensor) -> Any:
    """The rows, copied."""
    layer = owned(layer)
    layer.reorder_cache(rows)
    return layer


def joined(parts: Sequence[Any], width: int, order: Sequence[int] | None = None) -> Any:
    """The rows of all parts at this width (or that of the window, if it is less). order: the row that each becomes."""
    if isinstance(parts[0], SharedPrefixLayer):
        return slots.joined(parts, width, order)
    layer = owned(parts[0])
    if getattr(layer, "keys", None) is not None:
        held = min(width, layer.sliding_window - 1) if is_sliding(layer) else width
        for name in SLOTS:
            setattr(layer, name, slots.ordered([padded(getattr(part, name), held, 2) for part in parts], order))
        if is_sliding(layer):
            layer.cumulative_length = width
    for name in STATES:
        for key, state in getattr(layer, name, {}).items():
            if state is not None:
                getattr(layer, name)[key] = slots.ordered([getattr(part, name)[key] for part in parts], order)
    return layer


def trim(layer: Any, width: int) -> None:
    """The layer keeps its last `width` slots alone, or those of its window."""
    if isinstance(layer, SharedPrefixLayer):
        layer.trim(width)
    elif getattr(layer, "keys", None) is not None:
        if is_sliding(layer):
            layer.cumulative_length = width
        layer.keys, layer.values = layer.keys[:, :, -width:], layer.values[:, :, -width:]


def shift(layer: Any, by: Sequence[int]) -> None:
    """Row r moves right by `by[r]` slots, over padding."""
    if isinstance(layer, SharedPrefixLayer):
        layer.shift(by)
    else:
        layer.keys, layer.values = slots.moved(layer.keys, by), slots.moved(layer.values, by)


def owned(layer: Any) -> Any:
    """A copy of the layer that shares tensors and owns everything else."""
    layer = copy.copy(layer)
    for name, value in vars(layer).items():
        if isinstance(value, dict):
            setattr(layer, name, dict(value))
    return layer


def padded(tensor: Tensor, size: int, dim: int) -> Tensor:
    """Zeros on the left of `dim` up to `size`."""
    missing = size - tensor.shape[dim]
    if missing == 0:
        return tensor
    shape = list(tensor.shape)
    shape[dim] = missing
    return torch.cat([tensor.new_zeros(shape), tensor], dim)
