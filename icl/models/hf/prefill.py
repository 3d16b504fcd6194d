"""Prefill within a budget of padded tokens: distinct prompts once, common prefixes once, similar lengths together.

    prompts        a b c d 1 2      a b c d 3      a b c d e f 4      x y
    groups         prefix a b c d for three prompts; x y alone

    1st forward    a b c d                    one row for each distinct prefix
    2nd forward    [prefix] 1 2               one row for each prompt, on a row of the first
                   [prefix] 3 .
                   [prefix] e f 4             another batch if its length differs much
    alone          x y

A prefix comes from one of three sources:

 1. It is prefilled for a group of prompts (`groups`).
 2. It is one of the last prefixes and still prefilled, such as fixed demonstrations.
 3. It belongs to a row of an open session (`prefix_source`). A contrast branch that is opened later reuses the KV cache
    of its demonstrations this way.

Rows cannot be a prefix source if their layers drop entries (full windows, recurrent states).

If prompts continue one another, one prefix per group misses most of what they share. They are then read in levels
(`prefix_levels`): the longest prompts first, the others on the rows of an earlier level.

    level 0        a b c d e f 8                                  three prompts of one query: 8, 4 and 2 demonstrations
    level 1        [a b c] 4      [a] 2                           each forwards only what no earlier row contains
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from icl.memory import BatchLimit
from icl.models.hf import EncodedPrompt, HFSession, LanguageModel, join_sessions, run_within_limit
from icl.models.hf.shared_prefix import MIN_ROWS

MIN_SAVED_TOKENS = 48
"""Tokens that a common prefix must save: about the cost of one more forward pass of a small model."""

MAX_CACHED_PREFIXES = 2
"""Prefixes that stay prefilled from one call to the next, such as the fixed demonstrations of a run."""

Part = tuple[HFSession, list[int]]
"""Prefilled rows, and the index of each row's prompt."""


@dataclass(frozen=True)
class CachedPrefix:
    """A prefix that stays prefilled: its key, and a session of one row."""

    key: tuple[int, ...]
    rows: HFSession


