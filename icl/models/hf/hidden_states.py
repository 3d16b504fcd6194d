"""Whole prompts without sessions: hidden states at their end, and log-probabilities of a text within them.

One forward pass for each batch. No cache is shared with sessions.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from icl import ModelError, Prompt, Site, Where, steer
from icl.models.hf import EncodedPrompt, ImageEncoder, LanguageModel, ModelCounters, PromptEncoder, run_within_limit
from icl.models.hf.prefill import cut
from icl.models.hf.token_ranges import (
    acts_in_tower,
    addressed_images,
    part_tokens,
    text_tokens,
    with_tower_edit,
    with_tower_edits,
)
from icl.models.interventions import MovedStates

T = TypeVar("T")


def last_states(reader: PromptEncoder, prompts: Sequence[Prompt]) -> Tensor:
    """Hidden state of the last layer at each prompt's last token: [N, D] float32. Raises ModelError, ImageError."""

    def run(reads: Sequence[EncodedPrompt]) -> list[Tensor]:
        output = runner.call_model(**runner.padded(reads), states=True)
        return list(output.hidden_states[-1][:, -1].float().cpu())

    runner = reader.runner
    return torch.stack(_in_batches(run, reader.read(prompts), runner))


def text_logprobs(reader: PromptEncoder, prompts: Sequence[Prompt], name: str) -> list[list[float]]:
    """Log-probability of each token of the part `name`, given everything before it. Raises ModelError if there is no
    such text.
    """
    counted = [_up_to(reader, prompt, name) for prompt in prompts]
    width = max((count for _, count in counted), default=0)

    def run(reads: Sequence[EncodedPrompt]) -> list[list[float]]:
        arguments = runner.padded(reads)
        scores = runner.forward(**arguments, keep=width + 1)[:, :-1].float().log_softmax(-1)
        logprobs = scores.gather(-1, arguments["tokens"][:, -width:, None])[..., 0]
        return [row.tolist() for row in logprobs.cpu()]

    runner = reader.runner
    rows = _in_batches(run, [read for read, _ in counted], runner)
    return [row[len(row) - count :] for row, (_, count) in zip(rows, counted, strict=True)]


class StateRecorder:
    """An observer that collects states on the host.

    Attributes:
        states: Number of a prompt -> site -> its states, in the order of the tokens.
    """

    def __init__(self, sites: tuple[Site, ...], where: Where, reduce: Callable[[Tensor], Tensor] | None = None) -> None:
        self.sites, self.where, self.reduce = sites, where, reduce
        self.states: dict[int, dict[Site, list[Tensor]]] = {}

    def see(self, site: Site, x: Tensor, rows: Sequence[int]) -> None:
        for row, state in zip(rows, (x if self.reduce is None else self.reduce(x)).cpu(), strict=True):
            self.states.setdefault(row, {}).setdefault(site, []).append(state)


def observed_states(
    reader: PromptEncoder,
    prompts: Sequence[Prompt],
    sites: tuple[Site, ...],
    where: Where,
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> list[dict[Site, Tensor]]:
    """Site -> states at the addressed tokens of each prompt, on the host. Raises ModelError, ImageError.

    reduce: from the states of some tokens [n, ...] to what is stored of each [n, ...].
    """
    recorder, runner = StateRecorder(sites, where, reduce), reader.runner
    if acts_in_tower(recorder):
        return [_tower_states(reader, prompt, recorder) for prompt in prompts]

    def run(reads: Sequence[EncodedPrompt]) -> list[None]:
        for read in reads:  # a batch that did not fit into memory may have recorded some states
            recorder.states.pop(read.edits[-1].row, None)
        runner.forward(**runner.padded(reads))
        return [None] * len(reads)

    _in_batches(run, reader.read(prompts, recorder), runner)
    return [
        {site: torch.stack(states) for site, states in recorder.states.get(row, {}).items()}
        for row in range(len(prompts))
    ]


def _tower_states(reader: PromptEncoder, prompt: Prompt, recorder: StateRecorder) -> dict[Site, Tensor]:
    """The states of the addressed images in the vision tower, one after the other. Each is read past the cache."""
    prompt, own = with_tower_edits(reader, prompt), list[StateRecorder]()
    for name in addressed_images(reader, prompt, recorder.where):
        own.append(StateRecorder(recorder.sites, recorder.where, recorder.reduce))
        prompt = with_tower_edit(reader, prompt, [name], own[-1], f"observed {name}")
    ImageEncoder(reader.pixels, reader.runner.model, 0, ModelCounters()).encode([prompt.images])
    sites = recorder.sites if own else ()
    # Row 0: if a prompt has other images, some processors read each with a copy.
    return {site: torch.stack([state for one in own for state in one.states[0][site]]) for site in sites}


def image_logits(reader: PromptEncoder, prompt: Prompt, layer: int, names: Sequence[str]) -> list[Tensor]:
    """The output layer on the final norm of the states of tokens of images: for each, [n, V] float32 on the host.

    The logit lens (nostalgebraist, interpreting GPT, 2020) on tokens of images, as in Neo et al., Towards Interpreting
    Visual Information Processing in Vision-Language Models, ICLR 2025 (arXiv 2410.07149).

    Args:
        reader: Encodes the prompt.
        prompt: The prompt.
        layer: The layer of the states, from 0. The last one gives the logits of the model.
        names: Names of the images.

    Raises:
        ModelError: The model has no such layer, or the prompt no such image.
    """
    last, runner = len(reader.runner.sites.layers) - 1, reader.runner
    moved = (
        prompt
        if layer == last
        else steer(prompt, MovedStates(Site("residual", layer), Site("residual", last), Where("images")))
    )
    (read,) = reader.read([moved])
    ranges = [part_tokens(reader, prompt, read, name) for name in names]
    tokens = [[token for begin, end in own for token in range(begin, end)] for own in ranges]
    keep = torch.tensor([token for own in tokens for token in own], device=runner.device)
    logits = runner.forward(**runner.padded([read]), keep=keep)[0].float().cpu()
    return list(torch.split(logits, [len(own) for own in tokens]))


def _up_to(reader: PromptEncoder, prompt: Prompt, name: str) -> tuple[EncodedPrompt, int]:
    """The prompt up to the end of the part, and the number of the part's tokens."""
    if not (prompt.spans.get(name) and next(p for p in prompt.parts() if p.name == name).text):
        raise ModelError(f"{reader.renderer.name}: the prompt has no text '{name}' to score.")
    whole = reader.read([prompt])[0]
    if whole.plain is not None:
        raise ModelError(f"{reader.renderer.name}: texts cannot be scored while the image cache is off.")
    begin, end = text_tokens(reader, prompt, whole, name)
    return cut(whole, 0, end), end - begin


def _in_batches(
    run: Callable[[Sequence[EncodedPrompt]], list[T]], reads: Sequence[EncodedPrompt], runner: LanguageModel
) -> list[T]:
    """Results in the order of `reads`. Prompts of similar length are batched within the token budget. Prompts without
    the image cache run alone.
    """
    order = sorted(range(len(reads)), key=lambda i: len(reads[i]))
    results = run_within_limit(
        run,
        [reads[i] for i in order],
        runner.prefill_limit,
        "prompts",
        size=lambda batch: len(batch) * len(batch[-1]),
        may_join=lambda batch: all(one.plain is None for one in batch),
    )
    return [one for _, one in sorted(zip(order, results, strict=True), key=lambda pair: pair[0])]
