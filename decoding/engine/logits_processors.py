"""Logits processors of transformers (repetition penalty, no-repeat n-gram, ...) on combined scores.

The processors act after mask and combination and before the sampler, as in `generate`: on raw scores in greedy decoding
and sampling, on log-probabilities in beam search. They read the tokens of the reference prompt and of the answer.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from decoding.arms.logits_processor_config import LogitsProcessorConfig
from decoding.engine.decoding_step import zero_unusable_rows

if TYPE_CHECKING:
    from torch import Tensor

    from decoding.engine.token_loop import Hypothesis


def build_processors(configs: Sequence[LogitsProcessorConfig]) -> Any:
    """`transformers.LogitsProcessorList` of the configs, or None if there are none."""
    if not configs:
        return None
    from transformers import LogitsProcessorList

    return LogitsProcessorList([config.build() for config in configs])


def apply_processors(
    processors: Any, scores: "Tensor", step: int, hypotheses: Sequence["Hypothesis"]
) -> "tuple[Tensor, dict[int, str]]":
    """Processed scores of a step.

    Each row is processed alone, because prompts differ in length and padding would count as tokens.

    Args:
        processors: A `LogitsProcessorList`.
        scores: Combined scores, [B, V].
        step: Number of the token, for messages.
        hypotheses: Hypothesis of each row.

    Returns:
        Scores [B, V], and row -> fault for rows in which no usable score is left.
    """
    rows = []
    for hypothesis, row in zip(hypotheses, scores, strict=True):
        token_ids = torch.tensor([[*hypothesis.prompt_ids, *hypothesis.tokens]], device=scores.device)
        rows.append(processors(token_ids, row[None].clone())[0])
    return zero_unusable_rows(torch.stack(rows), {}, f"step {step}: the scores after the logits processors")
