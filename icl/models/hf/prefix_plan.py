"""Grouping of prompts by common prefix, and the length of prefix that is worth prefilling once.

Prompts are compared by rendered ids and image identity, so tokenization does not matter. Two cases are common: all
queries have the same demonstrations, or the branches of one query differ at the query only. Sorting puts prompts with a
long common prefix next to each other. Dynamic programming then splits the sorted list into the groups that save the
most tokens.

A prefix is computed once for each group. If at least sixteen rows use it, layers of full attention also store it once
(`icl.models.hf.shared_prefix`). Fewer rows hold copies, which are faster, as do sliding and recurrent layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from icl.models.hf.language_model import EncodedPrompt

MIN_SAVED_TOKENS = 48
"""Tokens that a common prefix must save: about the cost of one more forward pass of a small model."""

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
    """Groups of prompts. Every prompt is in exactly one, and prompts that share nothing are alone."""
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
