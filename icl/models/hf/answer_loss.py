"""The loss of answers under interventions, with gradients that reach the tensors of the interventions.

Sessions cannot train: they run without gradients, and write to their caches in place. One forward pass over prompts
with their answers, without a session, can. Without the image cache, each prompt is read alone, by the processor's own
inputs, and its answer in a second pass. Weights stay as they are.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from icl.models.hf.language_model import EncodedPrompt, LanguageModel
from icl.models.hf.row_edits import ForwardEdits
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
    """Prompts with their answers. Raises ModelError, ImageError."""
    prompts = [model.before_answer(prompt) for prompt in prompts]
    reads = model.engine.prompt_encoder.read(prompts)
    made = []
    for prompt, answer, read in zip(prompts, answers, reads, strict=True):
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
        if any(row.plain is not None for row in placed):
            rows = [_logits_alone(runner, row, len(item.answer)) for row, item in zip(placed, items, strict=True)]
        else:
            logits = runner.forward(**runner.padded(placed), keep=width, gradients=True)[:, :-1]
            rows = [own[-len(item.answer) :] for own, item in zip(logits, items, strict=True)]
        losses = [
            functional.cross_entropy(own.float(), torch.tensor(item.answer, device=own.device))
            for own, item in zip(rows, items, strict=True)
        ]
        return torch.stack(losses).mean()


def _logits_alone(runner: LanguageModel, row: EncodedPrompt, count: int) -> Tensor:
    """Logits before the `count` tokens of the answer, [count, V], by two passes: the prompt, then the answer."""
    size = len(row) - count
    types = None if row.token_types is None else row.token_types[:size]
    prompt = replace(
        row, ids=row.ids[:size], positions=row.positions[..., :size], token_types=types, key=row.key[:size]
    )
    arguments = runner.padded([prompt])
    first = runner.forward(**arguments, gradients=True)[0]
    if count == 1:
        return first
    rest = runner.forward(
        row.ids[None, size:-1],
        None,
        row.positions[..., None, size:-1],
        arguments["cache"],
        keep=0,
        token_types=None if row.token_types is None else row.token_types[None],
        edits=ForwardEdits.place([row.edits], [size], [count - 1]),
        gradients=True,
    )[0]
    return torch.cat([first, rest])


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
