"""The full-attention layer of a session: it grows in place, and rows that begin alike may keep their beginning once.

transformers' `DynamicLayer` makes a new tensor of all that it holds at every token, and each of its rows has slots of
its own. Here a token is written into room kept behind, and a row may be `[padding | beginning | own slots]`, where the
beginning is a piece of a tensor that many rows stand on. Attention wants the keys of a row in one piece, so they are
put together for one layer at a time and let go: what stays is one copy and the own slots.

Nothing is ever written over: a tensor that rows stand on stays what it was, and new rows own what they write into.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

LEAST, ROOM = 8, 32
"""SharedPrefixLayer kept free behind a row, so that most steps copy nothing.

A sixteenth of its own, and within these bounds.
"""

ALIKE = 16
"""HFSession a beginning from which it is kept once. Fewer have copies, which no step has to put together."""

Place = tuple[int, int]
"""Which row of a tensor of beginnings a row stands on, and where in it its beginning ends."""


@dataclass(frozen=True, eq=False)
class SharedPrefix:
    """What rows stand on. keys, values: [G, H, S, D], aligned on the right. places: of each row. front: slots of every
    row before its own, which the end of its beginning fills, behind padding."""

    keys: Tensor
    values: Tensor
    places: tuple[Place, ...]
    front: int

    @cached_property
    def runs(self) -> tuple[tuple[int, int, Place], ...]:
        """(first row, row behind the last, their place), for neighbors that stand on the same."""
        found: list[tuple[int, int, Place]] = []
        for row, place in enumerate(self.places):
            if found and found[-1][2] == place:
                found[-1] = (found[-1][0], row + 1, place)
            else:
                found.append((row, row + 1, place))
        return tuple(found)

    def fill(self, whole: Tensor, slots: Tensor) -> None:
        """Writes the first `front` slots of every row of `whole` [R, H, T, D]. slots: this one's keys or values."""
        for first, last, (number, end) in self.runs:
            filled = min(end, self.front)
            whole[first:last, :, : self.front - filled] = 0
            whole[first:last, :, self.front - filled : self.front] = slots[number, :, end - filled : end]

    @property
    def pays(self) -> bool:
        return self.front > 0 and len(self.places) >= ALIKE * len({number for number, _ in self.places})

    def taken(self, rows: Sequence[int]) -> "SharedPrefix":
        """Of some rows; what none of them stands on is let go."""
        places = [self.places[row] for row in rows]
        used = sorted({number for number, _ in places})
        if len(used) == len(self.keys):
            return replace(self, places=tuple(places))
        order = {number: i for i, number in enumerate(used)}
        return SharedPrefix(
            self.keys[used], self.values[used], tuple((order[number], end) for number, end in places), self.front
        )

    @property
    def same(self) -> tuple[object, ...]:
        """Equal where two stand on the same memory."""
        return self.keys.data_ptr(), self.values.data_ptr(), self.keys.shape, self.keys.stride()

    def moved(self, by: Sequence[int]) -> tuple[Place, ...]:
        """The places where the last `by[r]` slots of each beginning have become the row's own."""
        return tuple((number, max(0, end - own)) for (number, end), own in zip(self.places, by, strict=True))


class SharedPrefixLayer(DynamicLayer):  # type: ignore[misc]
    """keys, values: [R, H, T, D], the own slots of each row. begins: what stands before them."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.begins: SharedPrefix | None = None
        self.room: tuple[Tensor, Tensor] | None = None

    @property
    def front(self) -> int:
        return 0 if self.begins is None else self.begins.front

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **given: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = (states[:, :, :0] for states in (key_states, value_states))
        old, new = self.keys.shape[2], self.keys.shape[2] + key_states.shape[2]
        if self.room is None or self.room[0].shape[2] < new or _is_sealed(self.room[0]):
            spare = min(ROOM, max(LEAST, old // 16)) if old else 0  # rows just read are mostly put together first
            self.room = (_widened(self.keys, key_states, new + spare), _widened(self.values, value_states, new + spare))
        keys, values = self.room
        keys[:, :, old:new], values[:, :, old:new] = key_states, value_states
        self.keys, self.values = keys[:, :, :new], values[:, :, :new]
        return self.last(self.front + new)

    def get_seq_length(self) -> int:
        return self.front + self.keys.shape[2] if self.is_initialized else 0

    def reset(self) -> None:
        super().reset()
        self.begins = self.room = None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        rows = beam_idx.to(self.keys.device)
        self.set(self.keys.index_select(0, rows), self.values.index_select(0, rows), self.begins)
        if self.begins is not None:
            self.begins = self.begins.taken(rows.tolist())

    def set(self, keys: Tensor, values: Tensor, begins: SharedPrefix | None = None) -> None:
        """Other slots, with no room behind them yet."""
        self.keys, self.values, self.begins, self.room = keys, values, begins, None

    def last(self, slots: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the last `slots` slots of every row, [R, H, slots, D], zeros where it has none."""
        return self._last(self.keys, "keys", slots), self._last(self.values, "values", slots)

    def _last(self, own: Tensor, name: str, slots: int, room: int = 0) -> Tensor:
        ahead = slots - own.shape[2]
        if ahead <= 0:
            return own[:, :, -ahead:]
        whole = own.new_empty(own.shape[0], own.shape[1], slots + room, own.shape[3])
        whole[:, :, ahead:slots] = own
        if self.begins is None:
            whole[:, :, :ahead] = 0
        else:
            replace(self.begins, front=ahead).fill(whole, getattr(self.begins, name))
        return whole

    def copy_if_few(self, room: int = 0) -> None:
        """Copies instead of a shared beginning, where few rows stand on it. room: slots behind them, to be written."""
        if self.begins is not None and not self.begins.pays:
            size = self.get_seq_length()
            whole = self._last(self.keys, "keys", size, room), self._last(self.values, "values", size, room)
            self.set(whole[0][:, :, :size], whole[1][:, :, :size])
            self.room = whole if room else None

    def trim(self, slots: int) -> None:
        """The last `slots` slots alone; what goes is padding in every row."""
        spare = self.keys.shape[2] - slots
        if spare > 0:
            self.keys, self.values, self.begins = self.keys[:, :, spare:], self.values[:, :, spare:], None
            self.room = None if self.room is None else (self.room[0][:, :, spare:], self.room[1][:, :, spare:])
        elif self.begins is not None:
            self.begins = replace(self.begins, front=-spare) if spare else None

    def shift(self, by: Sequence[int]) -> None:
        """Row r moves right by `by[r]` slots, over as many that are padding there."""
        own, most = self.keys.shape[2], max(by)
        keys, values = (moved(slots, by)[:, :, most:] for slots in self.last(own + most))
        begins = self.begins and replace(self.begins, places=self.begins.moved(by))
        self.set(keys, values, begins)


