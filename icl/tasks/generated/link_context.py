"""Link-context episodes (Tai et al., CVPR 2024): one concept under a made-up name, a neighbor under its true name.

Each query has a positive concept with a made-up name and a neighbor, which shares its color or its shape and keeps its
true name ("red star"). The released test always asks about the positive one, so the made-up name is always right. Here
the query shows either with equal chance, as in the paper's training. The paper counts an output as right if it has the
right name and not the other one. This is `lenient` with both names as options.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import ClassVar, Literal

from icl import ConfigError, Example, GeneratedCount, Pool, StreamKey, component, parameter
from icl.tasks.generated import BINDING_QUESTIONS, CONCEPT_SETS, NONCE, Concept, Drawing, noun
from icl.tasks.generated.episode import balanced_choice, choice, query_id, query_number, shuffled

SIDES = ("positive", "neighbor")


@component("task", "link_context")
@dataclass(frozen=True)
class LinkContextTask:
    """Questions about two similar concepts, one under a made-up name and one under its own.

    Each query has its own pool, with equally many images of both. Every two have one of each, in a random order.
    """

    title: ClassVar[str] = "link context"

    support: GeneratedCount = 8  # images of each of the two concepts in a query's pool
    bank: GeneratedCount = 32  # images of each concept in the bank of all pools, at least `support`
    concept_set: Literal["held_out", "seen", "all"] = "held_out"  # pairs of color and shape that images may show
    query_limit: GeneratedCount = parameter("queries", 200)  # number of queries
    seed: int = 0  # random seed of the task, independent of the seeds of a run

    def __post_init__(self) -> None:
        if self.support > self.bank:
            raise ConfigError(f"support {self.support} is more than the bank of {self.bank} images of a concept.")

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        return tuple(_Episode(self, number).query for number in range(self.query_limit))

    def pool(self, query_id: str) -> Pool:
        return _pool(self, query_number("link_context", query_id, self.query_limit))

    @property
    def pool_size(self) -> int:
        return 2 * self.support


class _Episode:
    """One query: its two concepts, their names, and which of them it shows."""

    def __init__(self, task: LinkContextTask, number: int) -> None:
        self.task, self.id = task, query_id("link_context", number)
        self.rng = StreamKey(task.seed, self.id).numpy("episode")
        concepts = CONCEPT_SETS[task.concept_set]
        positive = choice(self.rng, concepts)
        near = [c for c in concepts if c != positive and (c[0] == positive[0] or c[1] == positive[1])]
        neighbor = choice(self.rng, near)
        self.concepts = {"positive": positive, "neighbor": neighbor}
        self.names = {"positive": choice(self.rng, NONCE), "neighbor": noun(neighbor)}
        self.options = tuple(shuffled(self.rng, list(self.names.values())))
        self.queried_side = balanced_choice(task.seed, "link_context/asked", number, SIDES)

    @property
    def query(self) -> Example:
        return self._example(self.id, self.queried_side, f"query/{self.id}")

    @property
    def pool(self) -> Pool:
        bank_places = {side: shuffled(self.rng, range(self.task.bank))[: self.task.support] for side in SIDES}
        turns = [
            (side, bank_places[side][turn]) for turn in range(self.task.support) for side in shuffled(self.rng, SIDES)
        ]
        numbered = enumerate(turns)
        return Pool(tuple(self._example(f"{self.id}-s{i:03d}", side, f"bank/{k}") for i, (side, k) in numbered))

    def _example(self, name: str, side: str, image: str) -> Example:
        color, shape = concept = self.concepts[side]
        return Example(
            id=name,
            images=(Drawing(self.task.seed, _stream(concept, image), "single", color=color, shape=shape).image,),
            question=BINDING_QUESTIONS[0],
            answers=(self.names[side],),
            options=self.options,
            label=self.names[side],
            secret={"side": side, "concept": list(concept)},
        )


def _stream(concept: Concept, image: str) -> str:
    return f"link_context/{concept}/{image}"


@lru_cache(maxsize=512)
def _pool(task: LinkContextTask, number: int) -> Pool:
    return _Episode(task, number).pool
