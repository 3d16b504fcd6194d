"""The full-attention layer of a session. It grows in place, and rows with a common prefix can store the prefix once.

`DynamicLayer` of transformers allocates a new tensor at every token, and every row has a copy of its prompt. Here a
token is written into spare slots behind the row, and a row can refer to a prefix in a tensor that many rows share:

    bank of prefixes            rows: (bank row, end)     what attention reads
                                                           prefix_slots  own     spare
    0:  a b c d e f             row 0: (0, 6)              a b c d e f | t u v | . . .
    1:  . . w x y z             row 1: (0, 3)              . . . a b c | d t u | . . .
        [G, H, S, D]            row 2: (1, 6)              . . w x y z | t u v | . . .

A dot is padding. The prefix of row 1 was `a b c d`. Its next chunk was one token shorter than the other rows' chunks.
So the row was shifted right, and the last token of its prefix became an own slot. Own slots are `[R, H, T, D]`.

Attention needs all keys of a row in one tensor. Each layer builds that tensor for its forward pass and drops it
afterwards. What stays in memory is one bank and the own slots.

The bank is never written to. New rows own the memory that they write to.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from icl.memory import RowIndex

MIN_SPARE, MAX_SPARE = 16, 32
"""Bounds of the spare slots behind a row, so that few steps copy it. In between, a sixteenth of the own slots."""

MIN_ROWS = 16
"""Rows of one prefix from which it is stored once. Fewer rows get copies, which need no work at each step."""

Place = tuple[int, int]
"""The prefix of a row: the row of the bank, and the slot at which the prefix ends there."""


@dataclass(frozen=True, eq=False)
class SharedPrefix:
    """Prefixes of the rows of a layer, in a bank that several rows refer to.

    Attributes:
        keys: Bank of keys [G, H, S, D], aligned on the right.
        values: Bank of values [G, H, S, D].
        places: The prefix of each row.
        prefix_slots: Slots of every row before its own. They end with its prefix. If the prefix is shorter, they begin
            with padding.
    """

    keys: Tensor
    values: Tensor
    places: tuple[Place, ...]
    prefix_slots: int

    @cached_property
    def runs(self) -> tuple[tuple[int, int, Place], ...]:
        """(first row, row after the last, place) of neighboring rows with equal places."""
        runs: list[tuple[int, int, Place]] = []
        for row, place in enumerate(self.places):
            if runs and runs[-1][2] == place:
                runs[-1] = (runs[-1][0], row + 1, place)
            else:
                runs.append((row, row + 1, place))
        return tuple(runs)

    def fill(self, whole: Tensor, slots: Tensor) -> None:
        """Write the first `prefix_slots` slots of every row of `whole` [R, H, T, D]. slots: `keys` or `values`."""
        for first, last, (number, end) in self.runs:
            filled = min(end, self.prefix_slots)
            whole[first:last, :, : self.prefix_slots - filled] = 0
            whole[first:last, :, self.prefix_slots - filled : self.prefix_slots] = slots[number, :, end - filled : end]

    @property
    def saves_memory(self) -> bool:
        """Whether enough rows share each prefix."""
        return self.prefix_slots > 0 and len(self.places) >= MIN_ROWS * len({number for number, _ in self.places})

    def select(self, rows: Sequence[int]) -> "SharedPrefix":
        """The prefixes of some rows. Drops the bank rows that none of them uses."""
        places = [self.places[row] for row in rows]
        used = sorted({number for number, _ in places})
        if len(used) == len(self.keys):
            return replace(self, places=tuple(places))
        order = {number: i for i, number in enumerate(used)}
        return SharedPrefix(
            self.keys[used], self.values[used], tuple((order[number], end) for number, end in places), self.prefix_slots
        )

    @property
    def memory_key(self) -> tuple[object, ...]:
        """Equal for two that share a bank."""
        return self.keys.data_ptr(), self.values.data_ptr(), self.keys.shape, self.keys.stride()

    def shortened(self, by: Sequence[int]) -> tuple[Place, ...]:
        """The places after the last `by[r]` slots of each prefix have become own slots of the row."""
        return tuple((number, max(0, end - own)) for (number, end), own in zip(self.places, by, strict=True))


class SharedPrefixLayer(DynamicLayer):  # type: ignore[misc]
    """A full-attention cache layer. Its rows have own slots and, before them, an optional shared prefix.

    Attributes:
        keys: Own keys of the rows [R, H, T, D], a view of the used part of `buffers`.
        values: Own values of the rows [R, H, T, D].
        prefix: What stands before the own slots.
        buffers: Keys and values with spare slots, or None if there is no spare slot.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.prefix: SharedPrefix | None = None
        self.buffers: tuple[Tensor, ...] | None = None

    @property
    def prefix_slots(self) -> int:
        return 0 if self.prefix is None else self.prefix.prefix_slots

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **arguments: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = (states[:, :, :0] for states in (key_states, value_states))
        old, new = self.keys.shape[2], self.keys.shape[2] + key_states.shape[2]
        if self.buffers is None or self.buffers[0].shape[2] < new or _is_sealed(self.buffers[0]):
            slots = new + _spare_slots(old)
            self.buffers = (
                _with_spare_slots(self.keys, key_states, slots),
                _with_spare_slots(self.values, value_states, slots),
            )
        keys, values = self.buffers
        keys.narrow(2, old, new - old).copy_(key_states)
        values.narrow(2, old, new - old).copy_(value_states)
        self.keys, self.values = keys.narrow(2, 0, new), values.narrow(2, 0, new)
        return (self.keys, self.values) if self.prefix is None else self.last(self.prefix_slots + new)

    def get_seq_length(self) -> int:
        return self.prefix_slots + self.keys.shape[2] if self.is_initialized else 0

    def reset(self) -> None:
        super().reset()
        self.prefix = self.buffers = None

    def select(self, rows: RowIndex) -> None:
        """Keep, repeat or reorder rows. The new ones have spare slots, so that the next step copies nothing."""
        index, own, before = rows.on(self.keys.device), self.keys.shape[2], (self.keys, self.values)
        shapes = [(len(index), old.shape[1], own + _spare_slots(own), old.shape[3]) for old in before]
        if shapes[0] == shapes[1]:
            self.buffers = before[0].new_empty(2, *shapes[0]).unbind()
        else:
            self.buffers = tuple(old.new_empty(shape) for old, shape in zip(before, shapes, strict=True))
        self.keys, self.values = (
            torch.index_select(old, 0, index, out=buffer[:, :, :own])
            for old, buffer in zip(before, self.buffers, strict=True)
        )
        self.prefix = self.prefix and self.prefix.select(rows.rows)

    def set(self, keys: Tensor, values: Tensor, prefix: SharedPrefix | None = None) -> None:
        """Replace the slots, without spare slots."""
        self.keys, self.values, self.prefix, self.buffers = keys, values, prefix, None

    def move(self, keys: Tensor, values: Tensor) -> None:
        """Move the slots into these buffers [R, H, S, D], whose other slots become zeros. Prefixes are copied."""
        size = self.get_seq_length()
        for buffer, old in zip((keys, values), self.last(size), strict=True):
            buffer[:, :, :size] = old
            buffer[:, :, size:] = 0
        self.set(keys, values)
        self.buffers = (keys, values)
        self.show(size)

    def show(self, slots: int) -> None:
        """Use the first slots of the buffers."""
        assert self.buffers is not None
        self.keys, self.values = (buffer.narrow(2, 0, slots) for buffer in self.buffers)

    def last(self, slots: int) -> tuple[Tensor, Tensor]:
        """Keys and values [R, H, slots, D] of the last slots of every row, prefixes included, zeros on the left."""
        return self._last(self.keys, "keys", slots), self._last(self.values, "values", slots)

    def _last(self, own: Tensor, name: str, slots: int, spare: int = 0) -> Tensor:
        ahead = slots - own.shape[2]
        if ahead <= 0:
            return own[:, :, -ahead:]
        whole = own.new_empty(own.shape[0], own.shape[1], slots + spare, own.shape[3])
        whole[:, :, ahead:slots] = own
        if self.prefix is None:
            whole[:, :, :ahead] = 0
        else:
            replace(self.prefix, prefix_slots=ahead).fill(whole, getattr(self.prefix, name))
        return whole

    def copy_if_few(self, spare: int = 0) -> None:
        """Replace a shared prefix by copies if few rows use it. spare: slots behind the rows, for the next chunk."""
        if self.prefix is not None and not self.prefix.saves_memory:
            size = self.get_seq_length()
            whole = self._last(self.keys, "keys", size, spare), self._last(self.values, "values", size, spare)
            self.set(whole[0][:, :, :size], whole[1][:, :, :size])
            self.buffers = whole if spare else None

    def trim(self, slots: int) -> None:
        """Keep only the last `slots` slots. The removed ones must be padding in every row."""
        spare = self.keys.shape[2] - slots
        if spare > 0:
            self.keys, self.values, self.prefix = self.keys[:, :, spare:], self.values[:, :, spare:], None
            self.buffers = (
                None if self.buffers is None else (self.buffers[0][:, :, spare:], self.buffers[1][:, :, spare:])
            )
        elif self.prefix is not None:
            self.prefix = replace(self.prefix, prefix_slots=-spare) if spare else None

    def shift(self, by: Sequence[int]) -> None:
        """Move row r right by `by[r]` slots, over as many slots of padding at its end."""
        own, largest = self.keys.shape[2], max(by)
        keys, values = (shift_right(slots, by)[:, :, largest:] for slots in self.last(own + largest))
        prefix = self.prefix and replace(self.prefix, places=self.prefix.shortened(by))
        self.set(keys, values, prefix)


