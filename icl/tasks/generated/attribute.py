"""Attribute selection: "which one is it?" is about color, shape, texture or size, and only the demonstrations show
which.

All demonstrations of a query answer with one attribute. A model that ignores them can only guess which of four true
answers is meant.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

from icl import Example, Pool, StreamKey, component, later_parameter
from icl.tasks.generated import ATTRIBUTE_QUESTIONS, ATTRIBUTES, CONCEPT_SETS, SIZES, TEXTURES, Drawing
from icl.tasks.generated.episode import BankTask, balanced_choice, choice, query_id, query_number, shuffled


@component("task", "attribute")
@dataclass(frozen=True)
class AttributeTask(BankTask):
    """Questions about color, shape, texture or size; only the demonstrations show which one is meant.

    The four attributes are equally frequent. The options are the four true answers for the query's image, always in the
    order color, shape, texture, size. Option scoring tests the choice of the attribute (chance 1/4), free answers also
    test the reading of the image.
    """

    concept_set: Literal["held_out", "seen", "all"] = "held_out"  # pairs of color and shape that images may show
    attribute: Literal["color", "shape", "texture", "size"] | None = later_parameter(None)  # of all queries; null: all

    @property
    def title(self) -> str:
        return f"attribute · {self.attribute}" if self.attribute else "attribute"

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        return tuple(self._query(number) for number in range(self.query_limit))

    def pool(self, query_id: str) -> Pool:
        return _pool(self, query_number("attribute", query_id, self.query_limit))

    def _query(self, number: int) -> Example:
        name = query_id("attribute", number)
        attribute_name: str = self.attribute or balanced_choice(self.seed, "attribute/asked", number, ATTRIBUTES)
        return self._example(name, f"query/{name}", attribute_name)

    def _example(self, name: str, image: str, attribute_name: str) -> Example:
        stream = f"attribute/{self.concept_set}/{image}"
        rng = StreamKey(self.seed, stream).numpy("facts")
        color, shape = choice(rng, CONCEPT_SETS[self.concept_set])
        facts = {"color": color, "shape": shape, "texture": choice(rng, TEXTURES), "size": choice(rng, tuple(SIZES))}
        return Example(
            id=name,
            images=(
                Drawing(
                    self.seed,
                    stream,
                    "single",
                    color=color,
                    shape=shape,
                    texture=facts["texture"],
                    size=facts["size"],
                ).image,
            ),
            question=ATTRIBUTE_QUESTIONS[0],
            answers=(facts[attribute_name],),
            options=tuple(facts[attribute] for attribute in ATTRIBUTES),
            label=facts[attribute_name],
            secret={"asked": attribute_name, **facts},
        )


@lru_cache(maxsize=512)
def _pool(task: AttributeTask, number: int) -> Pool:
    query = task._query(number)
    chosen = shuffled(StreamKey(task.seed, query.id).numpy("pool"), range(task.bank))[: task.support]
    attribute_name = query.secret["asked"]
    return Pool(tuple(task._example(f"{query.id}-s{i:03d}", f"bank/{k}", attribute_name) for i, k in enumerate(chosen)))
