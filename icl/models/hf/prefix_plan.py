"""Which prompts share a beginning, and how much of it is worth prefilling once.

Found on rendered ids and image identity, so nothing depends on how a tokenizer cuts text. Two cases are common: all
queries have the same demonstrations, or the branches of one query differ at the query alone. Prompts are sorted, so
that those with a long common beginning are neighbors, and the sorted row is cut into groups that save the most tokens.

It is computed once. Where sixteen rows or more stand on it, layers of full attention keep it once too
(`icl.models.hf.shared_prefix`); fewer rows hold copies, which are faster, and so do sliding and recurrent layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from icl.models.hf.language_model import EncodedPrompt

LEAST = 48
"""Tokens that a shared beginning must save: about what one more forward costs on a small model."""

REACH = 64
"""Neighbors looked at for one group."""


@dataclass(frozen=True)
class PrefixGroup:
    """Prompts (their places in the list given) whose first `shared` tokens are one computation; 0: each for itself."""

    members: tuple[int, ...]
    shared: int = 0


def groups(prompts: Sequence[EncodedPrompt], least: int = LEAST) -> list[PrefixGroup]:
    """Every prompt in exactly one group, those that share nothing each in a group of its own."""
    order = sorted(range(len(prompts)), key=lambda i: prompts[i].key)
    rows = [prompts[i] for i in order]
    common = [agreement(a.key, b.key) for a, b in pairwise(rows)]
    saved, begin = [0] * (len(rows) + 1), [0] * (len(rows) + 1)
    for end in range(1, len(rows) + 1):  # saved[end]: the most that the first `end` rows can save
        saved[end], begin[end] = saved[end - 1], end - 1
        length = len(rows[end - 1]) - 1
        for start in range(end - 2, max(-1, end - 1 - REACH), -1):
            length = min(length, common[start], len(rows[start]) - 1)
            if length == 0:
                break
            gain = (end - start - 1) * length - least
            if gain > 0 and saved[start] + gain > saved[end]:
                saved[end], begin[end] = saved[start] + gain, start
    found, end = [], len(rows)
    while end:
        start = begin[end]
        members = order[start:end]
        shared = whole_images(rows[start], min([len(r) - 1 for r in rows[start:end]] + common[start : end - 1]))
        if len(members) > 1 and shared:
            found.append(PrefixGroup(tuple(sorted(members)), shared))
        else:
            found += [PrefixGroup((member,)) for member in members]
        end = start
    return found[::-1]


def agreement(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading entries are equal; by halves, since slices compare fast."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def whole_images(prompt: EncodedPrompt, length: int) -> int:
    """The longest beginning of at most `length` tokens that cuts no image."""
    for start, end in zip(prompt.starts, prompt.ends, strict=True):
        if start < length < end:
            return start
    return length
