"""What an answer is preferred to, by objective. An alternative is a prompt and an answer to it.

    sft        nothing
    dpo        another answer to the same prompt: another option, or another answer of the demonstrations
    realign    the answer of the nearest other image to the same prompt, and the same answer to that other image

`realign` is Re-Align (Xing et al., 2025). The nearest other image is that of the first member of the query's pool with
another answer, as a retriever ranks them.

Differs from the released code in the rejected answer: there a model rewrites parts of a long answer while it looks at
the other image. Here it is the answer that the data give for that image.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from experiments.contexts.contexts import PromptItem, Retrieval, render
from icl.errors import DataError
from icl.metrics.normalize import normalize_text
from icl.streams import StreamKey
from retrievers.base import EXCLUDE_LEAKS

if TYPE_CHECKING:
    from experiments.grid.grid import Cell
    from icl.types import Example, Prompt
    from retrievers.base import Retriever

Alternatives = list["tuple[Prompt, str]"]
"""Prompts, each with an answer that is worse than the episode's."""
MakeAlternatives = Callable[[PromptItem], Alternatives]
"""The alternatives of a rendered item. Raises DataError if it has none."""

FIRST = 16
"""Members of a large pool that are ranked first. The others are ranked if all of these have the query's answer."""


def no_alternatives(item: PromptItem) -> Alternatives:
    """No alternative: the answer is learned as it is."""
    return []


def wrong_answer(item: PromptItem) -> Alternatives:
    """The same prompt with another option of its query, or with another answer of its demonstrations."""
    assert item.prompt is not None
    candidates = item.example.options or [demo.example.answer for demo in item.context.demos]
    wrong = [one for one in candidates if _is_wrong(one, item.example)]
    if not wrong:
        raise DataError(
            f"tune.task: query '{item.example.id}' has no wrong answer for dpo: neither an option nor a demonstration "
            "has another answer. Use a task with options, or more demonstrations, or objective: sft."
        )
    key = StreamKey(item.spec.cell.seed, item.example.id)
    return [(item.prompt, wrong[key.order("tune/rejected", wrong)[0]])]


class NearestImage:
    """Alternatives from the nearest other image of the query's pool with another answer.

    Attributes:
        retriever: Ranks the pool.
    """

    def __init__(self, cell: "Cell", retriever: "Retriever") -> None:
        self.retriever = retriever
        self.retrieval = Retrieval(cell.task, cell.model)
        self.queries = {query.id: query for query in cell.task.queries}

    def __call__(self, item: PromptItem) -> Alternatives:
        """The prompt with that image's answer, and the prompt about that image with the episode's answer."""
        assert item.prompt is not None
        other, answer = self._other(item)
        about_other = replace(item.context, query=replace(item.context.query, images=other.images))
        elsewhere = render(replace(item, context=about_other, prompt=None))
        if elsewhere.prompt is None:
            raise DataError(f"tune.task: query '{item.example.id}' with the image of '{other.id}': {elsewhere.failure}")
        return [(item.prompt, answer), (elsewhere.prompt, item.example.answer)]

    def _other(self, item: PromptItem) -> "tuple[Example, str]":
        """The member of the pool, and its answer in the names of the demonstrations."""
        query, context = self.queries[item.example.id], item.context
        pool = self.retrieval.task.pool(query.id)
        if not query.images:
            raise DataError(f"tune.task: query '{query.id}' has no image, which objective: realign replaces.")
        available = sum(map(EXCLUDE_LEAKS.allowed_for(query.query), pool.examples))
        for count in dict.fromkeys((min(FIRST, available), available)):
            cell = replace(item.spec.cell, retriever=self.retriever, rerankers=(), shots=count)
            [[ranking]] = self.retrieval.plan([cell], [query]).values()
            if isinstance(ranking, str):
                raise DataError(f"tune.nearest: query '{query.id}': {ranking}")
            for one in ranking:
                other = pool.by_id[one.id]
                answer = context.label_map.get(other.answer, other.answer) if context.relabels_gold else other.answer
                if other.images and _is_wrong(answer, item.example):
                    return other, answer
        raise DataError(
            f"tune.task: query '{query.id}' has no other image for realign: none of the {available} other members of "
            "its pool has an image and another answer. Use a task with a larger pool, or objective: dpo."
        )


def _is_wrong(answer: str, example: "Example") -> bool:
    return normalize_text(answer) not in {normalize_text(one) for one in example.answers}
