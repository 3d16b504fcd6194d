"""The loss of answers under interventions, with gradients that reach the tensors of the interventions.

Sessions cannot train: they run without gradients, and write to their caches in place. One forward pass over prompts
with their answers, without a session, can. Weights stay as they are.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from icl.errors import ModelError
from icl.models.hf.language_model import EncodedPrompt
from icl.models.hf.token_ranges import row_edit
from icl.models.interventions import Intervention
from icl.types import Prompt

if TYPE_CHECKING:
    from icl.models.hf.model import HF


@dataclass(frozen=True, eq=False)
class AnsweredPrompt:
    """A prompt with an answer as model inputs.

    Attributes:
        prompt: The prompt.
        encoded: Prompt and answer.
        answer: Token ids of the answer.
    """

    prompt: Prompt
    encoded: EncodedPrompt
    answer: tuple[int, ...]


def encode_answers(model: "HF", prompts: Sequence[Prompt], answers: Sequence[str]) -> list[AnsweredPrompt]:
    """Prompts with their answers. Raises ModelError if the image cache is off."""
    prompts = [model.before_answer(prompt) for prompt in prompts]
    reads = model.engine.prompt_encoder.read(prompts)
    made = []
    for prompt, answer, read in zip(prompts, answers, reads, strict=True):
        if read.plain is not None:
            raise ModelError(f"{model.path}: gradients need the image cache, which is off for this model.")
        ids = model.option_ids(prompt, [answer])[0]
        own = torch.tensor(ids, device=read.ids.device)
        steps = torch.arange(1, len(ids) + 1, device=read.positions.device)
        types = read.token_types
        encoded = replace(
            read,
            ids=torch.cat([read.ids, own]),
            positions=torch.cat([read.positions, read.positions[..., -1:] + steps], -1),
            token_types=None if types is None else torch.cat([types, types.new_zeros(len(ids))]),
            key=(*read.key, *ids),
        )
        made.append(AnsweredPrompt(prompt, encoded, tuple(ids)))
    return made


def answer_loss(model: "HF", items: Sequence[AnsweredPrompt], interventions: Sequence[Intervention]) -> Tensor:
    """The mean negative log-probability of the answers' tokens, over items. A scalar with gradients.

    Args:
        model: The loaded model.
        items: Prompts with answers.
        interventions: Act on all items, in this order. Their tensors may require gradients.
    """
    runner, encoder = model.engine.runner, model.engine.prompt_encoder
    placed = []
    for row, item in enumerate(items):
        bare = replace(item.encoded, key=item.encoded.key[: len(item.encoded) - len(item.answer)])
        edits = tuple(row_edit(encoder, acts, item.prompt, bare, row) for acts in interventions)
        placed.append(replace(item.encoded, edits=edits))
    width = max(len(item.answer) for item in items) + 1
    with torch.enable_grad(), frozen(runner.model):
        logits = runner.forward(**runner.padded(placed), keep=width, gradients=True)[:, :-1].float()
        losses = []
        for row, item in enumerate(items):
            target = torch.tensor(item.answer, device=logits.device)
            losses.append(functional.cross_entropy(logits[row, -len(item.answer) :], target))
        return torch.stack(losses).mean()


@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """Weights without gradients, so that no graph is kept below the first intervention."""
    required = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in required:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in required:
            weight.requires_grad_(True)
