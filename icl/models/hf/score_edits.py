"""Interventions and observers at the site `scores`: attention logits of addressed tokens, by tokens instead of slots.

A row of the cache is `[padding | tokens]`, and a window drops its oldest slots. So token t of a row is in slot
t + offset, where the offset is the row's own, and may be negative. Edits and observers receive scores by token:

    slots      . . a b c | d        offset 2        by token    a b c d -inf
               e f g h i | j        offset 0                    e f g h i j

An edit acts on the keys that it names, where the mask does not hide them. What a changed row of scores adds to the
output is (softmax(new) - softmax(old)) v, so equal scores change no bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from icl.models.hf.attention_calls import AttentionCall
from icl.models.interventions import Intervention, KeyedIntervention, Site

if TYPE_CHECKING:
    from icl.models.hf.row_edits import Placed

Waves = Sequence[Sequence[tuple[Site, "Placed"]]]


@dataclass(frozen=True)
class KeyRanges:
    """The keys that an intervention edits in a row.

    Attributes:
        ranges: Tokens (first, after the last). None: all.
        own: Whether a token's own key is among them.
    """

    ranges: tuple[tuple[int, int], ...] | None = None
    own: bool = True


ALL_KEYS = KeyRanges()
"""Every key, also those of generated tokens."""


class ScorePlaces:
    """The addressed tokens of a forward pass, at sites with the same interventions.

    Attributes:
        rows: Tensor rows with addressed tokens, n.
        columns: Their columns, each list padded with its last one: [n, m].
        starts: Number of the token in column 0, of each of these rows.
        place: (row, column) -> index among the n * m.
    """

    def __init__(self, waves: Waves) -> None:
        by_row: dict[int, dict[int, None]] = {}
        starts: dict[int, int] = {}
        for wave in waves:
            for _, placed in wave:
                for row, column, token in zip(placed.rows, placed.columns, placed.tokens, strict=True):
                    by_row.setdefault(row, {})[column] = None
                    starts[row] = token - column
        self.rows = sorted(by_row)
        columns = [sorted(by_row[row]) for row in self.rows]
        width = max(map(len, columns))
        self.columns = [[*own, *[own[-1]] * (width - len(own))] for own in columns]
        self.starts = [starts[row] for row in self.rows]
        self.place = {
            (row, column): i * width + j
            for i, (row, own) in enumerate(zip(self.rows, columns, strict=True))
            for j, column in enumerate(own)
        }
        self._masks: dict[tuple[int, int, torch.device], Tensor] = {}

    def edited(self, waves: Waves, call: AttentionCall, output: Tensor) -> Tensor:
        """The output of a call after all interventions. The same tensor if nothing changed.

        Args:
            waves: The interventions of the site, as in `ForwardEdits`, at these tokens.
            call: The inputs of the attention module.
            output: What its own implementation returns, [R, W, H, v].
        """
        rows, columns = (one.to(call.query.device) for one in self._places)
        slots, width = call.key.shape[2], call.query.shape[2]
        offsets = [slots - width - start for start in self.starts]
        keys = slots - min(offsets)
        by_slot = call.scores(rows, columns)
        before = scores = shifted(by_slot, offsets, keys, -torch.inf).flatten(0, 1)
        for wave in waves:
            for at, placed in wave:
                index = self._index(placed, scores.device)
                x = scores if index is None else scores[index]
                if not isinstance(placed.acts, Intervention):
                    placed.acts.see(at, x, placed.prompts)
                    continue
                edited = self._mask(placed, keys, x.device) & (x > -torch.inf)
                if isinstance(placed.acts, KeyedIntervention):
                    value = placed.acts.edit_keys(at, x, edited)
                else:
                    value = placed.acts.edit(at, x, placed.prompts)
                if value is not x:
                    new = torch.where(edited, value, x)
                    scores = new if index is None else scores.index_copy(0, index, new)
        if scores is before:
            return output
        change = (scores.softmax(-1) - before.softmax(-1)).view(*columns.shape, -1, keys)
        added = call.mixed(shifted(change, [-offset for offset in offsets], slots, 0.0), rows).flatten(0, 1)
        valid, row, column = (one.to(rows.device) for one in self._written)
        return output.index_put((row, column), (output[row, column].float() + added[valid]).to(output.dtype))

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor]:
        """Rows [n] and columns [n, m]."""
        return torch.tensor(self.rows), torch.tensor(self.columns)

    @cached_property
    def _written(self) -> tuple[Tensor, Tensor, Tensor]:
        """(index among the n * m, row, column) of each addressed token."""
        row, column = torch.tensor(list(self.place)).unbind(1)
        return torch.tensor(list(self.place.values())), row, column

    def _index(self, placed: "Placed", device: torch.device) -> Tensor | None:
        """Indices of the tokens of an intervention. None: all in order."""
        index = [self.place[pair] for pair in zip(placed.rows, placed.columns, strict=True)]
        is_whole = index == list(range(len(self.rows) * len(self.columns[0])))
        return None if is_whole else torch.tensor(index, device=device)

    def _mask(self, placed: "Placed", keys: int, device: torch.device) -> Tensor:
        """Whether a key is one that an intervention edits: [n, 1, keys]."""
        name = id(placed), keys, device
        if name not in self._masks:
            masks = {own: _range_mask(own, keys) for own in set(placed.keys)}
            mask = torch.stack([masks[own] for own in placed.keys])
            excluded = [i for i, own in enumerate(placed.keys) if not own.own]
            mask[excluded, [placed.tokens[i] for i in excluded]] = False
            self._masks[name] = mask[:, None].to(device)
        return self._masks[name]


def shifted(tensor: Tensor, by: Sequence[int], width: int, fill: float) -> Tensor:
    """Entry j of the last dimension is entry j + by[r] of row r, or `fill` beyond the ends: [n, ..., S] -> width."""
    if width == tensor.shape[-1] and not any(by):
        return tensor
    index = torch.arange(width, device=tensor.device) + torch.tensor(by, device=tensor.device)[:, None]
    outside = (index < 0) | (index >= tensor.shape[-1])
    index, outside = (
        one.view(len(by), *[1] * (tensor.ndim - 2), width).expand(*tensor.shape[:-1], width)
        for one in (index.clamp(0, tensor.shape[-1] - 1), outside)
    )
    return tensor.gather(-1, index).masked_fill(outside, fill)


def _range_mask(keys: KeyRanges, count: int) -> Tensor:
    mask = torch.full((count,), keys.ranges is None)
    for begin, end in keys.ranges or ():
        mask[begin:end] = True
    return mask
