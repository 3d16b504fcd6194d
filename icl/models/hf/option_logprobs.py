"""Log-probabilities of whole options, from one forward over prefilled rows.

A row's own logits score the first token, and an option's last token is only ever a target: an option of n tokens costs
n - 1, letters cost nothing, and options that begin alike share what they begin with. Each row is repeated once a
distinct beginning; the repeated cache is thrown away, so padding behind a chunk stays where it is, hidden by causality.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from icl.models.hf.batch_halving import halving

if TYPE_CHECKING:
    from icl.models.hf.session import HFSession

SCORES = 2**26
"""Numbers in the scores of one forward: vocabularies are wide."""

Chunk = tuple[int, tuple[int, ...]]
"""A row, and the tokens that are to be read behind it."""


def logprobs(
    rows: "HFSession", suffixes: Sequence[Sequence[Sequence[int]]], early_exits: bool = False
) -> list[list[Tensor]]:
    """As `Session.suffix_logprobs`: per row, per suffix [len(suffix), V] float32.

    exits: [len(suffix), 1 + early layers, V], of rows that were opened with them.
    """
    first = (rows.said if early_exits else rows.logits).log_softmax(-1)
    wanted = dict.fromkeys(
        (row, tuple(suffix[:-1])) for row, own in enumerate(suffixes) for suffix in own if len(suffix) > 1
    )
    rest: dict[Chunk, Tensor] = {}
    for batch in _batches(rows, list(wanted), first.numel() // len(first)):
        rest.update(halving(lambda part: _scored(rows, part, early_exits), batch, "options"))
    return [
        [
            torch.cat([first[row : row + 1], rest[row, tuple(suffix[:-1])]])
            if len(suffix) > 1
            else first[row : row + 1]
            for suffix in own
        ]
        for row, own in enumerate(suffixes)
    ]


def _batches(rows: "HFSession", chunks: list[Chunk], width: int) -> list[list[Chunk]]:
    """So many repeated rows that caches stay within four prefills' budget, and scores within SCORES numbers.

    width: numbers in the scores of a token.
    """
    batches: list[list[Chunk]] = []
    for chunk in sorted(chunks, key=lambda chunk: len(chunk[1])):
        count = len(batches[-1]) + 1 if batches else 0
        scores = count * len(chunk[1]) * width
        if batches and count * rows.width <= 4 * rows.runner.budget and scores <= SCORES:
            batches[-1].append(chunk)
        else:
            batches.append([chunk])
    return batches


def _scored(rows: "HFSession", chunks: Sequence[Chunk], early_exits: bool) -> list[tuple[Chunk, Tensor]]:
    from icl.models.hf.session import right_padded

    each = rows.take(torch.tensor([row for row, _ in chunks], device=rows.mask.device))
    tokens, lengths = right_padded([chunk for _, chunk in chunks], rows.mask.device)
    steps = torch.arange(tokens.shape[1], device=tokens.device)
    mask = torch.cat([each.mask, (steps < lengths[:, None]).to(each.mask.dtype)], 1)
    logits = rows.runner.forward(tokens, mask, each.position + 1 + steps, each.cache, keep=0, early_exits=early_exits)
    rows.runner.counters.suffix_tokens += int(lengths.sum())
    scores = logits.float().log_softmax(-1)
    return [(chunk, scores[i, : len(chunk[1])]) for i, chunk in enumerate(chunks)]
