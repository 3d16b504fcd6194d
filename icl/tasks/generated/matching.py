"""Matching pairs, as in VL-ICL (Zong et al., ICLR 2025): do two images stand in the relation of the demonstrations?

What has to be alike (the concept, the color or the shape) is nowhere said. VL-ICL's shot is a same pair followed by a
different one, always in this order, so the last answer is always "no", and who copies it says "no" to everything.
Here every two pairs of the pool hold one of each in a drawn order, and the queries likewise; `official_order` has the
pool's as published, for retrievers that keep it.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from icl.constraints import GeneratedCount
from icl.registry import component, parameter
from icl.streams import StreamKey
from icl.tasks.generated.drawing import CONCEPT_SETS, Drawing
from icl.tasks.generated.episode import SharedPoolTask, Split, balanced_choice, choice
from icl.tasks.generated.world import Concept
from icl.types import Example

QUESTION = "do they match?"
ANSWERS = ("yes", "no")


@component("task", "matching")
@dataclass(frozen=True)
class MatchingTask(SharedPoolTask):
    """Yes or no: do the two images match? Only the demonstrations tell what has to be alike.

    Half of the queries and half of the pool are yes. All queries share the pool; its images are no query's.
    """

    called: ClassVar[str] = "matching"

    by: Literal["pair", "color", "shape"] = "pair"  # what is alike in a match; pair: color and shape together
    concept_set: Literal["held_out", "seen", "all"] = "held_out"  # pairs of color and shape that images may show
    official_order: bool = False  # the pool is yes, no, yes, no throughout
    query_limit: GeneratedCount = parameter("queries", 200)  # how many are asked
    support: GeneratedCount = parameter("pool_size", 200)  # pairs of images in the pool
    seed: int = 0  # of the task; the seeds of a run do not change it

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
