"""Base of mixtures of groups of demonstrations whose weights depend on the prompt."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from decoding.base import Generate, Note, StatefulStrategy, StepState, Traits, UnitSumStrategy
from decoding.prompt_edits import keep_demonstrations, question_text
from icl import LRUByteCache, PlanError, Prompt, Query, Tensor, build

Floats = NDArray[np.float64]

_VECTORS = LRUByteCache[tuple[str, tuple[str, ...]], Floats](32 * 2**20, lambda vector: vector.nbytes + 400)
"""The latest vectors of this process by embedder and images or text."""

GroupWeights = tuple[Sequence[Sequence[int]], Sequence[float]]
"""A note: the numbers of the demonstrations of each group, and the weight of each group. The weights sum to one."""


class GroupMixture(UnitSumStrategy, StatefulStrategy):
    """Base of mixtures of groups of demonstrations whose weights come from vectors of the demonstrations.

        scores = sum_n w_n l(y | group n, query)

    A subclass defines `groups_and_weights`, whose result is the prompt's note. The whole prompt is branch 0, for traces
    and controls, and has no weight.

    Attributes:
        embedder: Embedder of images and texts: its name, or a mapping.
        features: What the embedder reads.
    """

    embedder: Any
    features: Literal["images", "texts", "both"]

    traits = Traits(combines_notes=True)

    def groups_and_weights(self, prompt: Prompt) -> GroupWeights:
        """The groups of the prompt's demonstrations, and their weights, which sum to one."""
        raise NotImplementedError

    def prepare(self, prompts: Sequence[Prompt], generate: Generate) -> list[Note]:
        """The groups of each prompt and their weights.

        Raises:
            PlanError: An example has no image to embed.
        """
        return [self.groups_and_weights(prompt) for prompt in prompts]

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        """The prompt, and one prompt for each group."""
        groups, _ = cast("GroupWeights", self.groups_and_weights(prompt) if note is None else note)
        return prompt, *(keep_demonstrations(prompt, group) for group in groups)

    def combine_stateful(self, logits: Tensor, step: int, states: Sequence[StepState]) -> Tensor:
        """logits: [1 + groups, B, V] float32 -> scores [B, V]. Without notes, as in measurements, weights are equal."""
        count = len(logits) - 1
        notes = [cast("GroupWeights | None", state.note) for state in states]
        weights = logits.new_tensor([[1 / count] * count if note is None else note[1] for note in notes])
        scores: Tensor = (weights.T[..., None] * logits[1:].log_softmax(-1)).sum(0)
        return scores

    def vectors(self, prompt: Prompt, owners: Sequence[int | None]) -> Floats:
        """Vectors of demonstrations by their numbers, and of the query (None): [owners, D].

        Each vector embeds the images, the texts, or both concatenated. The texts of a demonstration are its question
        and its answer; the text of the query is its question.

        Raises:
            PlanError: An example has no image to embed.
        """
        embedder, blocks = build("embedder", self.embedder), list[Floats]()
        if self.features != "texts":
            images = [tuple(p.image for p in prompt.parts() if p.image and p.demo == owner) for owner in owners]
            if bare := [owner for owner, own in zip(owners, images, strict=True) if not own]:
                name = "the query" if bare[0] is None else f"demonstration {bare[0]}"
                strategy = type(self).component[1]  # type: ignore[attr-defined]
                raise PlanError(f"{strategy} embeds images, and {name} has none. Set features: texts.")
            items = [Query(str(owner), own, "") for owner, own in zip(owners, images, strict=True)]
            digests = [tuple(image.digest for image in own) for own in images]
            blocks.append(_embedded(embedder.digest, digests, items, embedder.embed_images))
        if self.features != "images":
            texts = [question_text(prompt) if one is None else _pair_text(prompt, one) for one in owners]
            blocks.append(_embedded(embedder.digest, [("text", text) for text in texts], texts, embedder.embed_texts))
        return np.concatenate(blocks, axis=1)


def _pair_text(prompt: Prompt, demo: int) -> str:
    return " ".join(part.text for part in prompt.parts() if part.text and part.name and part.demo == demo)


def _embedded(digest: str, keys: Sequence[tuple[str, ...]], items: Sequence[Any], embed: Callable[..., Any]) -> Floats:
    """The vector of each item, by its key from the cache if it is there: [items, D]."""
    vectors = {key: vector for key in keys if (vector := _VECTORS.get((digest, key))) is not None}
    new = {key: item for key, item in zip(keys, items, strict=True) if key not in vectors}
    if new:
        rows = np.asarray(embed(list(new.values())), dtype=np.float64)
        vectors |= {key: _VECTORS.put((digest, key), row) for key, row in zip(new, rows, strict=True)}
    return np.stack([vectors[key] for key in keys])
