"""Captions of scenes in 8 to 20 words, to measure hallucinated objects (CHAIR, Rohrbach et al., EMNLP 2018)."""

from dataclasses import dataclass
from typing import ClassVar

from icl import Example, component
from icl.tasks.generated import CAPTION_QUESTIONS, CONCEPTS, NumberedTask, Split, caption, groups_of, noun, scene

VOCABULARY = tuple(noun(concept) for concept in CONCEPTS)
"""Every object that a caption can name: the vocabulary of CHAIR."""


@component("task", "captions")
@dataclass(frozen=True)
class CaptionsTask(NumberedTask):
    """Captions of scenes. The answer is one reference caption, and the objects of the scene are stored for CHAIR.

    There are no options. Score captions with `chair_i`, `chair_s` and `chair_recall`; `strict` requires the exact
    words.
    """

    called: ClassVar[str] = "captions"
    title: ClassVar[str] = "captions"

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
