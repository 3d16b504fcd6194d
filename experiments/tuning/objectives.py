"""The losses of a batch of episodes: `sft`, and the preferences of `dpo` and `realign`.

    sft             cross-entropy of the answers, a mean over the step's answer tokens
    dpo, realign    preference of the answer over its alternatives (`experiments.tuning.alternatives`), a mean over the
                    step's episodes, + sft_weight x sft

`dpo` is as SymDPO trains (Jia et al., CVPR 2025). SymDPO's pairs are episodes of the transform `symbols`: both answers
are symbols, and only the demonstrations tell which is right. The base model is the model with the adapter off.

Differs from the released code in its data: there the pairs are made ahead from other data sets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from experiments.config.tuning_keys import TuneSpec
from experiments.tuning.losses import answer_loss, preference_loss, sequence_logprobs
from experiments.tuning.training_forward import AnsweredPrompt, answer_logits, encode_answered
from icl.models.hf.language_model import LanguageModel

if TYPE_CHECKING:
    from experiments.tuning.episodes import Episode
    from experiments.tuning.trained_adapter import TrainedAdapter
    from icl.models.hf.model import HF


@dataclass(frozen=True, eq=False)
class EncodedStep:
    """The episodes of a step as model inputs.

    Attributes:
        chosen: Each prompt with its answer.
        alternatives: For each number of an alternative, those of all episodes.
    """

    chosen: Sequence[AnsweredPrompt]
    alternatives: Sequence[Sequence[AnsweredPrompt]] = ()

    @property
    def answer_tokens(self) -> int:
        return sum(count for _, count in self.chosen)

    @property
    def tokens(self) -> int:
        """Tokens of all prompts and answers."""
        return sum(len(read) for read, _ in chain(self.chosen, *self.alternatives))


def encode_step(model: "HF", episodes: "Sequence[Episode]") -> EncodedStep:
    """The episodes, which have equally many alternatives, as model inputs. Raises ModelError."""
    chosen = [(one.prompt, one.answer) for one in episodes]
    alternatives = zip(*(one.alternatives for one in episodes), strict=True)
    columns = [encode_answered(model, *map(list, zip(*pairs, strict=True))) for pairs in (chosen, *alternatives)]
    return EncodedStep(columns[0], columns[1:])


def chunk_loss(
    runner: LanguageModel, adapter: "TrainedAdapter", spec: TuneSpec, step: EncodedStep, start: int
) -> Tensor:
    """The share of the step's loss that the `spec.rows` episodes from `start` on have, a scalar with gradients."""
    stop = start + spec.rows
    chosen = step.chosen[start:stop]
    if not step.alternatives:
        return answer_loss(*answer_logits(runner, chosen, adapter.image_features))[0] / step.answer_tokens
    rows = [*chosen, *chain.from_iterable(each[start:stop] for each in step.alternatives)]
    with torch.no_grad(), adapter.disabled():
        base = sequence_logprobs(*answer_logits(runner, rows, adapter.image_features))
    logits, targets = answer_logits(runner, rows, adapter.image_features)
    tuned, count = sequence_logprobs(logits, targets), len(chosen)
    preference = preference_loss(tuned.view(-1, count), base.view(-1, count), spec.beta) / len(step.chosen)
    return preference + spec.sft_weight * answer_loss(logits[:count], targets[:count])[0] / step.answer_tokens
