"""Training episodes: prompts of a training task with the demonstrations that the study's own components choose.

An epoch passes over all queries once, in an order of its own and with demonstrations of its own: the epoch's number is
added to the seed. So an episode depends on the settings and the step alone, not on what was computed before.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING

from experiments.contexts.contexts import Retrieval, build_contexts, prompt_specs, render
from experiments.tuning.alternatives import Alternatives, MakeAlternatives, no_alternatives
from icl.errors import DataError
from icl.streams import StreamKey

if TYPE_CHECKING:
    from experiments.grid.grid import Cell
    from icl.types import Example, Prompt
    from retrievers.base import Retriever


@dataclass(frozen=True, eq=False)
class Episode:
    """A prompt and the answer that the model learns to give.

    Attributes:
        alternatives: Prompts with answers that the answer is preferred to.
    """

    prompt: "Prompt"
    answer: str
    alternatives: Alternatives = field(default_factory=list)


class EpisodeStream:
    """The episodes of one cell, step by step.

    Attributes:
        cell: Task, retriever, order, transforms and composer of the episodes.
        batch: Episodes of a step.
        alternatives: Makes what the answer of an episode is preferred to.
        relations: Retrievers of which each episode draws one. Empty: that of the cell.
        shots: Numbers of shots of which each episode draws one. Empty: that of the cell.
    """

    def __init__(
        self,
        cell: "Cell",
        batch: int,
        alternatives: MakeAlternatives = no_alternatives,
        relations: "Sequence[Retriever]" = (),
        shots: Sequence[int] = (),
    ) -> None:
        self.cell, self.batch, self.alternatives = cell, batch, alternatives
        self.relations = relations if cell.shots else ()
        self.shots = (shots if cell.shots else ()) or (cell.shots,)
        self.queries = cell.task.queries
        if not self.queries:
            raise DataError("tune.task: the training task has no queries.")
        self.epoch, self.order, self.retrieval = -1, [0], Retrieval(cell.task, cell.model)

    def episodes(self, step: int) -> list[Episode]:
        """The episodes of a step. Raises DataError if no query of the step has a prompt."""
        made: list[Episode] = []
        problem = ""
        for number in range(step * self.batch, (step + 1) * self.batch):
            episode, why = self._episode(*divmod(number, len(self.queries)))
            problem = why or problem
            made += [] if episode is None else [episode]
        if not made:
            raise DataError(f"tune.task: no episode of step {step + 1} has a prompt: {problem}")
        return made

    def prompts(self) -> "Iterator[Prompt]":
        """The prompts of all steps, without end."""
        for step in count():
            yield from (one.prompt for one in self.episodes(step))

    def _episode(self, epoch: int, place: int) -> tuple[Episode | None, str]:
        """The episode at one place of an epoch, or why it has no prompt."""
        if epoch != self.epoch:
            key = StreamKey(self.cell.seed, f"tune/epoch/{epoch}")
            self.epoch, self.order = epoch, key.order("tune/queries", [query.id for query in self.queries])
            self.retrieval = Retrieval(self.cell.task, self.cell.model)
        return self._make(self.queries[self.order[place]], epoch)

    def _make(self, query: "Example", epoch: int) -> tuple[Episode | None, str]:
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


def _random_place(key: StreamKey, factor: str, count: int) -> int:
    """A random number below `count`."""
    return key.order(factor, [str(i) for i in range(count)])[0]
