"""Matching pairs, as in VL-ICL (Zong et al., ICLR 2025): do two images have the relation of the demonstrations?

The question does not say what must be equal (the concept, the color or the shape). VL-ICL's shot is a same pair
followed by a different one, always in this order. So the last answer is always "no", and a model that copies it says
"no" to everything. Here every two pairs of the pool have one of each in a random order, as do the queries.
`official_order` has the pool in the published order, for retrievers that keep it.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from icl import Example, GeneratedCount, StreamKey, component, parameter
from icl.tasks.generated import CONCEPT_SETS, Concept, Drawing, NumberedTask, Split, balanced_choice, choice

QUESTION = "do they match?"
ANSWERS = ("yes", "no")


@component("task", "matching")
@dataclass(frozen=True)
class MatchingTask(NumberedTask):
    """Yes/no questions whether two images match; only the demonstrations show what must be equal.

    Half of the queries and half of the pool are yes. All queries share the pool, and none of its images belongs to a
    query.
    """

    called: ClassVar[str] = "matching"

    by: Literal["pair", "color", "shape"] = "pair"  # property that is equal in a match; pair: color and shape together
    concept_set: Literal["held_out", "seen", "all"] = "held_out"  # pairs of color and shape that images may show
    official_order: bool = False  # whether the pool is always yes, no, yes, no
    support: GeneratedCount = parameter("pool_size", 200)  # pairs of images in the pool

    @property
    def title(self) -> str:
        return "matching" if self.by == "pair" else f"matching · by {self.by}"

    def is_match(self, one: Concept, other: Concept) -> bool:
        """Whether two concepts match."""
        return {"pair": one == other, "color": one[0] == other[0], "shape": one[1] == other[1]}[self.by]

    def example(self, split: Split, number: int, name: str) -> Example:
        answer = balanced_choice(self.seed, f"matching/{split}/answer", number, ANSWERS)
        if self.official_order and split == "pool":
            answer = ANSWERS[number % 2]
        stream = f"matching/{self.concept_set}/{self.by}/{split}/{number}"
        rng = StreamKey(self.seed, stream).numpy("concepts")
        concepts = CONCEPT_SETS[self.concept_set]
        one = choice(rng, concepts)
        other = choice(rng, [concept for concept in concepts if self.is_match(one, concept) == (answer == "yes")])
        drawings = (
            Drawing(self.seed, f"{stream}/{place}", "single", color=color, shape=shape)
            for place, (color, shape) in enumerate((one, other))
        )
        return Example(
            id=name,
            images=tuple(drawing.image for drawing in drawings),
            question=QUESTION,
            answers=(answer,),
            options=ANSWERS,
            label=answer,
            secret={"concepts": [list(one), list(other)]},
        )
