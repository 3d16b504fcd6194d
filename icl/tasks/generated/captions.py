"""Describing scenes: captions of 8 to 20 words, for what a decoder invents (CHAIR, Rohrbach et al., EMNLP 2018)."""

from dataclasses import dataclass
from typing import ClassVar

from icl.constraints import GeneratedCount
from icl.registry import component, parameter
from icl.tasks.generated.episode import SharedPoolTask, Split
from icl.tasks.generated.scene import groups_of, noun, scene
from icl.tasks.generated.wording import CAPTION_QUESTIONS, caption
from icl.tasks.generated.world import CONCEPTS
from icl.types import Example

VOCABULARY = tuple(noun(concept) for concept in CONCEPTS)
"""Every object that a caption can name: what CHAIR looks for."""


@component("task", "captions")
@dataclass(frozen=True)
class CaptionsTask(SharedPoolTask):
    """Describe the image: the answer is one reference caption; what is in the scene is kept for CHAIR.

    There are no options. Score captions with `chair_i`, `chair_s` and `chair_recall`; strict asks for the very words.
    """

    called: ClassVar[str] = "captions"

    query_limit: GeneratedCount = parameter("queries", 200)  # how many are asked
    support: GeneratedCount = parameter("pool_size", 100)  # scenes in the pool
    seed: int = 0  # of the task; the seeds of a run do not change it

    @property
    def title(self) -> str:
        return "captions"

    def example(self, split: Split, number: int, name: str) -> Example:
        drawing = scene(self.seed, f"captions/{split}/{number}")
        groups = groups_of(drawing)
        return Example(
            id=name,
            images=(drawing.image,),
            question=CAPTION_QUESTIONS[0],
            answers=(caption(groups),),
            secret={"objects": [noun(group.concept) for group in groups], "vocabulary": VOCABULARY},
        )
