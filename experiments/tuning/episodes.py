"""Training episodes: prompts of a training task with the demonstrations that the study's own components choose.

An epoch passes over all queries once, in an order of its own and with demonstrations of its own: the epoch's number is
added to the seed. So an episode depends on the settings and the step alone, not on what was computed before.

What an answer is preferred to depends on the objective. An alternative is a prompt and an answer to it:

    sft        nothing
    dpo        another answer to the same prompt: another option, or another answer of the demonstrations
    realign    the answer of the nearest other image to the same prompt, and the same answer to that other image
    cal        nothing; the base model reads the same answer after the prompt without the query's images

`realign` is Re-Align (Xing et al., 2025). The nearest other image belongs to the first member of the query's pool with
another answer, in the order of a retriever.

Differs from the released code in the rejected answer: there a model rewrites parts of a long answer while it looks at
the other image. Here it is the answer that the data give for that image.
"""

from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, count

from experiments.contexts.contexts import PromptItem, Retrieval, build_contexts, prompt_specs, render
from experiments.grid.grid import Cell
from icl import DataError, Example, Prompt, StreamKey, spans
from icl.metrics import is_accepted
from retrievers import EXCLUDE_LEAKS, Retriever

Alternatives = list["tuple[Prompt, str]"]
"""Prompts, each with an answer that is worse than the episode's."""
MakeAlternatives = Callable[[PromptItem], Alternatives]
"""The alternatives of a rendered item. Raises DataError if there are none."""

FIRST = 16
"""Members of a large pool that are ranked first. The others are ranked if all of these have the query's answer."""


def no_alternatives(item: PromptItem) -> Alternatives:
    """No alternative: the answer is learned as it is."""
    return []


@dataclass(frozen=True, eq=False)
class Episode:
    """A prompt and the answer that the model learns to give.

    Attributes:
        alternatives: Prompts with answers that the answer is preferred to.
    """

    prompt: Prompt
    answer: str
    alternatives: Alternatives = field(default_factory=list)


class Episodes:
    """The episodes of a training, step by step.

    Attributes:
        batch: Episodes of a step.
        queries: The training queries.
    """

    batch: int
    queries: Sequence[Example]

    def episode(self, number: int) -> tuple[Episode | None, str]:
        """The episode of a number, counted from 0, or why it has no prompt."""
        raise NotImplementedError

    def episodes(self, step: int) -> list[Episode]:
        """The episodes of a step. Raises DataError if no query of the step has a prompt."""
        made: list[Episode] = []
        problem = ""
        for number in range(step * self.batch, (step + 1) * self.batch):
            episode, why = self.episode(number)
            problem = why or problem
            made += [] if episode is None else [episode]
        if not made:
            raise DataError(f"tune.task: no episode of step {step + 1} has a prompt: {problem}")
        return made

    def prompts(self) -> Iterator[Prompt]:
        """The prompts of all steps, without end."""
        for step in count():
            yield from (one.prompt for one in self.episodes(step))


class EpisodeStream(Episodes):
    """The episodes of one cell.

    Attributes:
        cell: Task, retriever, order, transforms and composer of the episodes.
        batch: Episodes of a step.
        alternatives: Makes what the answer of an episode is preferred to.
        relations: Retrievers; each episode draws one of them. Empty: the cell's retriever.
        shots: Numbers of shots; each episode draws one of them. Empty: the cell's number.
    """

    def __init__(
        self,
        cell: Cell,
        batch: int,
        alternatives: MakeAlternatives = no_alternatives,
        relations: Sequence[Retriever] = (),
        shots: Sequence[int] = (),
    ) -> None:
        self.cell, self.batch, self.alternatives = cell, batch, alternatives
        self.relations = relations if cell.shots else ()
        self.shots = (shots if cell.shots else ()) or (cell.shots,)
        self.queries = cell.task.queries
        if not self.queries:
            raise DataError("tune.task: the training task has no queries.")
        self.epoch, self.order, self.retrieval = -1, [0], Retrieval(cell.task, cell.model)

    def episode(self, number: int) -> tuple[Episode | None, str]:
        """The episode of a number, counted from 0, or why it has no prompt."""
        epoch, place = divmod(number, len(self.queries))
        if epoch != self.epoch:
            key = StreamKey(self.cell.seed, f"tune/epoch/{epoch}")
            self.epoch, self.order = epoch, key.order("tune/queries", [query.id for query in self.queries])
            self.retrieval = Retrieval(self.cell.task, self.cell.model)
        return self._make(self.queries[self.order[place]], epoch)

    def _make(self, query: Example, epoch: int) -> tuple[Episode | None, str]:
        key = StreamKey(self.cell.seed + epoch, query.id)
        cell = replace(self.cell, seed=key.seed, shots=self.shots[_random_place(key, "tune/shots", len(self.shots))])
        if self.relations:
            relation = self.relations[_random_place(key, "tune/relation", len(self.relations))]
            cell = replace(cell, retriever=relation, rerankers=())
        [[item]] = build_contexts(self.retrieval, prompt_specs([cell]), [query])
        item = render(item)
        if item.prompt is None:
            return None, str(item.failure)
        return Episode(item.prompt, item.example.answer, self.alternatives(item)), ""


