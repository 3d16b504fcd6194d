"""`HFSession`, a batch of prefilled rows that can be selected, joined and extended.

                                                after the shift
    row 0   . . a b c d e | 1 2 3 | , ,         . . a b c d e 1 2 3 | , ,
    row 1   f g h i j k l | 4 5 6 | , ,         f g h i j k l 4 5 6 | , ,
    row 2   . . . . m n o | 7 8 . | , ,         . . . . . m n o 7 8 | , ,
            prompts         chunk

    . padding: 0 in the mask        , spare columns of the mask

Every row is `[padding | tokens]` without holes. Chunks of unequal length are first padded on the right, where the
causal mask hides the padding from all tokens. Then each row is shifted right over its own padding. So the attention
mask is always left-padded, and windows that count slots (sliding attention) count tokens. Recurrent states would
include the padding. A session with recurrent states runs the chunks of each length separately.

Each row has its own positions: the last one plus one, in every channel of the architecture. The model's own record of
its last call (`rope_deltas`) is never read.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from icl.errors import ModelError
from icl.models.base import Session
from icl.models.hf import layers
from icl.models.hf.shared_prefix import SharedPrefixLayer, concat_rows, shift_right

if TYPE_CHECKING:
    from icl.models.hf.image_features import EncodedImage
    from icl.models.hf.language_model import LanguageModel

SPARE_COLUMNS = 64
"""Columns of ones behind the mask, so that a step takes a longer view and writes nothing."""


class HFSession:
    """A batch of prefilled rows, the `icl.models.base.Session` of the model `hf`.

    Attributes:
        runner: The language model.
        cache: KV cache of the rows.
        position: Position ids [..., R, 1] of the last tokens.
        layer_logits: [R, V] float32, or [R, 1 + early layers, V].
        keys: `EncodedPrompt.key` of each row's prompt, whose tokens come first in the row.
        early_exits: Whether `layer_logits` has early layers.
        width: Slots of each row, padding included.
        slides: Whether a layer has a sliding window.
        recurs: Whether a layer has a recurrent state.
    """

    def __init__(
        self,
        runner: "LanguageModel",
        cache: Any,
        mask: Tensor,
        position: Tensor,
        layer_logits: Tensor,
        *,
        keys: Sequence[tuple[int, ...]],
    ) -> None:
        """A session of rows that have been read.

        Args:
            runner: The language model.
            cache: KV cache of R rows and T slots.
            mask: [R, T], 1 for a token and 0 for padding.
            position: [..., R, 1].
            layer_logits: [R, V] float32, or [R, 1 + early layers, V].
            keys: `EncodedPrompt.key` of each row's prompt.
        """
        self.runner, self.cache, self.position, self.layer_logits, self.keys = (
            runner,
            cache,
            position,
            layer_logits,
            tuple(keys),
        )
        self.early_exits = layer_logits.ndim == 3
        self.width = mask.shape[1]
        self._mask: Tensor = torch.nn.functional.pad(mask, (0, SPARE_COLUMNS), value=1)
        self.slides = any(map(layers.is_sliding, cache.layers))
        self.recurs = any(map(layers.has_states, cache.layers))

    def __len__(self) -> int:
        return len(self.layer_logits)

    @property
    def logits(self) -> Tensor:
        return self.layer_logits[:, 0] if self.layer_logits.ndim == 3 else self.layer_logits

    @property
    def early_exit_logits(self) -> Tensor:
        if self.layer_logits.ndim < 3:
            raise ModelError("this session was opened without its early layers: open(prompts, early_exits=True).")
        return self.layer_logits[:, 1:].transpose(0, 1)

    @property
    def mask(self) -> Tensor:
        mask: Tensor = self._mask[:, : self.width]
        return mask

    def take(self, rows: Tensor) -> "HFSession":
        return self._selected(rows).copy_if_few()

    def retain(self, rows: Tensor) -> None:
        rows = rows.to(self._mask.device)
        for i, layer in enumerate(self.cache.layers):  # each old layer is freed before the next one is copied
            self.cache.layers[i] = layers.select_rows(layer, rows)
        self.copy_if_few()
        self.position = self.position.index_select(-2, rows)
        self._set_mask(self.mask[rows])
        self.layer_logits = self.layer_logits[rows]
        self.keys = tuple(self.keys[row] for row in rows.tolist())

    def join(self, other: Session) -> "HFSession":
        return join_sessions([self, cast(HFSession, other)])

    @property
    def shares_prefix(self) -> bool:
        """Whether every layer still holds all slots, so that new rows can start from prefixes of these."""
        return self.width <= self.runner.shareable_length

    def on_prefixes(self, rows: Sequence[int], positions: Tensor, keys: Sequence[tuple[int, ...]]) -> "HFSession":
        """New rows that contain the first `len(keys[i])` tokens of the prompt of row `rows[i]`.

            this session     . . a b c d e | 1 2        rows = [0, 0, 1], lengths of keys = 4, 2, 7
                             f g h i j k l | 3 4
            new session      . . . a b c d
                             . . . . . a b
                             f g h i j k l              without the tokens after the prompts

        The logits of the new rows are undefined until they are extended. If this session does not share prefixes, all
        keys must be complete prompts, and nothing may have been read after them.

        Args:
            rows: Source row of each new row.
            positions: [..., R, 1], position ids of the last tokens.
            keys: Tokens of each new row.
        """
        starts = self.mask.argmax(1).tolist()
        ends = [starts[row] + len(key) for row, key in zip(rows, keys, strict=True)]
        whole = all(end == self.width for end in ends)
        sizes = torch.tensor([len(key) for key in keys], device=self._mask.device)
        width = self.width if whole else int(sizes.max())
        places = list(zip(rows, ends, strict=True))
        made = [layers.prefix_rows(layer, places, width, whole) for layer in self.cache.layers]
        mask = (torch.arange(width, device=sizes.device) >= width - sizes[:, None]).to(self._mask.dtype)
        layer_logits = self.layer_logits[:1].expand(len(rows), *self.layer_logits.shape[1:])
        return HFSession(self.runner, self._cache_of(made), mask, positions, layer_logits, keys=keys)

    def copy_if_few(self, spare: int = 0) -> "HFSession":
        """The same rows. Prefixes that few rows share become copies, with `spare` slots behind them."""
        for layer in self.cache.layers:
            if isinstance(layer, SharedPrefixLayer):
                layer.copy_if_few(spare)
        return self

    def advance(self, tokens: Tensor) -> None:
        self.position = self.position + 1
        self._reserve(1)
        self.width += 1
        runner, mask = self.runner, self._mask[:, : self.width]
        layer_logits = runner.forward(tokens[:, None], mask, self.position, self.cache, early_exits=self.early_exits)
        self.layer_logits = layer_logits[:, -1].float()
        if self.slides:
            layers.crop_windows(self.cache.layers)
        runner.counters.decode_tokens += len(tokens)

    def extend(self, chunks: Sequence[Sequence[int]]) -> None:
        self.runner.counters.decode_tokens += sum(map(len, chunks))
        tokens, lengths = pad_chunks(chunks, self._mask.device)
        steps = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
        self.append(tokens, lengths, self.position + steps)

    def append(
        self,
        tokens: Tensor,
        lengths: Tensor,
        positions: Tensor,
        token_types: Tensor | None = None,
        images: Sequence[Sequence["EncodedImage"]] = (),
    ) -> None:
        """Append `tokens[r, :lengths[r]]` to each row r, in place.

        Args:
            tokens: [R, W], padded on the right.
            lengths: [R].
            positions: [..., R, W].
            token_types: [R, W], if the model takes them.
            images: Encoded images of each row's chunk.
        """
        if self.recurs and bool((lengths < tokens.shape[1]).any()):
            return self._append_by_length(tokens, lengths, positions, token_types, images)
        width = tokens.shape[1]
        self._reserve(width)
        self._mask[:, self.width : self.width + width] = torch.arange(width, device=tokens.device) < lengths[:, None]
        self.width += width
        if token_types is not None:  # models index token types by slot
            token_types = layers.pad_left(token_types, self.width, 1)
        # The output layer is wide, so logits are computed only for the columns that end a chunk.
        columns, column_of = torch.unique(lengths - 1, return_inverse=True)
        row_images = [image for row in images for image in row]
        layer_logits = self.runner.forward(
            tokens,
            self.mask,
            positions,
            self.cache,
            keep=columns,
            token_types=token_types,
            images=row_images,
            early_exits=self.early_exits,
        )
        everyone = torch.arange(len(self), device=tokens.device)
        self.layer_logits = layer_logits[everyone, column_of].float()
        self.position = positions[..., everyone, lengths - 1][..., None]
        padding = width - lengths
        if bool(padding.any()):
            by: list[int] = padding.tolist()
            self._set_mask(shift_right(self.mask[:, None, :, None], by)[:, 0, :, 0])
            for layer in self.cache.layers:
                layers.shift(layer, by)
        if self.slides:
            layers.crop_windows(self.cache.layers)
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

        return [
            [logprob_rows[:, 1:].transpose(0, 1) for logprob_rows in row]
            for row in logprobs(self, suffixes, early_exits=True)
        ]

    def _selected(self, rows: Tensor) -> "HFSession":
        rows = rows.to(self._mask.device)
        taken = [layers.select_rows(layer, rows) for layer in self.cache.layers]
        position = self.position.index_select(-2, rows)
        keys = [self.keys[row] for row in rows.tolist()]
        return HFSession(
            self.runner, self._cache_of(taken), self.mask[rows], position, self.layer_logits[rows], keys=keys
        )

    def _append_by_length(
        self,
        tokens: Tensor,
        lengths: Tensor,
        positions: Tensor,
        token_types: Tensor | None,
        images: Sequence[Sequence["EncodedImage"]],
    ) -> None:
        groups = [(lengths == length).nonzero()[:, 0] for length in sorted(set(lengths.tolist()))]
        done = []
        for group in groups:
            rows, size = self._selected(group), int(lengths[group[0]])
            rows.early_exits = self.early_exits
            own = None if token_types is None else token_types[group, :size]
            group_images = [images[row] for row in group.tolist()] if images else ()
            rows.append(tokens[group, :size], lengths[group], positions[..., group, :size], own, group_images)
            done.append(rows)
        vars(self).update(vars(join_sessions(done, torch.cat(groups).tolist())))

    def _cache_of(self, own: list[Any]) -> Any:
        cache = layers.shallow_copy(self.cache)
        cache.layers = own
        return cache

    def _set_mask(self, mask: Tensor) -> None:
        self.width = mask.shape[1]
        self._mask = torch.nn.functional.pad(mask, (0, SPARE_COLUMNS), value=1)

    def _reserve(self, width: int) -> None:
        if self.width + width > self._mask.shape[1]:
            self._mask = torch.nn.functional.pad(self.mask, (0, width + SPARE_COLUMNS), value=1)


def join_sessions(parts: Sequence[HFSession], order: Sequence[int] | None = None) -> HFSession:
    """The rows of all sessions in one session of the largest width. order: index of each row in the result."""
    if len(parts) == 1 and order is None:
        return parts[0].take(torch.arange(len(parts[0])))
    width = max(part.width for part in parts)
    own = [layers.join_rows(each, width, order) for each in zip(*(part.cache.layers for part in parts), strict=True)]
    mask = concat_rows([layers.pad_left(part.mask, width, 1) for part in parts], order)
    position = concat_rows([part.position.movedim(-2, 0) for part in parts], order).movedim(0, -2)
    layer_logits = concat_rows([part.layer_logits for part in parts], order)
    keys = [key for part in parts for key in part.keys]
    if order is not None:
        keys = [key for _, key in sorted(zip(order, keys, strict=True))]
    return HFSession(parts[0].runner, parts[0]._cache_of(own), mask, position, layer_logits, keys=keys)


def pad_chunks(chunks: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens [R, W] with zeros on the right, and lengths [R]."""
    width = max(map(len, chunks))
    tokens = torch.tensor([[*chunk, *[0] * (width - len(chunk))] for chunk in chunks], device=device)
    return tokens, torch.tensor([len(chunk) for chunk in chunks], device=device)
