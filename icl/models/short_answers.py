"""Short greedy answers of a model for retrievers and transforms, such as descriptions and pseudo-answers."""

from collections.abc import Sequence
from typing import cast

from icl import LogitModel, LRUByteCache, Model, Prompt, Request

BATCH = 16

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
    for start in range(0, len(todo), BATCH):
        some = todo[start : start + BATCH]
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
