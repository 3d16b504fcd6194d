"""Object existence in the three samplings of POPE (Li et al., EMNLP 2023): "is there a red circle in the image?".

The objects of "yes" questions are in the scene. Those of "no" questions are absent, and drawn

    random        uniformly from all absent objects
    popular       from the ten most frequent absent objects
    adversarial   from the absent objects that most often occur with a present one (its companion);
                  as popular if every companion is present

POPE takes popular and adversarial objects in the order of their frequency. With few questions for each image, that
repeats the same objects again and again, and any demonstration answers them. So this task draws from the first ones.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from icl import ConfigError, Example, Fraction, GeneratedCount, PositiveInt, StreamKey, component, parameter
from icl.tasks.generated import EXISTENCE_QUESTIONS, NumberedTask, Split, groups_of, noun, scene, shuffled, with_article
from icl.tasks.generated.world import CONCEPTS, MAX_GROUPS, Concept, companion, popularity

FREQUENT = 10  # number of the most frequent absent objects that 'popular' draws from
Sampling = Literal["random", "popular", "adversarial"]


@component("task", "existence")
@dataclass(frozen=True)
class ExistenceTask(NumberedTask):
    """Yes/no questions about objects in scenes, in POPE's random, popular and adversarial samplings.

    A method that only says yes more often gains at one ratio of labels and loses at another: run `yes_ratio` .25, .5
    and .75. Questions about one image share a group. Questions with the same number have the same scene in every
    sampling, so samplings are paired. The pool is sampled like the queries, from other scenes.
    """

    called: ClassVar[str] = "existence"

    sampling: Sampling = "random"  # sampling of absent objects
    yes_ratio: Fraction = 0.5  # share of questions with the answer yes, in queries and pool
    per_image: PositiveInt = 2  # questions about one image, each about a different object (POPE: 6)
    query_limit: GeneratedCount = parameter("queries", 300)  # number of queries
    support: GeneratedCount = parameter("pool_size", 200)  # questions in the pool

    def __post_init__(self) -> None:
        if np.ceil(self.per_image * self.yes_ratio) > MAX_GROUPS:
            raise ConfigError(
                f"per_image {self.per_image} with yes_ratio {self.yes_ratio} needs more than {MAX_GROUPS} objects "
                f"in a scene. Use fewer questions per image."
            )
        if self.per_image > FREQUENT:
            raise ConfigError(f"per_image {self.per_image} is more than {FREQUENT}.")

    @property
    def title(self) -> str:
        return f"existence · {self.sampling}"

    def example(self, split: Split, number: int, name: str) -> Example:
        image, place = divmod(number, self.per_image)
        stream = f"existence/{split}/{image}"
        yes = self._yes(image)
        drawing = scene(self.seed, stream, max(yes, 1))
        present = [group.concept for group in groups_of(drawing)]
        rng = StreamKey(self.seed, stream)
        questions = [(concept, "yes") for concept in shuffled(rng.numpy("present"), present)[:yes]]
        absent = _absent(rng.numpy("absent"), present, self.sampling)[: self.per_image - yes]
        questions += [(concept, "no") for concept in absent]
        concept, answer = shuffled(rng.numpy("order"), questions)[place]
        return Example(
            id=name,
            images=(drawing.image,),
            question=EXISTENCE_QUESTIONS[0].format(noun=with_article(noun(concept))),
            answers=(answer,),
            options=("yes", "no"),
            label=answer,
            group=f"existence-{split}-image-{image}",
            meta={"sampling": self.sampling, "object": noun(concept)},
            secret={"objects": [noun(concept) for concept in present]},
        )

    def _yes(self, image: int) -> int:
        """Number of yes questions for this image. The share is exact over all images."""
        share = self.per_image * self.yes_ratio
        return int((image + 1) * share + 1e-9) - int(image * share + 1e-9)


def _absent(rng: np.random.Generator, present: list[Concept], sampling: Sampling) -> list[Concept]:
    """Absent objects in the order of the questions."""
    absent = [concept for concept in CONCEPTS if concept not in present]
    if sampling == "random":
        return shuffled(rng, absent)
    frequent = shuffled(rng, sorted(absent, key=lambda c: -popularity(c))[:FREQUENT])
    if sampling == "popular":
        return frequent
    companions = [companion(concept) for concept in present if companion(concept) in absent]
    companions = shuffled(rng, list(dict.fromkeys(companions)))
    return companions + [concept for concept in frequent if concept not in companions]
