"""Prefill: distinct prompts once, shared beginnings once, like lengths together, within a budget of padded tokens.

A prompt begins on nothing, on a beginning that is prefilled for it and others alike, or, where it is opened beside a
session, on what a row there has read: a contrast that is read late does not read its demonstrations again. A row whose
layers forget (windows that are full, recurrent states) cannot lend a piece of what it has read.
"""

from bisect import bisect_left
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from icl.models.hf.batch_halving import halving
from icl.models.hf.language_model import EncodedPrompt, LanguageModel
from icl.models.hf.prefix_plan import LEAST, agreement, groups, whole_images
from icl.models.hf.session import HFSession, joined

KEPT = 2
"""Beginnings that stay prefilled from one call to the next (fixed demonstrations over a whole run)."""

Part = tuple[HFSession, list[int]]
"""Prefilled rows, and the places of their prompts in the list that was to be opened."""


@dataclass(frozen=True)
class CachedPrefix:
    """A beginning that stays prefilled: the key of its tokens, and one row."""

    key: tuple[int, ...]
    rows: HFSession


@dataclass(frozen=True)
class PrefillItem:
    """A prompt to prefill, on top of its first `shared` tokens: those that all units of the same `group` begin with, or
    those of a `row` of the session beside.
    """

    prompt: EncodedPrompt
    place: int
    shared: int = 0
    group: int = -1
    row: int = -1

    @property
    def rest(self) -> int:
        return len(self.prompt) - self.shared

    @property
    def head(self) -> tuple[int, ...]:
        return self.prompt.key[: self.shared]

    @property
    def kind(self) -> tuple[bool, bool]:
        """Units of one kind may share a forward."""
        return self.shared > 0, self.row >= 0