def standing(layer: SharedPrefixLayer, places: Sequence[Place], front: int) -> SharedPrefixLayer:
    """HFSession that have nothing of their own yet: each is the slots of a row of `layer` up to some place."""
    keys, values = layer.last(layer.get_seq_length())
    made, empty = SharedPrefixLayer(), (len(places), keys.shape[1], 0, keys.shape[3])
    made.lazy_initialization(keys, values)
    made.set(keys.new_empty(empty), values.new_empty(empty), SharedPrefix(keys, values, tuple(places), front))
    return made


def joined(parts: Sequence[SharedPrefixLayer], slots: int, order: Sequence[int] | None = None) -> SharedPrefixLayer:
    """The rows of all parts, at a width of `slots`; on shared beginnings where enough rows stand on them.

    order: the row that each becomes, in place of the order they come in.
    """
    own = max(part.keys.shape[2] for part in parts)
    begins = _together(parts, own, slots - own)
    width = slots if begins is None else own
    made = SharedPrefixLayer()
    made.lazy_initialization(parts[0].keys, parts[0].values)
    keys, values = zip(*(part.last(width) for part in parts), strict=True)
    made.set(ordered(keys, order), ordered(values, order), begins)
    if begins is not None and order is not None:
        places = dict(zip(order, begins.places, strict=True))
        made.begins = replace(begins, places=tuple(places[row] for row in range(len(order))))
    return made


def ordered(parts: Sequence[Tensor], order: Sequence[int] | None) -> Tensor:
    """One tensor of all rows; row i becomes row `order[i]`."""
    if order is None or list(order) == list(range(len(order))):
        return torch.cat(list(parts))
    made, done = parts[0].new_empty(len(order), *parts[0].shape[1:]), 0
    for part in parts:
        own = torch.tensor(order[done : done + len(part)], device=made.device)
        made.index_copy_(0, own, part)
        done += len(part)
    return made


def _together(parts: Sequence[SharedPrefixLayer], own: int, front: int) -> SharedPrefix | None:
    """The beginnings of all parts, where `own` slots are the rows' own; None: it does not pay."""
    shared = {part.begins.same: part.begins for part in parts if part.begins is not None}
    if not shared or front <= 0:
        return None
    width = max(begins.keys.shape[2] for begins in shared.values())
    offset, offsets = 0, dict.fromkeys(shared, 0)
    for key, begins in shared.items():
        offsets[key], offset = offset, offset + len(begins.keys)
    places: list[Place] = []
    for part in parts:
        stands, more = part.begins, own - part.keys.shape[2]
        if stands is None:
            places += [(0, 0)] * part.keys.shape[0]
            continue
        before, spare = offsets[stands.same], width - stands.keys.shape[2]
        places += [
            (before + number, end + spare if end else 0) for number, end in stands.moved([more] * len(stands.places))
        ]
    banks = list(shared.values())
    if len(banks) == 1:
        made = replace(banks[0], places=tuple(places), front=front)
    else:
        keys, values = (torch.cat([_left(bank, width) for bank in of]) for of in _named(banks))
        made = SharedPrefix(keys, values, tuple(places), front)
    return made if made.pays else None


def _named(banks: Sequence[SharedPrefix]) -> Iterator[list[Tensor]]:
    yield [bank.keys for bank in banks]
    yield [bank.values for bank in banks]


def _left(slots: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(slots, (0, 0, width - slots.shape[2], 0))


def moved(slots: Tensor, by: Sequence[int]) -> Tensor:
    """[R, H, T, D], each row r moved right by `by[r]`; what falls off on the right comes in on the left."""
    made = torch.empty_like(slots, memory_format=torch.contiguous_format)
    for step in sorted(set(by)):
        rows = torch.tensor([row for row, own in enumerate(by) if own == step], device=slots.device)
        some = slots if len(rows) == len(by) else slots.index_select(0, rows)
        turned = torch.roll(some, step, 2) if step else some
        if len(rows) == len(by):
            return turned.contiguous()
        made.index_copy_(0, rows, turned)
    return made


def _widened(old: Tensor, like: Tensor, slots: int) -> Tensor:
    """Old slots with room behind them."""
    room = like.new_empty(like.shape[0], like.shape[1], slots, like.shape[3])
    room[:, :, : old.shape[2]] = old
    return room


def _is_sealed(tensor: Tensor) -> bool:
    """Whether it was made in inference mode and may not be written now."""
    return tensor.is_inference() and not torch.is_inference_mode_enabled()
