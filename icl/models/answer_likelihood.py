"""Probabilities of answer options under a model, for retrievers and orderers that use the model under test.

    p(y | demonstrations, query) = exp(mean log p of y's tokens) / sum over the options y' of the same

The mean over tokens does not penalize long options. The prompt has a user turn and an assistant turn for each
demonstration, then the query's user turn.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from icl import (
    Example,
    LogitModel,
    LRUByteCache,
    Model,
    Part,
    PlanError,
    Pool,
    Prompt,
    Query,
    Request,
    StreamKey,
    Turn,
    spans,
)

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


# Short greedy answers of a model for retrievers and transforms, such as descriptions and pseudo-answers.


ANSWERS_AT_ONCE = 16

ANSWERING = frozenset({"generate", "logits", "strategies"})
"""A model needs at least one of these abilities."""

CACHED_BYTES = 32 * 2**20
"""Size of the cache of answers."""

ENTRY_BYTES = 400
"""Size of an answer's key and of the empty text."""

_ANSWERS = LRUByteCache[tuple[str, str, int], str](CACHED_BYTES, lambda text: ENTRY_BYTES + 4 * len(text))
"""The latest answers of this process by model digest, prompt digest and length limit."""


def answers(model: Model, prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
    """One greedy answer for each prompt, through sessions if the model has logits. Raises ModelError, ImageError."""
    model.load()
    keys = [(model.digest, prompt.digest, max_new_tokens) for prompt in prompts]
    texts = {key: text for key in keys if (text := _ANSWERS.get(key)) is not None}
    todo = [(key, prompt) for key, prompt in dict(zip(keys, prompts, strict=True)).items() if key not in texts]
    for start in range(0, len(todo), ANSWERS_AT_ONCE):
        some = todo[start : start + ANSWERS_AT_ONCE]
        new = _greedy_answers(model, [prompt for _, prompt in some], max_new_tokens)
        texts |= {key: _ANSWERS.put(key, text) for (key, _), text in zip(some, new, strict=True)}
    return [texts[key] for key in keys]


def _greedy_answers(model: Model, prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
    if "logits" in model.abilities:
        return _through_sessions(cast(LogitModel, model), prompts, max_new_tokens)
    requests = [Request(prompt, max_new_tokens=max_new_tokens) for prompt in prompts]
    return [generation.text for generation in model.generate(requests)]


def _through_sessions(model: LogitModel, prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
    session = model.open(prompts)
    tokens: list[list[int]] = [[] for _ in prompts]
    going = set(range(len(prompts)))
    for _ in range(max_new_tokens):
        chosen = session.logits.argmax(dim=-1)
        for row, token in enumerate(chosen.tolist()):
            if row in going:
                tokens[row].append(token)
                going -= {row} if token in model.stop_tokens else set()
        if not going:
            break
        session.advance(chosen)
    return [model.text([token for token in row if token not in model.stop_tokens]).strip() for row in tokens]
