"""`HFSession`, a batch of prefilled rows that can be selected, joined and extended.

                                            after the shift         lengths
    row 0   . . a b c d e | 1 2 3           . . a b c d e 1 2 3      8
    row 1   f g h i j k l | 4 5 6           f g h i j k l 4 5 6     10
    row 2   . . . . m n o | 7 8 .           . . . . . m n o 7 8      5
            prompts         chunk                                    width 10

    . padding: 0 in the mask

The lengths are on the host, so no question about padding waits for the device. A step of rows without padding passes no
mask to the model. With padding, it passes a mask that transformers does not have to look into.

Every row is `[padding | tokens]` without holes. Chunks of unequal length are first padded on the right, where the
causal mask hides the padding from all tokens. Then each row is shifted right over its own padding. So the attention
mask is always left-padded, and windows that count slots (sliding attention) count tokens. Recurrent states would
include the padding. A session with recurrent states runs the chunks of each length separately.

Each row has its own positions: the last one plus one, in every channel of the architecture. The model's own record of
its last call (`rope_deltas`) is never read.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from icl import ModelError, RowIndex, Session, copied_to_device
from icl.models import hf
from icl.models.hf import ForwardEdits, RowEdit, SharedPrefixLayer, concat_rows, layers
from icl.models.hf.layers import mask_of_chunk, mask_of_rows, mask_of_step, pad_chunks
from icl.models.interventions import StepwiseIntervention, TokenPart


class HFSession:
    """A batch of prefilled rows, the `icl.models.base.Session` of the model `hf`.

    Attributes:
        runner: The language model.
        graph: The graph whose memory holds the KV cache, if one read the last token.
        lengths: Tokens of each row, without padding.
        width: Slots of each row, padding included.
        position: Position ids [..., R, 1] of the last tokens.
        layer_logits: [R, V] float32, or [R, 1 + early layers, V].
        keys: `EncodedPrompt.key` of each row's prompt. The prompt's tokens come first in the row.
        early_exits: Whether `layer_logits` has early layers.
        edits: Interventions and observers of each row.
        slides: Whether a layer has a sliding window.
        recurs: Whether a layer has a recurrent state.
    """

    def __init__(
        self,
        runner: "hf.LanguageModel",
        cache: Any,
        lengths: Sequence[int],
        position: Tensor,
        layer_logits: Tensor,
        *,
        width: int,
        keys: Sequence[tuple[int, ...]],
    ) -> None:
        """A session of rows that have been read.

        Args:
            runner: The language model.
            cache: KV cache of R rows and T slots.
            lengths: Tokens of each row.
            position: [..., R, 1].
            layer_logits: [R, V] float32, or [R, 1 + early layers, V].
            width: T.
            keys: `EncodedPrompt.key` of each row's prompt.
        """
        self.runner, self._cache, self.position, self.layer_logits = runner, cache, position, layer_logits
        self.graph: hf.StepGraph | None = None
        self.lengths, self.width, self.keys = list(lengths), width, tuple(keys)
        self.early_exits = layer_logits.ndim == 3
        self.edits: list[tuple[RowEdit, ...]] = [()] * len(self.lengths)
        self._wide_mask: Tensor | None = None  # [R, width + spare columns] bool, made when a step needs it
        self.slides = any(map(layers.is_sliding, cache.layers))
        self.recurs = any(map(layers.has_states, cache.layers))

    def __len__(self) -> int:
        return len(self.layer_logits)

    @property
    def cache(self) -> Any:
        """KV cache of the rows, in their own memory."""
        self.leave_graph()
        return self._cache

    def leave_graph(self) -> None:
        """Copy the KV cache out of the memory of graphs, if it is there."""
        if self.graph is not None:
            self._show_slots()
            self.graph = None
            for layer in self._cache.layers:
                layer.set(layer.keys.clone(), layer.values.clone())

    def _show_slots(self) -> None:
        """Let the layers hold the slots that a graph has written."""
        if self.graph is not None:
            for layer in self._cache.layers:
                layer.show(self.graph.filled)

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
        """[R, width] int64, 1 for a token and 0 for padding."""
        return self._mask_slots(self.width).long()

    @property
    def has_padding(self) -> bool:
        return min(self.lengths) < self.width

    @property
    def is_stepwise(self) -> bool:
        """Whether an intervention on what rows read next follows their predictions."""
        return any(
            isinstance(edit.acts, StepwiseIntervention) and length >= edit.prompt_length
            for own, length in zip(self.edits, self.lengths, strict=True)
            for edit in own
        )

    def take(self, rows: Tensor) -> "HFSession":
        return self._selected(rows.tolist()).copy_if_few()

    def retain(self, rows: Tensor) -> None:
        index = RowIndex(rows.tolist())
        self._show_slots()
        for i, layer in enumerate(self._cache.layers):  # each old layer is freed before the next one is copied
            self._cache.layers[i] = layers.select_rows(layer, index)
        self.graph = None
        self.copy_if_few()
        self.position = self.position.index_select(-2, index.on(self.position.device))
        self.layer_logits = self.layer_logits.index_select(0, index.on(self.layer_logits.device))
        self.lengths = [self.lengths[row] for row in index.rows]
        self.keys = tuple(self.keys[row] for row in index.rows)
        self.edits = [self.edits[row] for row in index.rows]
        if self._wide_mask is not None:
            self._wide_mask = self._wide_mask.index_select(0, index.on(self._wide_mask.device))

    def join(self, other: Session) -> "HFSession":
        return join_sessions([self, cast(HFSession, other)])

    def absorb(self, other: Session) -> None:
        vars(self).update(vars(join_sessions([self, cast(HFSession, other)], are_used_up=True)))

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
        ends = [self.width - self.lengths[row] + len(key) for row, key in zip(rows, keys, strict=True)]
        whole = all(end == self.width for end in ends)
        sizes = [len(key) for key in keys]
        width = self.width if whole else max(sizes)
        places = list(zip(rows, ends, strict=True))
        made = [layers.prefix_rows(layer, places, width, whole) for layer in self.cache.layers]
        layer_logits = self.layer_logits[:1].expand(len(rows), *self.layer_logits.shape[1:])
        return HFSession(self.runner, self._cache_of(made), sizes, positions, layer_logits, width=width, keys=keys)

    def copy_if_few(self, spare: int = 0) -> "HFSession":
        """The same rows. Prefixes that few rows share become copies, with `spare` slots behind them."""
        for layer in self.cache.layers:
            if isinstance(layer, SharedPrefixLayer):
                layer.copy_if_few(spare)
        return self

    def advance(self, tokens: Tensor, parts: Sequence[TokenPart] = ()) -> None:
        self.position = self.position + 1
        edits = ForwardEdits.place(
            self.edits, self.lengths, [1] * len(self.lengths), parts=[[part] for part in parts], logits=self.logits
        )
        runner, graphs = self.runner, self.runner.graphs if edits is None else None
        cache = None if graphs is not None else self.cache
        if graphs is not None:
            self.layer_logits = graphs.step(self, tokens)
        self.width += 1
        self.lengths = [length + 1 for length in self.lengths]
        if cache is not None:
            layer_logits = runner.forward(
                tokens[:, None], self._step_mask(), self.position, cache, early_exits=self.early_exits, edits=edits
            )
            self.layer_logits = layer_logits[:, -1].float()
        if self.slides:
            layers.crop_windows(self.cache.layers)
        runner.counters.decode_tokens += len(tokens)

    def extend(self, chunks: Sequence[Sequence[int]], parts: Sequence[Sequence[TokenPart]] = ()) -> None:
        self.runner.counters.decode_tokens += sum(map(len, chunks))
        tokens, lengths = pad_chunks(chunks, self.position.device)
        steps = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
        self.append(tokens, lengths, self.position + steps, parts=parts)

    def append(
        self,
        tokens: Tensor,
        lengths: Sequence[int],
        positions: Tensor,
        token_types: Tensor | None = None,
        images: Sequence[Sequence["hf.EncodedImage"]] = (),
        *,
        parts: Sequence[Sequence[TokenPart]] = (),
    ) -> None:
        """Append `tokens[r, :lengths[r]]` to each row r, in place.

        Args:
            tokens: [R, W], padded on the right.
            lengths: R lengths.
            positions: [..., R, W].
            token_types: [R, W], if the model takes them.
            images: Encoded images of each row's chunk.
            parts: As for `extend`.
        """
        width, longest = tokens.shape[1], max(lengths)
        if (self.recurs and min(lengths) < width) or (width > 1 and self.is_stepwise):
            return self._append_by_length(tokens, lengths, positions, token_types, images, parts=parts)
        padding = [width - length for length in lengths]
        mask = self._chunk_mask(width, padding)
        self.width += width
        self._wide_mask = None
        if token_types is not None:  # models index token types by slot
            token_types = layers.pad_left(token_types, self.width, 1)
        # The output layer is wide, so logits are computed only for the columns that end a chunk.
        columns = sorted({length - 1 for length in lengths})
        layer_logits = self.runner.forward(
            tokens,
            mask,
            positions,
            self.cache,
            keep=copied_to_device(columns, torch.long, tokens.device),  # a slice gives other roundings than an index
            token_types=token_types,
            images=[image for row in images for image in row],
            early_exits=self.early_exits,
            edits=ForwardEdits.place(self.edits, self.lengths, lengths, parts=parts, logits=self.logits),
        )
        if len(columns) == 1:
            self.layer_logits, self.position = layer_logits[:, -1].float(), positions[..., longest - 1 : longest]
        else:
            column_of = {column: i for i, column in enumerate(columns)}
            places = [[row, column_of[length - 1], length - 1] for row, length in enumerate(lengths)]
            row, logit_column, token_column = copied_to_device(places, torch.long, tokens.device).unbind(1)
            self.layer_logits = layer_logits[row, logit_column].float()
            self.position = positions[..., row, token_column][..., None]
        self.lengths = [before + length for before, length in zip(self.lengths, lengths, strict=True)]
        if any(padding):
            for layer in self.cache.layers:
                layers.shift(layer, padding)
        if self.slides:
            layers.crop_windows(self.cache.layers)
        return None

    def trim(self) -> None:
        spare = self.width - max(self.lengths)
        if spare:
            self.width -= spare
            self._wide_mask = None if self._wide_mask is None else self._wide_mask[:, spare:]
            for layer in self.cache.layers:
                layers.trim(layer, self.width)

    def suffix_logprobs(self, suffixes: Sequence[Sequence[Sequence[int]]]) -> list[list[Tensor]]:
        return hf.option_logprobs(self, suffixes)

    def suffix_early_exit_logits(self, suffixes: Sequence[Sequence[Sequence[int]]]) -> list[list[Tensor]]:
        return [
            [logprob_rows[:, 1:].transpose(0, 1) for logprob_rows in row]
            for row in hf.option_logprobs(self, suffixes, early_exits=True)
        ]

    def _selected(self, rows: Sequence[int]) -> "HFSession":
        index = RowIndex(rows)
        self._show_slots()
        taken = [layers.select_rows(layer, index) for layer in self._cache.layers]
        selected = HFSession(
            self.runner,
            self._cache_of(taken),
            [self.lengths[row] for row in rows],
            self.position.index_select(-2, index.on(self.position.device)),
            self.layer_logits.index_select(0, index.on(self.layer_logits.device)),
            width=self.width,
            keys=[self.keys[row] for row in rows],
        )
        selected.edits = [self.edits[row] for row in rows]
        return selected

    def _append_by_length(
        self,
        tokens: Tensor,
        lengths: Sequence[int],
        positions: Tensor,
        token_types: Tensor | None,
        images: Sequence[Sequence["hf.EncodedImage"]],
        *,
        parts: Sequence[Sequence[TokenPart]],
    ) -> None:
        groups = [[row for row, length in enumerate(lengths) if length == size] for size in sorted(set(lengths))]
        done = []
        for group in groups:
            rows, size = self._selected(group), lengths[group[0]]
            rows.early_exits = self.early_exits
            index = copied_to_device(group, torch.long, tokens.device)
            own = None if token_types is None else token_types[index, :size]
            group_images = [images[row] for row in group] if images else ()
            group_parts = [parts[row] for row in group] if parts else ()
            ids, places = tokens[index, :size], positions[..., index, :size]
            if self.is_stepwise:  # generated tokens, without images
                for step in range(size):
                    rows.advance(ids[:, step], [own_parts[step] for own_parts in group_parts])
            else:
                rows.append(ids, [size] * len(group), places, own, group_images, parts=group_parts)
            done.append(rows)
        vars(self).update(vars(join_sessions(done, [row for group in groups for row in group])))

    def _cache_of(self, own: list[Any]) -> Any:
        cache = layers.shallow_copy(self._cache)
        cache.layers = own
        return cache

    def _mask_slots(self, slots: int) -> Tensor:
        """[R, slots] bool, whether a slot is no padding. Slots behind the rows are none."""
        if self._wide_mask is None or self._wide_mask.shape[1] < slots:
            self._wide_mask = mask_of_rows(self.lengths, self.width, slots, self.position.device)
        mask: Tensor = self._wide_mask[:, :slots]
        return mask

    def _step_mask(self) -> Tensor | None:
        """The mask of one new token per row. transformers need not read its values."""
        runner = self.runner
        if runner.is_from_transformers and not self.has_padding:
            return None
        is_plain = runner.is_from_transformers and not self.slides and not self.recurs
        if not is_plain or runner.attention not in ("sdpa", "eager"):
            return self.mask
        return mask_of_step(self._mask_slots(self.width), runner.attention, runner.dtype)

    def _chunk_mask(self, width: int, padding: Sequence[int]) -> Tensor | None:
        """The mask [R, T + W] of a chunk of W columns with padding in the last ones. None without padding."""
        if self.runner.is_from_transformers and not any(padding) and not self.has_padding:
            return None
        mask = self._mask_slots(self.width + width)
        return (mask_of_chunk(mask, padding) if any(padding) else mask).long()


def join_sessions(
    parts: Sequence[HFSession], order: Sequence[int] | None = None, *, are_used_up: bool = False
) -> HFSession:
    """The rows of all sessions in one session of the largest width.

    Args:
        parts: Sessions of one model.
        order: Index of each row in the result.
        are_used_up: Whether the layers of the sessions are freed one by one, so that no second cache is needed.
    """
    if len(parts) == 1 and order is None:
        return parts[0].take(torch.arange(len(parts[0])))
    width = max(part.width for part in parts)
    own: list[Any] = []
    for i in range(len(parts[0].cache.layers)):
        own.append(layers.join_rows([part.cache.layers[i] for part in parts], width, order))
        for part in parts if are_used_up else ():
            part.cache.layers[i] = None
    position = concat_rows([part.position.movedim(-2, 0) for part in parts], order).movedim(0, -2)
    layer_logits = concat_rows([part.layer_logits for part in parts], order)
    rows = [row for part in parts for row in zip(part.lengths, part.keys, part.edits, strict=True)]
    if order is not None:
        rows = [row for _, row in sorted(zip(order, rows, strict=True), key=lambda pair: pair[0])]
    lengths, keys, edits = zip(*rows, strict=True)
    joined = HFSession(
        parts[0].runner, parts[0]._cache_of(own), lengths, position, layer_logits, width=width, keys=keys
    )
    joined.edits = list(edits)
    return joined
