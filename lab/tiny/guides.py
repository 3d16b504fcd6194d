"""Guided attention heads: small losses in the first half of training on where single heads should attend.

Without them a decoder of this size stays at chance on fast binding for as long as was tried; with them the plateau is
gone after a minute, and they can be dropped afterwards. The trained model is a plain llama.

    layer 0, heads 0, 2, 3   answers, the slots before them and key words of a question look at their own image
    layer 0, head 1          answers and slots look at the key words of their question
    layer 1, head h          answers and slots of made-up names look at earlier answers whose image has the same
                             attribute h
    layers 2, 3, head 0      slots look at the key words of their question
    layer 2, head 1          answers and slots of made-up names look at earlier answers with the same name: which
                             attribute the names go by has been settled there

One head carries 32 numbers, too few for all that an image shows: hence three of them.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lab.tiny.decoder import HeadStates
from lab.tiny.index import PoolIndex
from lab.tiny.layout import HUES, SINGULAR, Batch, Marks
from lab.tiny.vocabulary import ID

AttentionTargets = list[tuple[int, int, Sequence[int]]]  # row, position, the positions that it should attend to

OWN = (0, 2, 3)
# The attributes that each head of layer 1 matches; a pair is both color and shape.
MATCHED: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("color", "shape"),),
    (("color",),),
    (("shape",),),
    (("texture",),),
    (("size",), ("count",)),
)


def attention_guide(states: tuple[Tensor, Tensor], head: int, attention_targets: AttentionTargets) -> Tensor:
    """The mean of -log of the attention mass on the target positions. states: q, k [B, heads, T, d]."""
    if not attention_targets:
        return states[0].new_zeros((), dtype=torch.float32)
    q, k = states[0][:, head], states[1][:, head]
    b, t, d = k.shape
    by: list[list[tuple[int, Sequence[int]]]] = [[] for _ in range(b)]
    for row, position, targets in attention_targets:
        by[row].append((position, targets))
    rows = np.zeros((b, max(map(len, by))), np.int64)
    mask = np.zeros((*rows.shape, t), bool)
    for i, row_targets in enumerate(by):
        for j, (position, targets) in enumerate(row_targets):
            rows[i, j] = position
            mask[i, j, targets] = True
    at, target = torch.from_numpy(rows), torch.from_numpy(mask)
    score = (q.gather(1, at[..., None].expand(-1, -1, d)) @ k.transpose(-1, -2)).float() / math.sqrt(d)
    score = score.masked_fill(torch.arange(t) > at[..., None], -torch.inf)
    mass = torch.logsumexp(score.masked_fill(~target, -torch.inf), -1) - torch.logsumexp(score, -1)
    return -mass[target.any(-1)].mean()


def guide_loss(states: HeadStates, batch: Batch, index: PoolIndex) -> Tensor:
    """Sum of the guides of one batch, float32 scalar."""
    own: AttentionTargets = []
    keyed: AttentionTargets = []
    slots: AttentionTargets = []
    named: AttentionTargets = []
    matches: list[AttentionTargets] = [[] for _ in MATCHED]
    for b, row in enumerate(batch.rows):
        for mark in row.marks:
            positions = [mark.slot, *mark.answer]
            if mark.image >= 0:
                own += [(b, p, (mark.image,)) for p in (*positions, *(k for k in mark.keys if k > mark.image))]
            if mark.keys:
                keyed += [(b, p, mark.keys) for p in positions[:2]]
                slots.append((b, mark.slot, mark.keys))
        if len(row.marks) > 1 and row.marks[0].turn.bound and row.marks[0].image >= 0:
            _add_matches(matches, b, row.marks, index)
            _add_names(named, b, row.marks)
    total = sum((attention_guide(states[0], head, own) for head in OWN), attention_guide(states[0], 1, keyed))
    total = total + 0.5 * (attention_guide(states[2], 0, slots) + attention_guide(states[3], 0, slots))
    total = total + 0.7 * attention_guide(states[2], 1, named)
    for head, attention_targets in enumerate(matches):
        total = total + 0.7 * attention_guide(states[1], head, attention_targets)
    return total


def _add_matches(matches: list[AttentionTargets], b: int, marks: Sequence[Marks], index: PoolIndex) -> None:
    images = [mark.turn.image for mark in marks]
    answers = np.array([mark.answer[0] for mark in marks])
    for attention_targets, kinds in zip(matches, MATCHED, strict=True):
        for names in kinds:
            facts = np.stack([index.column(name)[images] for name in names], 1)
            if (facts < 0).any():
                continue
            same = (facts[:, None] == facts[None]).all(-1)
            for j in range(1, len(marks)):
                earlier = answers[:j][same[j, :j]]
                if len(earlier):
                    attention_targets += [(b, marks[j].slot, earlier), (b, int(answers[j]), earlier)]
            break


def _add_names(named: AttentionTargets, b: int, marks: Sequence[Marks]) -> None:
    for j, mark in enumerate(marks):
        earlier = [m.answer[0] for m in marks[:j] if m.turn.answer == mark.turn.answer]
        if earlier:
            named += [(b, mark.slot, earlier), (b, mark.answer[0], earlier)]


def number_lessons(batch: Batch, index: PoolIndex) -> NDArray[np.int64]:
    """A key word after its image predicts how many of its kind the image shows: a cheap lesson in grounding.

    A shape word after a color word counts the pair. Returns grades [G, 3] (row, position, target).
    """
    grades = []
    for b, row in enumerate(batch.rows):
        for mark in row.marks:
            if mark.image < 0 or mark.turn.bound:
                continue
            for p in mark.keys:
                token, before = row.tokens[p], row.tokens[p - 1]
                name = HUES.get(token) or SINGULAR.get(token)
                if p < mark.image or name is None:
                    continue
                if token in SINGULAR and before in HUES:
                    name = f"{HUES[before]}_{name}"
                if (n := index.fact(mark.turn.image, f"n_{name}")) >= 0:
                    grades.append((b, p, ID[str(n)]))
    return np.array(grades, np.int64).reshape(-1, 3)
