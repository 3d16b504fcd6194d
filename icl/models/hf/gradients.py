"""Gradients through the model: of the loss of answers under interventions, and of attention (saliency).

Sessions have no gradients, and write to their caches in place. So prompts with their answers are read by one forward
pass without a session. Without the image cache, each prompt is read alone, by the processor's own inputs, and its
answer in a second pass. Weights stay as they are.

    saliency    |sum over heads of A * dL/dA| in each layer, from one forward and one backward pass for each prompt

For saliency, attention is computed from its scores (`attention_calls`), so any class with the site `scores` works,
under any attention implementation. The graph has one tensor of heads x tokens x tokens x 4 bytes for each layer, and
some more of one layer at a time. Gradients are reduced over heads as they arrive.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from icl import Intervention, ModelError, Prompt, report_out_of_memory
from icl.models.hf import AttentionCall, EncodedPrompt, ForwardEdits, LanguageModel, Route, free, row_edit
from icl.models.hf.memory import gib, model_memories
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


def encode_answers(model: HF, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[AnsweredPrompt]:
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


def answer_loss(model: HF, items: Sequence[AnsweredPrompt], interventions: Sequence[Intervention]) -> Tensor:
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


REMEDY = "fewer shots, smaller images, a larger device, or `icl analyze RUN attention`, which needs no gradients"
ONE_LAYER = 5
"""Tensors of heads x tokens x tokens that the current layer needs, in addition to the one that stays."""


def attention_saliency(model: HF, prompt: Prompt, loss: Callable[[Tensor], Tensor]) -> dict[int, Tensor]:
    """The saliency of each layer with scores.

    Args:
        model: The loaded model.
        prompt: A prompt without interventions.
        loss: A scalar of the logits [V] after the prompt.

    Returns:
        Layer -> [T, T] float32 on the host. Entry (i, j) belongs to token i attending to token j, and is 0 for i = j.

    Raises:
        ModelError: The prompt cannot be read, or memory is too small for it.
    """
    reads = model.engine.prompt_encoder.read([prompt])
    check_saliency_memory(model, len(reads[0]))
    with report_out_of_memory(f"the saliency of a prompt of {len(reads[0]):,} tokens", REMEDY):
        return _saliency(model, reads, loss)


def check_saliency_memory(model: HF, tokens: int) -> None:
    """Raises ModelError if the tensors of heads x tokens x tokens do not fit into free memory."""
    heads = [model.sites.num_heads(site.layer) for site in model.sites.all("scores")]
    needed = 4.0 * tokens**2 * (sum(heads) + ONE_LAYER * max(heads, default=0))

    def lacking() -> list[float]:
        memories = model_memories(model.engine.runner.model)
        return [one.free for one in memories if one.layer_fraction * needed > one.free]

    if lacking():
        free()  # of the prompt before
        if lacks := lacking():
            raise ModelError(
                f"the saliency of a prompt of {tokens:,} tokens needs {gib(needed)}, for {len(heads)} layers x heads x "
                f"tokens x tokens, and {gib(lacks[0])} are free. Use {REMEDY}."
            )


def _saliency(model: HF, reads: Sequence[EncodedPrompt], loss: Callable[[Tensor], Tensor]) -> dict[int, Tensor]:
    runner, saliency = model.engine.runner, dict[int, Tensor]()

    def attend(layer: int, call: AttentionCall, output: Tensor) -> Tensor:
        rows = torch.zeros(1, dtype=torch.long, device=output.device)
        weights = call.scores(rows, torch.arange(output.shape[1], device=output.device)[None]).softmax(-1)
        if not weights.requires_grad:  # the first layer, because the weights of the model have no gradients
            weights.requires_grad_()
        values = weights.detach()

        def reduce(gradient: Tensor) -> None:
            products = (values * gradient)[0].sum(1).abs()
            saliency[layer] = products.fill_diagonal_(0).cpu()

        weights.register_hook(reduce)  # type: ignore[no-untyped-call]
        return call.mixed(weights, rows).to(output.dtype)

    arguments = runner.padded(reads)
    routes: list[Route] = []
    with torch.enable_grad(), frozen(runner.model):
        try:
            for site in model.sites.all("scores"):
                routes.append(Route(model.sites.hookable(site).module, partial(attend, site.layer)))
            logits = runner.forward(**arguments, gradients=True)[0, -1].float()
        finally:
            for route in routes:
                route.remove()
        loss(logits).backward()  # type: ignore[no-untyped-call]
    return dict(sorted(saliency.items()))