@dataclass(frozen=True)
class PrefillItem:
    """A prompt to prefill after its first `shared` tokens.

    Attributes:
        prompt: The prompt.
        place: Its index among the distinct prompts.
        shared: Length of the prefix in tokens. 0: no prefix.
        group: Number of the group with this prefix.
        row: Row of the prefix source that contains the prefix. -1: another source.
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
    def prefix_key(self) -> tuple[int, ...]:
        return self.prompt.key[: self.shared]

    @property
    def kind(self) -> tuple[bool, bool]:
        """Items of different kinds need separate forward passes."""
        return self.shared > 0, self.row >= 0


class Prefiller:
    """The prefill stage, which turns encoded prompts into a session.

    Attributes:
        runner: The language model.
        limit: The largest forward pass in padded tokens.
        sharing: Whether common prefixes are prefilled once.
        least: Tokens that a common prefix must save.
        free_features: Empties the cache of image features.
        cached_prefixes: Prefixes that stay prefilled, the latest first.
    """

    def __init__(
        self,
        runner: LanguageModel,
        budget: int,
        sharing: bool = True,
        least: int = MIN_SAVED_TOKENS,
        free_features: Callable[[], None] = lambda: None,
    ) -> None:
        self.free_features = free_features
        self.runner, self.limit, self.sharing, self.least = runner, BatchLimit(budget), sharing, least
        self.cached_prefixes: list[CachedPrefix] = []

    def open(
        self, prompts: Sequence[EncodedPrompt], early_exits: bool = False, prefix_source: HFSession | None = None
    ) -> HFSession:
        """A session with prompt i in row i.

        Args:
            prompts: The prompts.
            early_exits: Whether the session has logits of early layers.
            prefix_source: A session of the same model. Its rows may be reused.

        Raises:
            ModelError: A single prompt does not fit into memory.
        """
        keys: list[Hashable] = [i if prompt.plain else prompt.key for i, prompt in enumerate(prompts)]
        distinct = dict(zip(keys, prompts, strict=True))
        counters = self.runner.counters
        counters.prompt_tokens += sum(map(len, distinct.values()))
        counters.num_images += sum(len(prompt.images) for prompt in distinct.values())
        reads, order, rows = list(distinct.values()), list[int](), prefix_source
        for level in self._levels(reads, prefix_source):
            items = self._plan_items([reads[place] for place in level], rows, 1 if order else self.least)
            more = self._open_items(items, early_exits, rows)
            rows = join_sessions([rows, more], are_used_up=True) if rows is not None and order else more
            order += level
        assert rows is not None
        if order == list(range(len(keys))):
            return rows
        row_of = {place: row for row, place in enumerate(order)}
        place_of = {key: place for place, key in enumerate(distinct)}
        rows.retain(torch.tensor([row_of[place_of[key]] for key in keys]))
        return rows

    def free_buffers(self) -> None:
        """Drop the cached prefixes, then the cached image features."""
        self.cached_prefixes.clear()
        self.free_features()

    def _levels(self, prompts: Sequence[EncodedPrompt], prefix_source: HFSession | None) -> list[list[int]]:
        """The indices of the prompts of each level, a single level unless more save more tokens.

        A prefix that many rows share stays a group, because its keys and values are then stored once.
        """
        everything = list(range(len(prompts)))
        longest = max(map(len, prompts))
        if not self._may_share(prompts) or prefix_source is not None or longest > self.runner.shareable_length:
            return [everything]
        items = self._plan_items(prompts, None, self.least)
        members = Counter((item.shared, item.group) for item in items if item.shared)
        saved = sum(size * (count - (group >= 0)) for (size, group), count in members.items())
        stored_once = sum(size * count for (size, _), count in members.items() if count >= MIN_ROWS)
        levels, saved_by_levels = prefix_levels(prompts)
        if stored_once > saved_by_levels / 2 or saved_by_levels < 1.1 * saved + self.least * (max(levels) or 1):
            return [everything]
        return [[place for place in everything if levels[place] == level] for level in range(max(levels) + 1)]

    def _may_share(self, prompts: Sequence[EncodedPrompt]) -> bool:
        return self.sharing and not any(prompt.plain for prompt in prompts)

    def _open_items(
        self, items: Sequence[PrefillItem], early_exits: bool, prefix_source: HFSession | None
    ) -> HFSession:
        """A session with the prompts of one level, in their order."""
        self.runner.counters.shared_prefix_tokens += sum(item.shared for item in items if item.row >= 0)
        parts = run_within_limit(
            partial(self._prefill, early_exits=early_exits, prefix_source=prefix_source),
            sorted(items, key=lambda item: (item.kind, item.shared, item.group, item.rest)),
            self.limit,
            "prompts",
            size=padded_tokens,
            may_join=_are_similar,
            relieve=self.free_buffers,
        )
        return _ordered(parts)

    def _plan_items(
        self, prompts: Sequence[EncodedPrompt], prefix_source: HFSession | None, least: int
    ) -> list[PrefillItem]:
        """The items of one level. least: tokens that a prompt must share with a row of the session."""
        if not self._may_share(prompts):
            return [PrefillItem(prompt, place) for place, prompt in enumerate(prompts)]
        items = [] if prefix_source is None else self._items_on_session(prompts, prefix_source, least)
        done = {item.place for item in items}
        places = [place for place in range(len(prompts)) if place not in done]
        for number, group in enumerate(groups([prompts[place] for place in places], self.least)):
            own = [places[member] for member in group.members]
            members = [prompts[place] for place in own]
            cached = [self._cached_prefix_length(prompt) for prompt in members]
            if sum(cached) and sum(cached) >= (len(members) - 1) * group.shared:
                items += [PrefillItem(p, place, size) for p, place, size in zip(members, own, cached, strict=True)]
            else:
                items += [PrefillItem(p, place, group.shared, number) for p, place in zip(members, own, strict=True)]
        return items

    def _items_on_session(
        self, prompts: Sequence[EncodedPrompt], prefix_source: HFSession, least: int
    ) -> list[PrefillItem]:
        """Items for prompts that share enough tokens with a row of the session. The row with the longest common prefix
        is used.
        """
        if not prefix_source.shares_prefix:
            return []
        rows = sorted((key, row) for row, key in enumerate(prefix_source.keys))
        items = []
        for place, prompt in enumerate(prompts):
            index = bisect_left(rows, (prompt.key, 0))
            candidates = [
                (common_prefix_length(prompt.key, key), row) for key, row in rows[max(0, index - 1) : index + 1]
            ]
            common, row = max(candidates)
            shared = whole_images(prompt, min(common, len(prompt) - 1))
            if shared >= least:
                items.append(PrefillItem(prompt, place, shared, row=row))
        return items

    def _cached_prefix_length(self, prompt: EncodedPrompt) -> int:
        """Tokens of the longest cached prefix of the prompt. At least one token remains to read."""
        sizes = [len(prefix.key) for prefix in self.cached_prefixes if prompt.key[: len(prefix.key)] == prefix.key]
        return max((size for size in sizes if size < len(prompt)), default=0)

    def _prefill(
        self, batch: Sequence[PrefillItem], early_exits: bool = False, prefix_source: HFSession | None = None
    ) -> list[Part]:
        batch = sorted(batch, key=lambda item: item.place)  # usually the order of the prompts
        places = [item.place for item in batch]
        if not batch[0].shared:
            return [(self.runner.prefill([item.prompt for item in batch], early_exits), places)]
        source, owner = (prefix_source, [item.row for item in batch]) if batch[0].row >= 0 else self._prefix_rows(batch)
        assert source is not None
        before = torch.stack([item.prompt.positions[..., item.shared - 1 : item.shared] for item in batch], -2)
        rows = source.on_prefixes(owner, before, [item.prefix_key for item in batch])
        rows.early_exits = early_exits
        rows.edits = [item.prompt.edits for item in batch]
        rests = [cut(item.prompt, item.shared, len(item.prompt)) for item in batch]
        width = max(map(len, rests))
        rows.copy_if_few(width)
        lengths = [len(rest) for rest in rests]
        token_types = [rest.token_types for rest in rests if rest.token_types is not None]
        rows.append(
            stack_right_padded([rest.ids for rest in rests], width),
            lengths,
            stack_right_padded([rest.positions for rest in rests], width),
            stack_right_padded(token_types, width) if token_types else None,
            [rest.images for rest in rests],
        )
        rows.keys = tuple(item.prompt.key for item in batch)
        self.runner.count(sum(lengths), width * len(rests))
        return [(rows, places)]

    def _prefix_rows(self, batch: Sequence[PrefillItem]) -> tuple[HFSession, list[int]]:
        """A session with one row for each distinct prefix of a batch, and the row of each item."""
        numbers: dict[tuple[int, ...], int] = {}
        owner = [numbers.setdefault(item.prefix_key, len(numbers)) for item in batch]
        cached = {prefix.key: prefix.rows for prefix in self.cached_prefixes}
        if all(key in cached for key in numbers):
            own = [cached[key] for key in numbers]
            return own[0] if len(own) == 1 else join_sessions(own), owner
        firsts = [next(u for u, o in zip(batch, owner, strict=True) if o == i) for i in range(len(numbers))]
        bank = self.runner.prefill([cut(item.prompt, 0, item.shared) for item in firsts])
        largest = max(range(len(firsts)), key=owner.count)
        if owner.count(largest) > 2:
            row = bank
            if len(bank) > 1:
                row = bank.take(torch.tensor([largest]))
                row.trim()
            prefixes = [CachedPrefix(firsts[largest].prefix_key, row), *self.cached_prefixes]
            self.cached_prefixes = prefixes[:MAX_CACHED_PREFIXES]
        return bank, owner


def padded_tokens(batch: Sequence[PrefillItem]) -> int:
    """Tokens of a forward pass over the items, and tokens of their prefixes."""
    is_on_session = batch[0].row >= 0
    prefixes = 0 if is_on_session else len({(item.shared, item.group) for item in batch}) * batch[-1].shared
    return len(batch) * max(item.rest for item in batch) + prefixes


def _are_similar(batch: Sequence[PrefillItem]) -> bool:
    """Whether items sorted by prefix are of similar width, so that short prompts are not padded to long ones."""
    first, last = batch[0], batch[-1]
    if any(item.prompt.plain for item in batch[1:]) or first.kind != last.kind:
        return False
    rests = [item.rest for item in batch]
    return max(rests) <= 1.5 * min(rests) + 16 and last.shared <= 1.5 * first.shared + 16


def _ordered(parts: Sequence[Part]) -> HFSession:
    """One session of all rows, in the order of the prompts. Uses the parts up."""
    order = [place for _, places in parts for place in places]
    if len(parts) == 1 and order == list(range(len(order))):
        return parts[0][0].copy_if_few()
    return join_sessions([rows for rows, _ in parts], order, are_used_up=True)


def cut(prompt: EncodedPrompt, begin: int, end: int) -> EncodedPrompt:
    """The tokens from `begin` to `end` with their images. No image may cross a border."""
    inside = [i for i, start in enumerate(prompt.starts) if begin <= start < end]
    return EncodedPrompt(
        prompt.ids[begin:end],
        prompt.positions[..., begin:end],
        None if prompt.token_types is None else prompt.token_types[begin:end],
        tuple(prompt.images[i] for i in inside),
        prompt.key[begin:end],
        tuple(prompt.starts[i] - begin for i in inside),
        tuple(prompt.ends[i] - begin for i in inside),
        edits=prompt.edits,
    )


def stack_right_padded(parts: Sequence[Tensor], width: int) -> Tensor:
    """Stack tensors [..., T] to [..., R, W], with zeros on the right."""
    return torch.stack([torch.nn.functional.pad(part, (0, width - part.shape[-1])) for part in parts], -2)


MAX_NEIGHBORS = 64
"""Maximum size of a group."""


@dataclass(frozen=True)
class PrefixGroup:
    """Prompts that share their first `shared` tokens. members: their indices. A group without shared tokens has one
    member.
    """

    members: tuple[int, ...]
    shared: int = 0


def groups(prompts: Sequence[EncodedPrompt], least: int = MIN_SAVED_TOKENS) -> list[PrefixGroup]:
    """Groups of prompts with a common prefix that is worth prefilling once. Prompts that share nothing are alone.

    Prompts are compared by rendered ids and image identity, so tokenization does not matter. Sorting puts prompts with
    a long common prefix next to each other. Dynamic programming then splits the sorted list into the groups that save
    the most tokens.

    If at least sixteen rows use a prefix, layers of full attention also store it once (`icl.models.hf.shared_prefix`).
    Fewer rows hold copies, which are faster, as do sliding and recurrent layers.
    """
    order = sorted(range(len(prompts)), key=lambda i: prompts[i].key)
    rows = [prompts[i] for i in order]
    common = [common_prefix_length(a.key, b.key) for a, b in pairwise(rows)]
    saved, begin = [0] * (len(rows) + 1), [0] * (len(rows) + 1)
    for end in range(1, len(rows) + 1):  # saved[end]: maximum that the first `end` rows can save
        saved[end], begin[end] = saved[end - 1], end - 1
        length = len(rows[end - 1]) - 1
        for start in range(end - 2, max(-1, end - 1 - MAX_NEIGHBORS), -1):
            length = min(length, common[start], len(rows[start]) - 1)
            if length == 0:
                break
            gain = (end - start - 1) * length - least
            if gain > 0 and saved[start] + gain > saved[end]:
                saved[end], begin[end] = saved[start] + gain, start
    plan, end = [], len(rows)
    while end:
        start = begin[end]
        members = order[start:end]
        shared = whole_images(rows[start], min([len(r) - 1 for r in rows[start:end]] + common[start : end - 1]))
        if len(members) > 1 and shared:
            plan.append(PrefixGroup(tuple(sorted(members)), shared))
        else:
            plan += [PrefixGroup((member,)) for member in members]
        end = start
    return plan[::-1]


MAX_LEVELS = 3
"""Levels of prompts. Each is read after the ones before it, in forward passes of its own."""

MIN_SAVED_SHARE = 8
"""A prompt is read on a row of an earlier level if that saves an eighth of it or more."""


def prefix_levels(prompts: Sequence[EncodedPrompt]) -> tuple[list[int], int]:
    """The level of each prompt, and the prompt tokens that rows of earlier levels save.

    Prompts are placed one after the other, the longest first. A prompt goes one level below the placed prompt with
    which it shares the most tokens, and to level 0 if it shares little with all of them. Placing a string costs the
    tokens that no earlier string begins with, so in sum the tokens of the prefix tree are forwarded, except for short
    common beginnings.
    """
    order = sorted(range(len(prompts)), key=lambda i: prompts[i].key)
    rows = [prompts[i] for i in order]
    levels = [0] * len(rows)  # of sorted rows
    placed: list[list[int]] = [[] for _ in range(MAX_LEVELS)]  # sorted rows of each level
    saved = 0
    for place in sorted(range(len(rows)), key=lambda i: (-len(rows[i]), order[i])):
        row = rows[place]
        worth = max(len(row) // MIN_SAVED_SHARE, 1)
        longest = []  # common prefix with a row of each level that may have one below it
        for others in placed[:-1]:
            index = bisect_left(others, place)
            nearest = others[max(0, index - 1) : index + 1]
            length = max((common_prefix_length(row.key, rows[other].key) for other in nearest), default=0)
            longest.append(min(length, len(row) - 1) if length >= worth else 0)
        level = next(i for i, length in enumerate(longest) if length >= max(longest) - worth)
        shared = whole_images(row, longest[level])
        levels[place] = level + 1 if shared else 0
        insort(placed[levels[place]], place)
        saved += shared
    return [levels[place] for place in sorted(range(len(rows)), key=order.__getitem__)], saved


def common_prefix_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Number of equal leading entries. Binary search, because comparing slices is fast."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def whole_images(prompt: EncodedPrompt, length: int) -> int:
    """Length of the longest prefix of at most `length` tokens that cuts no image."""
    for start, end in zip(prompt.starts, prompt.ends, strict=True):
        if start < length < end:
            return start
    return length
