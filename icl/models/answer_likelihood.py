"""How likely a model finds each of a few answers, for retrievers and orderers that ask the model under test.

    p(y | demonstrations, query) = exp(mean log p of y's tokens) / sum over the options y' of the same

The mean over tokens, so that a long option is not at a disadvantage. The prompt is plain: a user turn and an assistant
turn for each demonstration, then the query's user turn.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from icl import spans
from icl.errors import PlanError
from icl.models.base import LogitModel, Model
from icl.streams import StreamKey
from icl.tasks.base import Pool
from icl.types import Example, Part, Prompt, Query, Turn

BATCH = 8
MOST = 64
"""More options than this are no longer a choice among labels."""


def scorer(model: Model | None, who: str, instead: str) -> LogitModel:
    """The model as one with sessions. who: \"retriever 'mdl'\"; instead: what runs without. Raises PlanError."""
    if model is None or "logits" not in model.abilities:
        raise PlanError(
            f"{who} reads the probabilities of a model with logits, and was given "
            f"{'no model' if model is None else repr(model)}. Use such a model (hf), or {instead}."
        )
    return cast(LogitModel, model)


def options_of(query: Query, pool: Pool, who: str, instead: str) -> tuple[str, ...]:
    """The query's options, or the pool's answers where there is no choice among them. Raises PlanError."""
    options = query.options if len(query.options) > 1 else tuple(dict.fromkeys(e.answer for e in pool.examples))
    if not 1 < len(options) <= MOST:
        raise PlanError(
            f"{who} compares the probabilities of 2 to {MOST} options, and query '{query.id}' has "
            f"{len(options)}. Give the task options, or use {instead}."
        )
    return options


def shown(query: Query, demos: Sequence[Example], key: StreamKey) -> Prompt:
    """The demonstrations in this order, then the query."""
    turns: list[Turn] = []
    for n, demo in enumerate(demos):
        turns.append(Turn("user", _asked(demo, spans.demo(n))))
        turns.append(Turn("assistant", (Part(demo.answer, spans.answer(spans.demo(n))),)))
    return Prompt((*turns, Turn("user", _asked(query, spans.QUERY))), key)


def probabilities(model: LogitModel, prompts: Sequence[Prompt], options: Sequence[str]) -> NDArray[np.float64]:
    """[prompts, options], each row of sum 1. Raises ModelError, ImageError."""
    rows: list[list[float]] = []
    model.load()
    for start in range(0, len(prompts), BATCH):
        some = prompts[start : start + BATCH]
        suffixes = [model.option_ids(prompt, options) for prompt in some]
        found = model.open(some).suffix_logprobs(suffixes)
        for ids, told in zip(suffixes, found, strict=True):
            rows.append(
                [
                    float(np.mean([float(step[token]) for step, token in zip(steps, own, strict=True)]))
                    for own, steps in zip(ids, told, strict=True)
                ]
            )
    likelihood = np.exp(np.array(rows) - np.max(rows, axis=1, keepdims=True))
    return np.asarray(likelihood / likelihood.sum(axis=1, keepdims=True))


def entropy(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N, O] probabilities -> [N], in nats."""
    safe = np.where(rows > 0, rows, 1)
    return np.asarray(-(rows * np.log(safe)).sum(axis=1))


def _asked(of: Example | Query, owner: str) -> tuple[Part, ...]:
    images = tuple(Part(image, spans.image(owner, j)) for j, image in enumerate(of.images))
    return (*images, Part(of.question, spans.question(owner))) if of.question else images
