"""What a checkpoint makes of whole prompts: the state at their end, and how likely it finds a text that stands in them.

One forward a batch, nothing is kept: neither beginnings nor caches are shared with sessions.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from icl.errors import ModelError
from icl.models.hf.batch_halving import halving
from icl.models.hf.language_model import EncodedPrompt, LanguageModel
from icl.models.hf.prefill import cut
from icl.models.hf.prompt_encoding import PromptEncoder
from icl.types import Part, Prompt

T = TypeVar("T")

OTHERS = (".", "Z")
"""Texts put in the place of a part, to see which tokens are its own; no word begins with the tokens of both."""


def last_states(reader: PromptEncoder, prompts: Sequence[Prompt]) -> Tensor:
    """[N, D] float32: the last layer's hidden state at each prompt's last token. Raises ModelError, ImageError."""

    def run(reads: Sequence[EncodedPrompt]) -> list[Tensor]:
        found = runner.called(**runner.padded(reads), states=True)
        return list(found.hidden_states[-1][:, -1].float().cpu())

    runner = reader.runner
    return torch.stack(_in_batches(run, reader.read(prompts), runner))


def text_logprobs(reader: PromptEncoder, prompts: Sequence[Prompt], name: str) -> list[list[float]]:
    """The log-probability of each token of the part `name`, after all that stands before it.

    Raises ModelError where a prompt has no text of that name.
    """
    counted = [_up_to(reader, prompt, name) for prompt in prompts]
    width = max((count for _, count in counted), default=0)

    def run(reads: Sequence[EncodedPrompt]) -> list[list[float]]:
        given = runner.padded(reads)
        scores = runner.forward(**given, keep=width + 1)[:, :-1].float().log_softmax(-1)
        told = scores.gather(-1, given["tokens"][:, -width:, None])[..., 0]
        return [row.tolist() for row in told.cpu()]

    runner = reader.runner
    found = _in_batches(run, [read for read, _ in counted], runner)
    return [row[len(row) - count :] for row, (_, count) in zip(found, counted, strict=True)]


def _up_to(reader: PromptEncoder, prompt: Prompt, name: str) -> tuple[EncodedPrompt, int]:
    """The prompt up to the part's end, and how many tokens at its end are the part's."""
    if not (prompt.spans.get(name) and next(p for p in prompt.parts() if p.name == name).text):
        raise ModelError(f"{reader.renderer.name}: the prompt has no text '{name}' whose likelihood could be told.")

    def other(text: str) -> Prompt:
        return prompt.map(lambda part: Part(text, name) if part.name == name else part)

    whole, *others = reader.read([prompt, *map(other, OTHERS)])
    if whole.plain is not None:
        raise ModelError(f"{reader.renderer.name}: texts are not scored where the image cache is off.")
    begin = min(_alike(whole.key, one.key) for one in others)
    end = len(whole) - min(_alike(whole.key[::-1], one.key[::-1]) for one in others)
    return cut(whole, 0, end), end - begin


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many first entries two sequences share."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _in_batches(
    run: Callable[[Sequence[EncodedPrompt]], list[T]], reads: Sequence[EncodedPrompt], runner: LanguageModel
) -> list[T]:
    """Like lengths together, within the budget of padded tokens; one by one where images are not cached."""
    order = sorted(range(len(reads)), key=lambda i: len(reads[i]))
    batches: list[list[int]] = []
    for i in order:
        full = not batches or (len(batches[-1]) + 1) * len(reads[i]) > runner.budget
        if full or reads[i].plain is not None:
            batches.append([])
        batches[-1].append(i)
    found = [one for batch in batches for one in halving(run, [reads[i] for i in batch], "prompts")]
    return [one for _, one in sorted(zip(order, found, strict=True), key=lambda pair: pair[0])]