def rows_on_prefix(layer: SharedPrefixLayer, places: Sequence[Place], prefix_slots: int) -> SharedPrefixLayer:
    """New rows without own slots, on prefixes of the rows of `layer`.

    Args:
        layer: Becomes the bank.
        places: The prefix of each new row: a row of `layer`, and the slot at which the prefix ends.
        prefix_slots: Width of the new rows.
    """
    keys, values = layer.last(layer.get_seq_length())
    made, empty = SharedPrefixLayer(), (len(places), keys.shape[1], 0, keys.shape[3])
    made.lazy_initialization(keys, values)
    made.set(keys.new_empty(empty), values.new_empty(empty), SharedPrefix(keys, values, tuple(places), prefix_slots))
    return made


def join_layers(
    parts: Sequence[SharedPrefixLayer], slots: int, order: Sequence[int] | None = None
) -> SharedPrefixLayer:
    """The rows of all parts in one layer. Prefixes stay shared if enough rows use them.

    Args:
        parts: Layers of the same model.
        slots: Width of the rows of the result.
        order: Index of each row in the result. None: the given order.
    """
    own = max(part.keys.shape[2] for part in parts)
    prefix = _joined_prefixes(parts, own, slots - own)
    width = slots if prefix is None else own
    made = SharedPrefixLayer()
    made.lazy_initialization(parts[0].keys, parts[0].values)
    keys, values = zip(*(part.last(width) for part in parts), strict=True)
    made.set(concat_rows(keys, order), concat_rows(values, order), prefix)
    if prefix is not None and order is not None:
        places = dict(zip(order, prefix.places, strict=True))
        made.prefix = replace(prefix, places=tuple(places[row] for row in range(len(order))))
    return made


