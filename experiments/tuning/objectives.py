"""The losses of a batch of episodes by objective: `sft`, and `dpo` as SymDPO trains (Jia et al., CVPR 2025).

    sft    cross-entropy of the answers, a mean over the step's answer tokens
    dpo    preference of the answer over a wrong one, a mean over the step's episodes, + sft_weight x sft

SymDPO's pairs are episodes of the transform `symbols`: both answers are symbols, and only the demonstrations tell which
is right. The wrong answer is another option of the query, or else another answer of the demonstrations. The base model
is the model with the adapter off.

Differs from the released code in its data: there the pairs are made ahead from other data sets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from experiments.config.tuning_keys import TuneSpec
from experiments.tuning.losses import answer_loss, dpo_loss, sequence_logprobs
from experiments.tuning.training_forward import AnsweredPrompt, answer_logits, encode_answered
from icl.models.hf.language_model import LanguageModel

if TYPE_CHECKING:
    from experiments.tuning.episodes import Episode
    from experiments.tuning.trained_adapter import TrainedAdapter
    from icl.models.hf.model import HF


@dataclass(frozen=True, eq=False)
class EncodedStep:
    """The episodes of a step as model inputs. rejected is empty for an objective that reads no wrong answer."""

    chosen: Sequence[AnsweredPrompt]
    rejected: Sequence[AnsweredPrompt]

    @property
    def answer_tokens(self) -> int:
        return sum(count for _, count in self.chosen)

    @property
    def tokens(self) -> int:
        """Tokens of all prompts and answers."""
        return sum(len(read) for read, _ in (*self.chosen, *self.rejected))


def encode_step(model: "HF", spec: TuneSpec, episodes: "Sequence[Episode]") -> EncodedStep:
    """The episodes as model inputs. Raises ModelError."""
    prompts = [one.prompt for one in episodes]
    chosen = encode_answered(model, prompts, [one.answer for one in episodes])
    wrong = [one.rejected for one in episodes if one.rejected is not None]
    return EncodedStep(chosen, encode_answered(model, prompts, wrong) if spec.objective == "dpo" else [])


def chunk_loss(
    runner: LanguageModel, adapter: "TrainedAdapter", spec: TuneSpec, step: EncodedStep, start: int
) -> Tensor:
    """The share of the step's loss that the `spec.rows` episodes from `start` on have, a scalar with gradients."""
    stop = start + spec.rows
    chosen = step.chosen[start:stop]
    if spec.objective == "sft":
        return answer_loss(*answer_logits(runner, chosen, adapter.image_features))[0] / step.answer_tokens
    rows, pairs = [*chosen, *step.rejected[start:stop]], len(chosen)
    with torch.no_grad(), adapter.disabled():
        base = sequence_logprobs(*answer_logits(runner, rows, adapter.image_features))
    logits, targets = answer_logits(runner, rows, adapter.image_features)
    tuned = sequence_logprobs(logits, targets)
    preference = dpo_loss(tuned[:pairs], tuned[pairs:], base[:pairs], base[pairs:], spec.beta) / len(step.chosen)
    return preference + spec.sft_weight * answer_loss(logits[:pairs], targets[:pairs])[0] / step.answer_tokens