class MixedStream(Episodes):
    """The episodes of several tasks, each in its own stream's order.

    `mixed` draws the task of each episode, with a chance of its share. `sequential` passes from one task to the next
    after its share of all episodes. Bhasin et al. (2404.03558) compare such curricula.

    Attributes:
        streams: The stream of each task.
        ends: Cumulative shares of the tasks.
        total: Episodes of the training, of `sequential`; None: mixed.
    """

    def __init__(self, streams: Sequence[EpisodeStream], shares: Sequence[float], seed: int, total: int | None) -> None:
        self.streams, self.seed, self.total, self.batch = streams, seed, total, streams[0].batch
        self.queries = [query for stream in streams for query in stream.queries]
        whole = sum(shares)
        self.ends = [end / whole for end in accumulate(shares)]
        self.places: list[tuple[int, int]] = []
        self.counts = [0] * len(streams)

    def episode(self, number: int) -> tuple[Episode | None, str]:
        """The episode of a number, counted from 0, or why it has no prompt."""
        for n in range(len(self.places), number + 1):
            at = StreamKey(self.seed, f"tune/{n}").numpy("tune/task").random() if self.total is None else n / self.total
            task = min(bisect(self.ends, at), len(self.streams) - 1)
            self.places.append((task, self.counts[task]))
            self.counts[task] += 1
        task, place = self.places[number]
        return self.streams[task].episode(place)


def _random_place(key: StreamKey, factor: str, count: int) -> int:
    """A random number below `count`."""
    return key.order(factor, [str(i) for i in range(count)])[0]


def wrong_answer(item: PromptItem) -> Alternatives:
    """The same prompt with another option of its query, or with another answer of its demonstrations."""
    assert item.prompt is not None
    candidates = item.example.options or [demo.example.answer for demo in item.context.demos]
    wrong = [one for one in candidates if not is_accepted(one, item.example.answers)]
    if not wrong:
        raise DataError(
            f"tune.task: query '{item.example.id}' has no wrong answer for dpo: neither an option nor a demonstration "
            "has another answer. Use a task with options, or more demonstrations, or objective: sft."
        )
    key = StreamKey(item.spec.cell.seed, item.example.id)
    return [(item.prompt, wrong[key.order("tune/rejected", wrong)[0]])]


def without_image(item: PromptItem) -> Alternatives:
    """The answer after the prompt without the query's images."""
    assert item.prompt is not None
    blind = item.prompt.map(lambda part: None if part.image and spans.owner_of(part.name) == spans.QUERY else part)
    if len(blind.images) == len(item.prompt.images):
        raise DataError(f"tune.task: query '{item.example.id}' has no image, which objective: cal leaves out.")
    return [(blind, item.example.answer)]


class NearestImage:
    """Alternatives from the nearest other image of the query's pool with another answer.

    Attributes:
        retriever: Ranks the pool.
    """

    def __init__(self, cell: Cell, retriever: Retriever) -> None:
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

    def _other(self, item: PromptItem) -> tuple[Example, str]:
        """The member of the pool, and its answer in the names of the demonstrations."""
        query, context = self.queries[item.example.id], item.context
        pool = self.retrieval.task.pool(query.id)
        if not query.images:
            raise DataError(f"tune.task: query '{query.id}' has no image, which objective: realign replaces.")
        available = sum(map(EXCLUDE_LEAKS.allowed_for(query.query), pool.examples))
        for shots in dict.fromkeys((min(FIRST, available), available)):
            cell = replace(item.spec.cell, retriever=self.retriever, rerankers=(), shots=shots)
            [[ranking]] = self.retrieval.plan([cell], [query]).values()
            if isinstance(ranking, str):
                raise DataError(f"tune.nearest: query '{query.id}': {ranking}")
            for one in ranking:
                other = pool.by_id[one.id]
                answer = context.label_map.get(other.answer, other.answer) if context.relabels_gold else other.answer
                if other.images and not is_accepted(answer, item.example.answers):
                    return other, answer
        raise DataError(
            f"tune.task: query '{query.id}' has no other image for realign: none of the {available} other members of "
            "its pool has an image and another answer. Use a task with a larger pool, or objective: dpo."
        )