class Prefiller:
    """Opens sessions. budget: padded tokens a forward. sharing: of beginnings, where that saves `least` tokens."""

    def __init__(self, runner: LanguageModel, budget: int, sharing: bool = True, least: int = LEAST) -> None:
        self.runner, self.budget, self.sharing, self.least = runner, budget, sharing, least
        self.heads: list[CachedPrefix] = []

    def open(
        self, prompts: Sequence[EncodedPrompt], early_exits: bool = False, prefix_source: HFSession | None = None
    ) -> HFSession:
        """Row i is prompt i. exits: with early layers. beside: rows that lend their beginnings, of the same model.

        Raises ModelError where one prompt does not fit into memory.
        """
        keys: list[Hashable] = [i if prompt.plain else prompt.key for i, prompt in enumerate(prompts)]
        distinct = dict(zip(keys, prompts, strict=True))
        counters = self.runner.counters
        counters.prompt_tokens += sum(map(len, distinct.values()))
        counters.images_shown += sum(len(prompt.images) for prompt in distinct.values())
        units = self._units(list(distinct.values()), prefix_source)
        counters.lent_tokens += sum(unit.shared for unit in units if unit.row >= 0)
        run = partial(self._prefill, early_exits=early_exits, prefix_source=prefix_source)
        batches = self._batches(units)
        parts = [part for batch in batches for part in halving(run, batch, "prompts", self.heads.clear)]
        if len(distinct) == len(keys):
            return _ordered(parts)
        place_of = {key: place for place, key in enumerate(distinct)}
        return _ordered(parts).take(torch.tensor([place_of[key] for key in keys]))

    def _units(self, prompts: Sequence[EncodedPrompt], prefix_source: HFSession | None) -> list[PrefillItem]:
        if not self.sharing or any(prompt.plain for prompt in prompts):
            return [PrefillItem(prompt, place) for place, prompt in enumerate(prompts)]
        units = [] if prefix_source is None else self._lent(prompts, prefix_source)
        done = {unit.place for unit in units}
        places = [place for place in range(len(prompts)) if place not in done]
        for number, group in enumerate(groups([prompts[place] for place in places], self.least)):
            own = [places[member] for member in group.members]
            members = [prompts[place] for place in own]
            known = [self._known(prompt) for prompt in members]
            if sum(known) and sum(known) >= (len(members) - 1) * group.shared:
                units += [PrefillItem(p, place, size) for p, place, size in zip(members, own, known, strict=True)]
            else:
                units += [PrefillItem(p, place, group.shared, number) for p, place in zip(members, own, strict=True)]
        return units

    def _lent(self, prompts: Sequence[EncodedPrompt], prefix_source: HFSession) -> list[PrefillItem]:
        """Those that begin on a row of the session beside: on the one with which they agree the longest."""
        if not prefix_source.shares_prefix:
            return []
        rows = sorted((key, row) for row, key in enumerate(prefix_source.keys))
        units = []
        for place, prompt in enumerate(prompts):
            here = bisect_left(rows, (prompt.key, 0))
            near = [(agreement(prompt.key, key), row) for key, row in rows[max(0, here - 1) : here + 1]]
            common, row = max(near)
            shared = whole_images(prompt, min(common, len(prompt) - 1))
            if shared >= self.least:
                units.append(PrefillItem(prompt, place, shared, row=row))
        return units

    def _known(self, prompt: EncodedPrompt) -> int:
        """Tokens of the longest kept beginning that is wholly this prompt's."""
        sizes = [len(head.key) for head in self.heads if prompt.key[: len(head.key)] == head.key]
        return max((size for size in sizes if size < len(prompt)), default=0)

    def _batches(self, units: Sequence[PrefillItem]) -> list[list[PrefillItem]]:
        """Units of like width together: a short prompt does not pay for a long one's padding."""
        batches: list[list[PrefillItem]] = []
        for unit in sorted(units, key=lambda u: (u.kind, u.shared, u.group, u.rest)):
            if batches and self._fits([*batches[-1], unit]):
                batches[-1].append(unit)
            else:
                batches.append([unit])
        return batches

    def _fits(self, batch: Sequence[PrefillItem]) -> bool:
        first, last = batch[0], batch[-1]
        if last.prompt.plain or first.kind != last.kind:
            return False
        rests = [unit.rest for unit in batch]
        heads = 0 if first.row >= 0 else len({(unit.shared, unit.group) for unit in batch}) * last.shared
        like = max(rests) <= 1.5 * min(rests) + 16 and last.shared <= 1.5 * first.shared + 16
        return like and len(batch) * max(rests) + heads <= self.budget

    def _prefill(
        self, batch: Sequence[PrefillItem], early_exits: bool = False, prefix_source: HFSession | None = None
    ) -> list[Part]:
        batch = sorted(batch, key=lambda unit: unit.place)  # mostly the order that is wanted
        places = [unit.place for unit in batch]
        if not batch[0].shared:
            return [(self.runner.prefill([unit.prompt for unit in batch], early_exits), places)]
        lender, owner = (prefix_source, [unit.row for unit in batch]) if batch[0].row >= 0 else self._bank(batch)
        assert lender is not None
        before = torch.stack([unit.prompt.positions[..., unit.shared - 1 : unit.shared] for unit in batch], -2)
        rows = lender.begun(owner, before, [unit.head for unit in batch])
        rows.deep = early_exits
        rests = [cut(unit.prompt, unit.shared, len(unit.prompt)) for unit in batch]
        width = max(map(len, rests))
        rows.copy_if_few(width)
        lengths = torch.tensor([len(rest) for rest in rests], device=self.runner.device)
        kinds = [rest.kinds for rest in rests if rest.kinds is not None]
        rows.append(
            right([rest.ids for rest in rests], width),
            lengths,
            right([rest.positions for rest in rests], width),
            right(kinds, width) if kinds else None,
            [rest.images for rest in rests],
        )
        rows.keys = tuple(unit.prompt.key for unit in batch)
        self.runner.count(int(lengths.sum()), width * len(rests))
        return [(rows, places)]

    def _bank(self, batch: Sequence[PrefillItem]) -> tuple[HFSession, list[int]]:
        """The distinct beginnings of a batch, prefilled at one row each, and which of them each unit stands on."""
        numbers: dict[tuple[int, ...], int] = {}
        owner = [numbers.setdefault(unit.head, len(numbers)) for unit in batch]
        kept = {head.key: head.rows for head in self.heads}
        if all(key in kept for key in numbers):
            own = [kept[key] for key in numbers]
            return own[0] if len(own) == 1 else joined(own), owner
        firsts = [next(u for u, o in zip(batch, owner, strict=True) if o == i) for i in range(len(numbers))]
        bank = self.runner.prefill([cut(unit.prompt, 0, unit.shared) for unit in firsts])
        most = max(range(len(firsts)), key=owner.count)
        if owner.count(most) > 2:
            row = bank
            if len(bank) > 1:
                row = bank.take(torch.tensor([most], device=self.runner.device))
                row.trim()
            self.heads = [CachedPrefix(firsts[most].head, row), *self.heads][:KEPT]
        return bank, owner


def _ordered(parts: Sequence[Part]) -> HFSession:
    """All rows as one session, each at its place."""
    order = [place for _, places in parts for place in places]
    if len(parts) == 1 and order == list(range(len(order))):
        return parts[0][0].copy_if_few()
    return joined([rows for rows, _ in parts], order)


def cut(prompt: EncodedPrompt, begin: int, end: int) -> EncodedPrompt:
    """The tokens from `begin` to `end`, with the images among them. No image lies across a border."""
    shown = [i for i, start in enumerate(prompt.starts) if begin <= start < end]
    return EncodedPrompt(
        prompt.ids[begin:end],
        prompt.positions[..., begin:end],
        None if prompt.kinds is None else prompt.kinds[begin:end],
        tuple(prompt.images[i] for i in shown),
        prompt.key[begin:end],
        tuple(prompt.starts[i] - begin for i in shown),
        tuple(prompt.ends[i] - begin for i in shown),
    )


def right(parts: Sequence[Tensor], width: int) -> Tensor:
    """[..., T] each -> [..., R, W], zeros on the right."""
    return torch.stack([torch.nn.functional.pad(part, (0, width - part.shape[-1])) for part in parts], -2)