def concat_rows(parts: Sequence[Tensor], order: Sequence[int] | None) -> Tensor:
    """One tensor of the rows of all parts. Row i becomes row `order[i]`."""
    if order is None or list(order) == list(range(len(order))):
        return torch.cat(list(parts))
    made, done = parts[0].new_empty(len(order), *parts[0].shape[1:]), 0
    for part in parts:
        own = torch.tensor(order[done : done + len(part)], device=made.device)
        made.index_copy_(0, own, part)
        done += len(part)
    return made


def _joined_prefixes(parts: Sequence[SharedPrefixLayer], own: int, prefix_slots: int) -> SharedPrefix | None:
    """The prefixes of all parts if every row has `own` own slots. None if sharing does not save memory."""
    shared = {part.prefix.memory_key: part.prefix for part in parts if part.prefix is not None}
    if not shared or prefix_slots <= 0:
        return None
    width = max(prefix.keys.shape[2] for prefix in shared.values())
    offset, offsets = 0, dict.fromkeys(shared, 0)
    for key, prefix in shared.items():
        offsets[key], offset = offset, offset + len(prefix.keys)
    places: list[Place] = []
    for part in parts:
        shared_prefix, more = part.prefix, own - part.keys.shape[2]
        if shared_prefix is None:
            places += [(0, 0)] * part.keys.shape[0]
            continue
        before, spare = offsets[shared_prefix.memory_key], width - shared_prefix.keys.shape[2]
        places += [
            (before + number, end + spare if end else 0)
            for number, end in shared_prefix.shortened([more] * len(shared_prefix.places))
        ]
    banks = list(shared.values())
    if len(banks) == 1:
        made = replace(banks[0], places=tuple(places), prefix_slots=prefix_slots)
    else:
        keys = torch.cat([_pad_left(bank.keys, width) for bank in banks])
        values = torch.cat([_pad_left(bank.values, width) for bank in banks])
        made = SharedPrefix(keys, values, tuple(places), prefix_slots)
    return made if made.saves_memory else None


def _pad_left(slots: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(slots, (0, 0, width - slots.shape[2], 0))


def shift_right(slots: Tensor, by: Sequence[int]) -> Tensor:
    """Roll row r of [R, H, T, D] right by `by[r]` slots. The last slots become the first ones."""
    made = torch.empty_like(slots, memory_format=torch.contiguous_format)
    for step in sorted(set(by)):
        rows = torch.tensor([row for row, own in enumerate(by) if own == step], device=slots.device)
        some = slots if len(rows) == len(by) else slots.index_select(0, rows)
        turned = torch.roll(some, step, 2) if step else some
        if len(rows) == len(by):
            return turned.contiguous()
        made.index_copy_(0, rows, turned)
    return made


def _spare_slots(old: int) -> int:
    """Spare slots for rows with `old` own slots. None for new rows, which are usually joined first."""
    return min(MAX_SPARE, max(MIN_SPARE, old // 16)) if old else 0


def _with_spare_slots(old: Tensor, like: Tensor, slots: int) -> Tensor:
    """The old slots in a tensor of `slots` slots, with the shape and type of `like`."""
    buffer = like.new_empty(like.shape[0], like.shape[1], slots, like.shape[3])
    buffer[:, :, : old.shape[2]] = old
    return buffer


def _is_sealed(tensor: Tensor) -> bool:
    """Whether a tensor from inference mode cannot be written to now."""
    return tensor.is_inference() and not torch.is_inference_mode_enabled()
