"""Probabilities of answer options under a model, for retrievers and orderers that use the model under test.

    p(y | demonstrations, query) = exp(mean log p of y's tokens) / sum over the options y' of the same

The mean over tokens does not penalize long options. The prompt has a user turn and an assistant turn for each
demonstration, then the query's user turn.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from icl import Example, LogitModel, Model, Part, PlanError, Pool, Prompt, Query, StreamKey, Turn, spans

BATCH = 8
MAX_OPTIONS = 64
"""Largest number of options. Open answers have more."""


def scorer(model: Model | None, who: str, instead: str) -> LogitModel:
    """The model, checked to have logits.

    Args:
        model: The model of the run, if it has one.
        who: The component that asks, such as "retriever 'mdl'", for the error message.
        instead: What runs without logits, for the error message.

    Raises:
        PlanError: The model has no logits.
    """
    if model is None or "logits" not in model.abilities:
        raise PlanError(
            f"{who} needs a model with logits, but got "
            f"{'no model' if model is None else repr(model)}. Use a model with logits (hf), or {instead}."
        )
    return cast(LogitModel, model)


def options_of(query: Query, pool: Pool, who: str, instead: str) -> tuple[str, ...]:
    """The query's options, or the pool's answers if it has fewer than two. Raises PlanError beyond MAX_OPTIONS."""
    options = query.options if len(query.options) > 1 else tuple(dict.fromkeys(e.answer for e in pool.examples))
    if not 1 < len(options) <= MAX_OPTIONS:
        raise PlanError(
            f"{who} compares the probabilities of 2 to {MAX_OPTIONS} options, but query '{query.id}' has "
            f"{len(options)}. Add options to the task, or use {instead}."
        )
    return options


def demo_prompt(query: Query, demos: Sequence[Example], key: StreamKey) -> Prompt:
    """A chat prompt of the demonstrations in this order and the query."""
    turns: list[Turn] = []
    for n, demo in enumerate(demos):
        turns.append(Turn("user", _question_parts(demo, spans.demo(n))))
        turns.append(Turn("assistant", (Part(demo.answer, spans.answer(spans.demo(n))),)))
    return Prompt((*turns, Turn("user", _question_parts(query, spans.QUERY))), key)


def probabilities(model: LogitModel, prompts: Sequence[Prompt], options: Sequence[str]) -> NDArray[np.float64]:
    """Option probabilities [prompts, options]; each row sums to one. Raises ModelError, ImageError."""
    rows: list[list[float]] = []
    model.load()
    for start in range(0, len(prompts), BATCH):
        some = [model.before_answer(prompt) for prompt in prompts[start : start + BATCH]]
        suffixes = [model.option_ids(prompt, options) for prompt in some]
        logprobs = model.open(some).suffix_logprobs(suffixes)
        for ids, row_logprobs in zip(suffixes, logprobs, strict=True):
            rows.append(
                [
                    float(np.mean([float(step[token]) for step, token in zip(steps, own, strict=True)]))
                    for own, steps in zip(ids, row_logprobs, strict=True)
                ]
            )
    likelihood = np.exp(np.array(rows) - np.max(rows, axis=1, keepdims=True))
    return np.asarray(likelihood / likelihood.sum(axis=1, keepdims=True))


def entropy(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entropy of each row in nats: [N, O] probabilities -> [N]."""
    safe = np.where(rows > 0, rows, 1)
    return np.asarray(-(rows * np.log(safe)).sum(axis=1))


def _question_parts(of: Example | Query, owner: str) -> tuple[Part, ...]:
    images = tuple(Part(image, spans.image(owner, j)) for j, image in enumerate(of.images))
    return (*images, Part(of.question, spans.question(owner))) if of.question else images
