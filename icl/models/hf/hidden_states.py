"""Whole prompts without sessions: hidden states at their end, and log-probabilities of a text within them.

One forward pass for each batch. No cache is shared with sessions.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from icl import ModelError, Prompt, Site, Where
from icl.models.hf import EncodedPrompt, LanguageModel, PromptEncoder, run_within_limit
from icl.models.hf.prefill import cut
from icl.models.hf.token_ranges import text_tokens

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

    def __init__(self, sites: tuple[Site, ...], where: Where) -> None:
        self.sites, self.where = sites, where
        self.states: dict[int, dict[Site, list[Tensor]]] = {}

    def see(self, site: Site, x: Tensor, rows: Sequence[int]) -> None:
        for row, state in zip(rows, x.cpu(), strict=True):
            self.states.setdefault(row, {}).setdefault(site, []).append(state)


def observed_states(
    reader: PromptEncoder, prompts: Sequence[Prompt], sites: tuple[Site, ...], where: Where
) -> list[dict[Site, Tensor]]:
    """Site -> states at the addressed tokens of each prompt, on the host. Raises ModelError, ImageError."""
    recorder, runner = StateRecorder(sites, where), reader.runner

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
        may_join=lambda batch: batch[-1].plain is None and batch[0].plain is None,
    )
    return [one for _, one in sorted(zip(order, results, strict=True), key=lambda pair: pair[0])]
