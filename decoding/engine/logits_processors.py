"""Logits processors of transformers (repetition penalty, no-repeat n-gram, ...) on combined scores.

The processors act after mask and combination and before the sampler, as in `generate`: on raw scores in greedy decoding
and sampling, on log-probabilities in beam search. They read the tokens of the reference prompt and of the answer.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from decoding.arms.logits_processor_config import LogitsProcessorConfig
from decoding.engine.decoding_step import zero_unusable_rows
from icl.memory.device_copies import copied_to_device

if TYPE_CHECKING:
    from torch import Tensor

    from decoding.engine.hypotheses import Hypothesis


def build_processors(configs: Sequence[LogitsProcessorConfig]) -> Any:
    """`transformers.LogitsProcessorList` of the configs, or None if there are none."""
    if not configs:
        return None
    from transformers import LogitsProcessorList

    return LogitsProcessorList([config.build() for config in configs])


def apply_processors(processors: Any, scores: "Tensor", hypotheses: Sequence["Hypothesis"]) -> "tuple[Tensor, Tensor]":
    """Processed scores of a step.

    Each row is processed alone, because prompts differ in length and padding would count as tokens.

    Args:
        processors: A `LogitsProcessorList`.
        scores: Combined scores, [B, V].
        hypotheses: Hypothesis of each row.

    Returns:
        Scores [B, V], zeros in rows without a usable one, and the best scores [B, 1] for `unusable_message`.
    """
    ids = [(*hypothesis.prompt_ids, *hypothesis.tokens) for hypothesis in hypotheses]
    flat = copied_to_device([token for row in ids for token in row], torch.long, scores.device)
    token_ids = torch.split(flat, [len(row) for row in ids])
    rows = [processors(own[None], row[None].clone())[0] for own, row in zip(token_ids, scores, strict=True)]
    return zero_unusable_rows(torch.stack(rows))
