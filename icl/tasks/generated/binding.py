"""Fast binding of made-up names to concepts, as in VL-ICL's open-ended fast binding (Zong et al., ICLR 2025).

Every query draws its own concepts and names, so only its demonstrations contain the answer. Without them accuracy is at
chance, and knowledge of the concept does not help. Each query has its own support pool, with equally many images of
each concept in alternation.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

from icl import ConfigError, Example, GeneratedCount, Pool, PositiveInt, StreamKey, component, parameter
from icl.tasks.generated import CONCEPT_SETS, Drawing, choice, query_id, query_number, shuffled
from icl.tasks.generated.wording import ATTRIBUTE_WORDS, BINDING_QUESTIONS, HINTED_BINDING_QUESTIONS, NONCE
from icl.tasks.generated.world import MAX_COUNT, SIZES, TEXTURES

By = Literal["pair", "color", "shape", "texture", "size", "count"]
Value = str | int | tuple[str, str]


@component("task", "binding")
@dataclass(frozen=True)
class BindingTask:
    """Made-up names for concepts, new for every query: only the demonstrations tell the name of its image.

    The options are the names of `ways` concepts, the query's among them. If the pool has more concepts than ways, the
    others are named in it too but are not options, so a retriever has to leave them out. Images of the pool come from a
    bank that all queries share, so each is encoded once in a run. The query's image is never in the bank.
    """

    ways: PositiveInt = 2  # number of names among the options; chance is 1 / ways
    by: By = "pair"  # property that distinguishes the concepts; pair: color and shape together
    similar: bool = False  # whether the concepts of a query share a color or a shape with one of them (pairs only)
    hint: bool = False  # whether the question names the distinguishing attribute (not for pairs)
    support: GeneratedCount = 8  # images of each concept in a query's pool
    concepts: PositiveInt | None = None  # concepts in a query's pool, at least `ways`; None: as many as ways
    concept_set: Literal["held_out", "seen", "all"] = "held_out"  # pairs of color and shape that images may show
    bank: GeneratedCount = 32  # images of each concept in the bank of all pools, at least `support`
    query_limit: GeneratedCount = parameter("queries", 200)  # number of queries
    seed: int = 0  # random seed of the task, independent of the seeds of a run

    def __post_init__(self) -> None:
        if self.similar and self.by != "pair":
            raise ConfigError(f"similar: true is for pairs of color and shape, not for concepts by {self.by}.")
        values = min(len(_similar_concepts(self, value)) for value in self.values)
        if not self.ways <= self.in_pool <= values:
            raise ConfigError(
                f"{self.ways} ways and {self.in_pool} concepts in the pool do not fit: it takes ways <= concepts <= "
                f"{values}, the number of {'similar ' * self.similar}concepts by {self.by} ({self.concept_set})."
            )
        if self.support > self.bank:
            raise ConfigError(f"support {self.support} is more than the bank of {self.bank} images of a concept.")
        if self.hint and self.by == "pair":
            raise ConfigError("hint: true needs 'by' to be one attribute; a pair of color and shape has no name.")

    @property
    def in_pool(self) -> int:
        return self.concepts or self.ways

    @property
    def title(self) -> str:
        parts = [f"{self.ways}-way", *(() if self.by == "pair" else (f"by {self.by}",))]
        parts += ["similar"] * self.similar + [f"{self.in_pool} concepts"] * (self.in_pool > self.ways)
        return " · ".join(["binding", *parts])

    @cached_property
    def values(self) -> tuple[Value, ...]:
        """All concepts."""
        pairs = CONCEPT_SETS[self.concept_set]
        every: dict[By, tuple[Value, ...]] = {
            "pair": pairs,
            "color": tuple(dict.fromkeys(color for color, _ in pairs)),
            "shape": tuple(dict.fromkeys(shape for _, shape in pairs)),
            "texture": TEXTURES,
            "size": tuple(SIZES),
            "count": tuple(range(1, MAX_COUNT + 1)),
        }
        return every[self.by]

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        return tuple(_Episode(self, number).query for number in range(self.query_limit))

    def pool(self, query_id: str) -> Pool:
        return _pool(self, query_number("binding", query_id, self.query_limit))

    @property
    def pool_size(self) -> int:
        return self.in_pool * self.support

    @property
    def question(self) -> str:
        if self.hint:
            return HINTED_BINDING_QUESTIONS[0].format(attribute=ATTRIBUTE_WORDS[self.by])
        return BINDING_QUESTIONS[0]


class _Episode:
    """One query with its concepts and their names. The first `ways` are options, the query's is one of them."""

    def __init__(self, task: BindingTask, number: int) -> None:
        self.task, self.id = task, query_id("binding", number)
        self.rng = StreamKey(task.seed, self.id).numpy("episode")
        self.concepts = shuffled(self.rng, _similar_concepts(task, choice(self.rng, task.values)))[: task.in_pool]
        self.names = shuffled(self.rng, NONCE)[: task.in_pool]
        self.queried_concept = int(self.rng.integers(task.ways))

    @property
    def query(self) -> Example:
        drawing = _drawing(self.task, self.concepts[self.queried_concept], f"query/{self.id}")
        return self._example(self.id, self.queried_concept, drawing, self.task.ways)

    @property
    def pool(self) -> Pool:
        bank_places = [shuffled(self.rng, range(self.task.bank))[: self.task.support] for _ in self.concepts]
        turns = [
            (which, bank_places[which][turn])
            for turn in range(self.task.support)
            for which in shuffled(self.rng, range(len(self.concepts)))
        ]
        return Pool(
            tuple(
                self._example(
                    f"{self.id}-s{i:03d}",
                    which,
                    _drawing(self.task, self.concepts[which], f"bank/{place}"),
                    len(bank_places),
                )
                for i, (which, place) in enumerate(turns)
            )
        )

    def _example(self, name: str, which: int, drawing: Drawing, options: int) -> Example:
        concept = self.concepts[which]
        return Example(
            id=name,
            images=(drawing.image,),
            question=self.task.question,
            answers=(self.names[which],),
            options=tuple(self.names[:options]),
            label=self.names[which],
            meta={"by": self.task.by, "ways": self.task.ways},
            secret={"concept": list(concept) if isinstance(concept, tuple) else concept},
        )


def _similar_concepts(task: BindingTask, value: Value) -> tuple[Value, ...]:
    """All concepts, or those that share a color or a shape with this one if `similar` is set."""
    if not task.similar or not isinstance(value, tuple):
        return task.values
    color, shape = value
    return tuple(pair for pair in CONCEPT_SETS[task.concept_set] if pair[0] == color or pair[1] == shape)


@lru_cache(maxsize=512)
def _pool(task: BindingTask, number: int) -> Pool:
    return _Episode(task, number).pool


@lru_cache(maxsize=4096)
def _drawing(task: BindingTask, concept: Value, name: str) -> Drawing:
    """An image of a concept. What the concept does not fix is random, within the allowed pairs."""
    stream = f"binding/{task.concept_set}/{task.by}/{concept}/{name}"
    fixed = dict(zip(("color", "shape"), concept, strict=True)) if isinstance(concept, tuple) else {task.by: concept}
    pairs = [
        (color, shape)
        for color, shape in CONCEPT_SETS[task.concept_set]
        if fixed.get("color", color) == color and fixed.get("shape", shape) == shape
    ]
    fixed["color"], fixed["shape"] = choice(StreamKey(task.seed, stream).numpy("concept"), pairs)
    return Drawing(task.seed, stream, "count" if task.by == "count" else "single", **fixed)  # type: ignore[arg-type]
