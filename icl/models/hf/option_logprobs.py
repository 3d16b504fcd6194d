"""Log-probabilities of whole options, from one forward pass over prefilled rows.

A row's own logits score the first token, and an option's last token is only a target. So an option of n tokens costs n
- 1 tokens, single-token options cost nothing, and options with a common beginning share it. Each row is repeated once
for each distinct beginning. The repeated cache is discarded, so padding behind a chunk can stay: the causal mask hides
it. Batches are limited by the tokens of the repeated cache and by the number of logits, because vocabularies are large
(`icl.models.hf.memory`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from icl.memory.device_copies import copied_to_device
from icl.models.hf.batch_halving import run_within_limit
from icl.models.hf.padding_mask import pad_chunks
from icl.models.hf.row_edits import ForwardEdits

if TYPE_CHECKING:
    from icl.models.hf.session import HFSession

Chunk = tuple[int, tuple[int, ...]]
"""A row, and the tokens to append to it."""


def logprobs(
    rows: "HFSession", suffixes: Sequence[Sequence[Sequence[int]]], early_exits: bool = False
) -> list[list[Tensor]]:
    """Log-probabilities as in `Session.suffix_logprobs`: for each row and suffix [len(suffix), V] float32.

    With `early_exits`, [len(suffix), 1 + early layers, V]; the session must have been opened with them.
    """
    first = (rows.layer_logits if early_exits else rows.logits).log_softmax(-1)
    chunks = dict.fromkeys(
        (row, tuple(suffix[:-1])) for row, own in enumerate(suffixes) for suffix in own if len(suffix) > 1
    )
    width, runner = first.numel() // len(first), rows.runner
    scored = run_within_limit(
        lambda batch: _scored(rows, batch, early_exits),
        sorted(chunks, key=lambda chunk: len(chunk[1])),
        runner.option_limit,
        "options",
        size=lambda batch: len(batch) * rows.width,
        may_join=lambda batch: len(batch) * len(batch[-1][1]) * width <= runner.max_scores,
    )
    rest: dict[Chunk, Tensor] = dict(scored)
    return [
        [
            torch.cat([first[row : row + 1], rest[row, tuple(suffix[:-1])]])
            if len(suffix) > 1
            else first[row : row + 1]
            for suffix in own
        ]
        for row, own in enumerate(suffixes)
    ]


def _scored(rows: "HFSession", chunks: Sequence[Chunk], early_exits: bool) -> list[tuple[Chunk, Tensor]]:
    each = rows.take(torch.tensor([row for row, _ in chunks]))
    tokens, lengths = pad_chunks([chunk for _, chunk in chunks], rows.position.device)
    steps = torch.arange(tokens.shape[1], device=tokens.device)
    ends = copied_to_device([[length] for length in lengths], torch.long, tokens.device)
    mask = torch.cat([each.mask, (steps < ends).long()], 1)
    edits = ForwardEdits.place(each.edits, each.lengths, lengths)
    logits = rows.runner.forward(
        tokens, mask, each.position + 1 + steps, each.cache, keep=0, early_exits=early_exits, edits=edits
    )
    rows.runner.counters.suffix_tokens += sum(lengths)
    scores = logits.float().log_softmax(-1)
    return [(chunk, scores[i, : len(chunk[1])]) for i, chunk in enumerate(chunks)]
