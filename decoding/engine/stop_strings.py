"""Stop strings: texts that end an answer, found by `transformers.StopStringCriteria`.

An answer ends with the token that completes a stop string. Its tokens include that token, as in `generate`; its text
ends before the stop string. Only the answer is searched, not the prompt, and not a reasoning block under
a thinking budget.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from icl.text.reasoning_blocks import split_reasoning
from icl.types import Generation

if TYPE_CHECKING:
    from decoding.engine.hypotheses import Hypothesis
    from icl.models.base import LogitModel

StopCriterion = Callable[[torch.Tensor, Any], torch.Tensor]
"""Token ids [B, L] and None -> [B] bool: whether each row ends with a stop string."""


def build_stop_criterion(model: "LogitModel", stop_strings: Sequence[str]) -> StopCriterion | None:
    """The criterion for these stop strings, or None if there are none. Raises ModelError without a tokenizer."""
    if not stop_strings:
        return None
    from transformers import StopStringCriteria

    criterion: StopCriterion = StopStringCriteria(model.tokenizer, list(stop_strings))
    return criterion


def ends_with_stop_string(criterion: StopCriterion, hypotheses: Sequence["Hypothesis"]) -> list[bool]:
    """Whether the tokens of each hypothesis end with a stop string. All must have as many tokens."""
    if not hypotheses:
        return []
    flags: list[bool] = criterion(torch.tensor([h.tokens for h in hypotheses]), None).tolist()
    return flags


def cut_at_stop_string(text: str, stop_strings: Sequence[str]) -> str:
    """The text before the first stop string in it."""
    ends = [place for stop in stop_strings if (place := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text


def cut_generation(generation: Generation, stop_strings: Sequence[str]) -> Generation:
    """The generation with its text cut at the first stop string. Its tokens and trace are unchanged.

    An engine that does not know stop strings decodes more tokens than needed; their text is cut here.
    """
    reasoning, answer = "", generation.text
    if generation.thinking:
        answer = split_reasoning(generation.text).answer
        reasoning = generation.text.removesuffix(answer)
    text = reasoning + cut_at_stop_string(answer, stop_strings)
    return generation if text == generation.text else replace(generation, text=text, finish="stop")
