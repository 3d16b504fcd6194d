"""`HFSession`: the session of the Hugging Face backend. A batch of prefilled prompts that can be selected, joined and
grown.

Every row is `[padding | tokens]` without a hole: chunks of unequal length are padded on the right, where the causal
mask hides the padding from every real token, and each row is then moved right over its own padding. So the attention
mask is a plain left-padded one, and windows that count slots (sliding attention) count tokens. Recurrent states would
take padding in, so there the chunks of one length run together, without any.

Positions are the rows' own: the last one plus one, in every channel that the architecture has. What a model remembers
of its last call (`rope_deltas`) is never read.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from icl.errors import ModelError
from icl.models.base import Session
from icl.models.hf import layers
from icl.models.hf.shared_prefix import SharedPrefixLayer, moved, ordered

if TYPE_CHECKING:
    from icl.models.hf.image_features import EncodedImage
    from icl.models.hf.language_model import LanguageModel

ROOM = 64
"""Columns of ones kept behind the mask, so that a step takes a longer view and writes nothing."""


class HFSession:
    """Prefilled rows (`icl.models.base.Session`). Made by `LanguageModel.prefill`, or from other rows."""

    def __init__(
        self,
        runner: "LanguageModel",
        cache: Any,
        mask: Tensor,
        position: Tensor,
        said: Tensor,
        *,
        keys: Sequence[tuple[int, ...]],
    ) -> None:
        """mask: [R, T], 1 where a slot holds a token. position: [..., R, 1], last tokens'.

        said: [R, V] float32, or [R, 1 + early layers, V] where early layers speak too. keys: of the prompts that the
        rows have read (`EncodedPrompt.key`), which stand before all that was read behind them.
        """
        self.runner, self.cache, self.position, self.said, self.keys = runner, cache, position, said, tuple(keys)
        self.deep = said.ndim == 3
        self.width = mask.shape[1]
        self._mask: Tensor = torch.nn.functional.pad(mask, (0, ROOM), value=1)
        self.slides = any(map(layers.is_sliding, cache.layers))
        self.recurs = any(map(layers.has_states, cache.layers))

    def __len__(self) -> int:
        return len(self.said)

    @property
    def logits(self) -> Tensor:
        return self.said[:, 0] if self.said.ndim == 3 else self.said

    @property
    def early_exit_logits(self) -> Tensor:
        if self.said.ndim < 3:
            raise ModelError("this session was opened without its early layers: open(prompts, early_exits=True).")
        return self.said[:, 1:].transpose(0, 1)

    @property
    def mask(self) -> Tensor:
        mask: Tensor = self._mask[:, : self.width]
        return mask

    def take(self, rows: Tensor) -> "HFSession":
        return self._selected(rows).copy_if_few()

    def join(self, other: Session) -> "HFSession":
        return joined([self, cast(HFSession, other)])

    @property
    def shares_prefix(self) -> bool:
        """Whether every layer still holds all slots, so that others may stand on beginnings of the rows."""
        return self.width <= self.runner.reach

    def begun(self, rows: Sequence[int], positions: Tensor, keys: Sequence[tuple[int, ...]]) -> "HFSession":
        """New rows that have read the first `len(keys[i])` tokens of the prompt of row `rows[i]`, and nothing else.

        positions: [..., R, 1], of the last of these. Where rows do not lend, all keys are whole prompts, and nothing
        was read behind them. What the new rows say is not known before they read on.
        """
        starts = self.mask.argmax(1).tolist()
        ends = [starts[row] + len(key) for row, key in zip(rows, keys, strict=True)]
        whole = all(end == self.width for end in ends)
        sizes = torch.tensor([len(key) for key in keys], device=self._mask.device)
        width = self.width if whole else int(sizes.max())
        places = list(zip(rows, ends, strict=True))
        made = [layers.begun(layer, places, width, whole) for layer in self.cache.layers]
        mask = (torch.arange(width, device=sizes.device) >= width - sizes[:, None]).to(self._mask.dtype)
        said = self.said[:1].expand(len(rows), *self.said.shape[1:])
        return HFSession(self.runner, self._cache_of(made), mask, positions, said, keys=keys)

    def copy_if_few(self, room: int = 0) -> "HFSession":
        """The same rows, which hold copies of a shared beginning where few stand on it, with room for what comes."""
        for layer in self.cache.layers:
            if isinstance(layer, SharedPrefixLayer):
                layer.copy_if_few(room)
        return self

    def advance(self, tokens: Tensor) -> None:
        self.position = self.position + 1
        self._reserve(1)
        self.width += 1
        runner, mask = self.runner, self._mask[:, : self.width]
        said = runner.forward(tokens[:, None], mask, self.position, self.cache, early_exits=self.deep)
        self.said = said[:, -1].float()
        if self.slides:
            layers.settle(self.cache.layers)
        runner.counters.decode_tokens += len(tokens)

    def extend(self, chunks: Sequence[Sequence[int]]) -> None:
        self.runner.counters.decode_tokens += sum(map(len, chunks))
        tokens, lengths = right_padded(chunks, self._mask.device)
        steps = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
        self.append(tokens, lengths, self.position + steps)

    def append(
        self,
        tokens: Tensor,
        lengths: Tensor,
        positions: Tensor,
        kinds: Tensor | None = None,
        images: Sequence[Sequence["EncodedImage"]] = (),
    ) -> None:
        """`tokens[r, :lengths[r]]` behind each row r, in place.

        positions: [..., R, W]. kinds: [R, W] token types, where the model reads them. images: of each row's chunk.
        """
        if self.recurs and bool((lengths < tokens.shape[1]).any()):
            return self._append_by_length(tokens, lengths, positions, kinds, images)
        width = tokens.shape[1]
        self._reserve(width)
        self._mask[:, self.width : self.width + width] = torch.arange(width, device=tokens.device) < lengths[:, None]
        self.width += width
        if kinds is not None:  # models look token types up by slot
            kinds = layers.padded(kinds, self.width, 1)
        ends, where = torch.unique(
            lengths - 1, return_inverse=True
        )  # the output layer is wide: the columns needed alone
        shown = [image for row in images for image in row]
        more: dict[str, Any] = {"keep": ends, "kinds": kinds, "images": shown}
        said = self.runner.forward(tokens, self.mask, positions, self.cache, **more, early_exits=self.deep)
        everyone = torch.arange(len(self), device=tokens.device)
        self.said = said[everyone, where].float()
        self.position = positions[..., everyone, lengths - 1][..., None]
        behind = width - lengths
        if bool(behind.any()):
            by: list[int] = behind.tolist()
            self._set_mask(moved(self.mask[:, None, :, None], by)[:, 0, :, 0])
            for layer in self.cache.layers:
                layers.shift(layer, by)
        if self.slides:
            layers.settle(self.cache.layers)
        return None

    def trim(self) -> None:
        spare = int(self.mask.argmax(1).min())
        if spare:
            self._mask, self.width = self._mask[:, spare:], self.width - spare
            for layer in self.cache.layers:
                layers.trim(layer, self.width)

    def suffix_logprobs(self, suffixes: Sequence[Sequence[Sequence[int]]]) -> list[list[Tensor]]:
        from icl.models.hf.option_logprobs import logprobs

        return logprobs(self, suffixes)

    def suffix_early_exit_logits(self, suffixes: Sequence[Sequence[Sequence[int]]]) -> list[list[Tensor]]:
        from icl.models.hf.option_logprobs import logprobs

        return [[told[:, 1:].transpose(0, 1) for told in row] for row in logprobs(self, suffixes, early_exits=True)]

    def _selected(self, rows: Tensor) -> "HFSession":
        rows = rows.to(self._mask.device)
        taken = [layers.selected(layer, rows) for layer in self.cache.layers]
        position = self.position.index_select(-2, rows)
        keys = [self.keys[row] for row in rows.tolist()]
        return HFSession(self.runner, self._cache_of(taken), self.mask[rows], position, self.said[rows], keys=keys)

    def _append_by_length(
        self,
        tokens: Tensor,
        lengths: Tensor,
        positions: Tensor,
        kinds: Tensor | None,
        images: Sequence[Sequence["EncodedImage"]],
    ) -> None:
        groups = [(lengths == length).nonzero()[:, 0] for length in sorted(set(lengths.tolist()))]
        done = []
        for group in groups:
            rows, size = self._selected(group), int(lengths[group[0]])
            rows.deep = self.deep
            own = None if kinds is None else kinds[group, :size]
            shown = [images[row] for row in group.tolist()] if images else ()
            rows.append(tokens[group, :size], lengths[group], positions[..., group, :size], own, shown)
            done.append(rows)
        vars(self).update(vars(joined(done, torch.cat(groups).tolist())))

    def _cache_of(self, own: list[Any]) -> Any:
        cache = layers.owned(self.cache)
        cache.layers = own
        return cache

    def _set_mask(self, mask: Tensor) -> None:
        self.width = mask.shape[1]
        self._mask = torch.nn.functional.pad(mask, (0, ROOM), value=1)

    def _reserve(self, width: int) -> None:
        if self.width + width > self._mask.shape[1]:
            self._mask = torch.nn.functional.pad(self.mask, (0, width + ROOM), value=1)


def joined(parts: Sequence[HFSession], order: Sequence[int] | None = None) -> HFSession:
    """The rows of all parts as one session of the longest width. order: the row that each becomes."""
    if len(parts) == 1 and order is None:
        return parts[0].take(torch.arange(len(parts[0])))
    width = max(part.width for part in parts)
    own = [layers.joined(each, width, order) for each in zip(*(part.cache.layers for part in parts), strict=True)]
    mask = ordered([layers.padded(part.mask, width, 1) for part in parts], order)
    position = ordered([part.position.movedim(-2, 0) for part in parts], order).movedim(0, -2)
    said = ordered([part.said for part in parts], order)
    keys = [key for part in parts for key in part.keys]
    if order is not None:
        keys = [key for _, key in sorted(zip(order, keys, strict=True))]
    return HFSession(parts[0].runner, parts[0]._cache_of(own), mask, position, said, keys=keys)


def right_padded(chunks: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """tokens [R, W], zeros behind, and lengths [R]."""
    width = max(map(len, chunks))
    tokens = torch.tensor([[*chunk, *[0] * (width - len(chunk))] for chunk in chunks], device=device)
    return tokens, torch.tensor([len(chunk) for chunk in chunks], device=device)
