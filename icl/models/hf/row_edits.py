"""Interventions on the rows of a forward pass: which columns hold the addressed tokens, and the hooks that edit them.

A row's tokens are numbered from 0, without padding. A forward pass reads some of them, in columns that depend on the
batch. `ForwardEdits.place` finds the columns:

    prefill, padded on the left         . . a b c d      first 0, length 4, offset 2
    chunk on a prefix, padded right     e f g . . .      first 4, length 3, offset 0
    step                                h                first 7, length 1, offset 0

If no row addresses a token of the pass, there is no `ForwardEdits` and no hook: the model runs as without
interventions. Hooks edit a copy of the states. Values are computed in float32 and cast back.

The site `scores` has attention logits by tokens instead of slots. A row of the cache is `[padding | tokens]`, and a
window drops its oldest slots. So token t of a row is in slot t + offset, where the offset is the row's own, and may be
negative:

    slots      . . a b c | d        offset 2        by token    a b c d -inf
               e f g h i | j        offset 0                    e f g h i j

An edit acts on the keys that it names, where the mask does not hide them. What a changed row of scores adds to the
output is (softmax(new) - softmax(old)) v, so equal scores change no bit.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from icl.errors import ModelError
from icl.models.hf.attention_calls import AttentionCall, Route
from icl.models.hf.sites import DecoderSites, Hookable
from icl.models.interventions import (
    Intervention,
    KeyedIntervention,
    OutputPart,
    SideAttention,
    Site,
    StateObserver,
    StepwiseIntervention,
    TokenPart,
)

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
"""Every key, including the keys of generated tokens."""


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

        def mixed(weights: Tensor) -> Tensor:
            """Sums of values under weights by token: [n * m, H, keys] -> [n * m, H, v]."""
            by_slot = shifted(weights.view(*columns.shape, -1, keys), [-offset for offset in offsets], slots, 0.0)
            return call.mixed(by_slot, rows).flatten(0, 1)

        for wave in waves:
            for at, placed in wave:
                index = self._index(placed, scores.device)
                x = scores if index is None else scores[index]
                if not isinstance(placed.acts, Intervention):
                    placed.acts.see(at, x, placed.prompts)
                    continue
                edited = self._mask(placed, keys, x.device) & (x > -torch.inf)
                if isinstance(placed.acts, SideAttention):
                    weights = placed.acts.side_weights(at, x, edited)
                    whole = weights if index is None else torch.zeros_like(scores).index_copy(0, index, weights)
                    heads = mixed(whole)
                    placed.acts.receive(at, heads if index is None else heads[index])
                    continue
                if isinstance(placed.acts, StepwiseIntervention):
                    value = placed.acts.edit_by(at, x, placed.strengths[0].to(x.device))
                elif isinstance(placed.acts, KeyedIntervention):
                    value = placed.acts.edit_keys(at, x, edited)
                else:
                    value = placed.acts.edit(at, x, placed.prompts)
                if value is not x:
                    new = torch.where(edited, value, x)
                    scores = new if index is None else scores.index_copy(0, index, new)
        if scores is before:
            return output
        added = mixed(scores.softmax(-1) - before.softmax(-1))
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


@dataclass(frozen=True, eq=False)
class RowEdit:
    """An intervention or an observer on the tokens of one prompt.

    Attributes:
        acts: The intervention or the observer.
        sites: Its sites, with layer numbers from 0, and as they stand in it.
        ranges: Addressed tokens of the prompt: (first, after the last).
        answer: Whether all generated tokens are addressed.
        prompt_length: Tokens of the prompt.
        row: Number of the prompt in the call of `open`.
        keys: Edited keys, at the site `scores`.
        acts_in: The part of the output in which generated tokens are addressed: all of them if `answer`, else only the
            tokens that begin the part. None: no part is singled out.
    """

    acts: Intervention | StateObserver
    sites: tuple[tuple[Site, Site], ...]
    ranges: tuple[tuple[int, int], ...]
    answer: bool
    prompt_length: int
    row: int
    keys: KeyRanges = ALL_KEYS
    acts_in: OutputPart | None = None

    @property
    def first(self) -> int:
        """The first token with a state that may differ. Rows share what is before it, but never a part of an image.

        No token attends to edited keys that come after it, unless both belong to one image.
        """
        addressed, keys = self.ranges, ((0, 0),) if self.keys.ranges is None else self.keys.ranges
        return max(min([begin for begin, _ in own], default=self.prompt_length) for own in (addressed, keys))

    def tokens(self, begin: int, end: int, parts: Sequence[TokenPart] = ()) -> list[int]:
        """The addressed tokens from `begin` to before `end`.

        Args:
            begin: The first token of a forward pass.
            end: The token after its last one.
            parts: The part of the output that each token of the pass leads on to. Empty: unknown.

        Raises:
            ModelError: The edit acts in one part of the output, and the parts of generated tokens are unknown.
        """
        within = [t for a, b in self.ranges for t in range(max(a, begin), min(b, end, self.prompt_length))]
        generated = range(max(begin, self.prompt_length), end)
        if self.acts_in is None:
            return within + (list(generated) if self.answer else [])
        if generated and len(parts) != end - begin:
            raise ModelError(
                f"an intervention acts in the part '{self.acts_in}' of outputs, and it is unknown to which part "
                "generated tokens belong. Answer with a thinking budget, or give the session the parts with the tokens."
            )
        own = {part for part in parts if part.name == self.acts_in and (self.answer or part.begins)}
        return within + [token for token in generated if parts[token - begin] in own]


@dataclass(frozen=True, eq=False)
class Placed:
    """The addressed tokens of one intervention in a forward pass.

    Attributes:
        acts: The intervention or the observer.
        rows: Tensor row of each token.
        columns: Its column.
        prompts: The number of its prompt.
        tokens: Its number in its row, without padding.
        keys: The keys that are edited for it, at the site `scores`.
        steps: Its number in the answer, from 0; negative in the prompt.
        strengths: If they follow the predictions, one tensor with the strength for each token.
    """

    acts: Intervention | StateObserver
    rows: list[int] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    prompts: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    keys: list[KeyRanges] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    strengths: list[Tensor] = field(default_factory=list)

    def follow(self, logits: Tensor | None) -> None:
        """Computes the strengths that follow predictions [R, V]. Raises ModelError if these are not there."""
        if isinstance(self.acts, StepwiseIntervention):
            if logits is None or len(set(self.rows)) < len(self.rows):
                raise ModelError(
                    "the strength of an intervention follows the prediction before each generated token, but here "
                    "the whole answer is read in one pass. Generate the answer, or use an intervention with a constant "
                    "strength."
                )
            self.strengths.append(self.acts.strengths(logits[self.rows].float(), self.steps))


class ForwardEdits:
    """The interventions of one forward pass.

    Attributes:
        waves: Resolved site -> lists of placed interventions. Those of one list act on different rows, at once.
    """

    def __init__(self, waves: dict[Site, list[list[tuple[Site, Placed]]]]) -> None:
        self.waves = waves
        self.indices: dict[tuple[tuple[int, ...], torch.device], Tensor | None] = {}
        self.score_places: dict[tuple[tuple[int, ...], ...], ScorePlaces] = {}

    @classmethod
    def place(
        cls,
        edits: Sequence[Sequence[RowEdit]],
        first: Sequence[int],
        lengths: Sequence[int],
        offsets: Sequence[int] | None = None,
        *,
        parts: Sequence[Sequence[TokenPart]] = (),
        logits: Tensor | None = None,
    ) -> "ForwardEdits | None":
        """The interventions that address tokens of a forward pass, or None.

        Args:
            edits: Of each row.
            first: Number of each row's first token in the pass.
            lengths: Tokens of each row in the pass.
            offsets: Column of each row's first token. By default 0.
            parts: Of each row, the part of the output that each token leads on to. Empty: unknown.
            logits: What each row predicted before the pass [R, V]. None: not there.
        """
        if not any(edits):
            return None
        levels: list[dict[int, Placed]] = []
        sites_of: dict[int, tuple[tuple[Site, Site], ...]] = {}
        for row, own in enumerate(edits):
            start = first[row] - (0 if offsets is None else offsets[row])
            for level, edit in enumerate(own):
                tokens = edit.tokens(first[row], first[row] + lengths[row], parts[row] if parts else ())
                if not tokens:
                    continue
                while len(levels) <= level:
                    levels.append({})
                placed = levels[level].setdefault(id(edit.acts), Placed(edit.acts))
                sites_of[id(edit.acts)] = edit.sites
                placed.rows.extend([row] * len(tokens))
                placed.columns.extend(token - start for token in tokens)
                placed.prompts.extend([edit.row] * len(tokens))
                placed.tokens.extend(tokens)
                placed.keys.extend([edit.keys] * len(tokens))
                placed.steps.extend(token - edit.prompt_length for token in tokens)
        waves: dict[Site, list[list[tuple[Site, Placed]]]] = {}
        for by_id in levels:
            own_waves: dict[Site, list[tuple[Site, Placed]]] = {}
            for key, placed in by_id.items():
                placed.follow(logits)
                for resolved, site in sites_of[key]:
                    own_waves.setdefault(resolved, []).append((site, placed))
            for site, wave in own_waves.items():
                waves.setdefault(site, []).append(wave)
        return cls(waves) if waves else None

    @contextmanager
    def attached(self, sites: DecoderSites) -> Iterator[None]:
        """Hooks on the model. They are removed at the end, also after an exception."""
        handles: list[Any] = []
        try:
            for site in self.waves:
                handles += self._attach(site, sites.hookable(site))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _attach(self, site: Site, place: Hookable) -> list[Any]:
        if site.kind == "scores":
            return [Route(place.module, self._score_handler(site))]
        if place.reads_input:
            return [place.module.register_forward_pre_hook(self._input_hook(site, place.heads), with_kwargs=True)]
        if place.plus_input_of is None:
            return [place.module.register_forward_hook(self._output_hook(site))]
        stream: list[Tensor] = []

        def remember(module: Any, args: Any, kwargs: Any) -> None:
            stream[:] = [args[0] if args else kwargs["hidden_states"]]

        handle = place.plus_input_of.register_forward_pre_hook(remember, with_kwargs=True)
        return [handle, place.module.register_forward_hook(self._output_hook(site, stream))]

    def _score_handler(self, site: Site) -> Callable[[AttentionCall, Tensor], Tensor]:
        """The handler of an attention module. Sites with the same interventions share the places of tokens."""
        waves = self.waves[site]
        key = tuple(tuple(id(placed) for _, placed in wave) for wave in waves)
        if key not in self.score_places:
            self.score_places[key] = ScorePlaces(waves)
        return partial(self.score_places[key].edited, waves)

    def _output_hook(self, site: Site, stream: Sequence[Tensor] = ()) -> Callable[[Any, Any, Any], Any]:
        def hook(module: Any, args: Any, output: Any) -> Any:
            states = output[0] if isinstance(output, tuple) else output
            base = stream[0].float() if stream else None
            edited = self._edited(site, states, 0, base)
            if edited is states:
                return None
            return (edited, *output[1:]) if isinstance(output, tuple) else edited

        return hook

    def _input_hook(self, site: Site, heads: int) -> Callable[[Any, Any, Any], Any]:
        def hook(module: Any, args: Any, kwargs: Any) -> Any:
            states = args[0] if args else kwargs["hidden_states"]
            edited = self._edited(site, states, heads)
            if edited is states:
                return None
            return ((edited, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": edited})

        return hook

    def _edited(self, site: Site, states: Tensor, heads: int, base: Tensor | None = None) -> Tensor:
        """The states [R, W, d] after all waves. The same tensor if nothing changed."""
        if states.ndim != 3:
            raise ModelError(f"the site {site} has states of {states.ndim} dimensions, where 3 were expected.")
        for number, wave in enumerate(self.waves[site]):
            index = self._index(site, number, states)
            x = _gathered(states, index).float()
            stream = None if base is None else _gathered(base, index)
            own = x if stream is None else x + stream
            if heads:
                own = own.view(len(own), heads, -1)
            values, start, is_changed = [], 0, False
            for at, placed in wave:
                part = own[start : start + len(placed.rows)] if len(wave) > 1 else own
                start += len(placed.rows)
                if isinstance(placed.acts, Intervention):
                    value = placed.acts.edit(at, part, placed.prompts)
                    is_changed |= value is not part
                    part = value
                else:
                    placed.acts.see(at, part, placed.prompts)
                values.append(part)
            if is_changed:
                new = (torch.cat(values) if len(values) > 1 else values[0]).reshape(len(x), -1)
                new = (new if stream is None else new - stream).to(states.dtype)
                states = new.view(states.shape) if index is None else states.index_put((index[0], index[1]), new)
        return states

    def _index(self, site: Site, number: int, states: Tensor) -> Tensor | None:
        """Rows and columns of a wave, [2, n]. None: all rows and columns in order, as in most steps. Sites share it."""
        wave = self.waves[site][number]
        key = tuple(id(placed) for _, placed in wave), states.device
        if key not in self.indices:
            rows = [row for _, placed in wave for row in placed.rows]
            columns = [column for _, placed in wave for column in placed.columns]
            width = states.shape[1]
            places = [row * width + column for row, column in zip(rows, columns, strict=True)]
            is_whole = len(rows) == len(states) * width and places == list(range(len(rows)))
            self.indices[key] = None if is_whole else torch.tensor([rows, columns]).to(states.device, non_blocking=True)
        return self.indices[key]


def _gathered(states: Tensor, index: Tensor | None) -> Tensor:
    """The states [n, d] at an index of [R, W, d]."""
    return states.flatten(0, 1) if index is None else states[index[0], index[1]]
