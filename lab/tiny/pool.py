"""Thousands of images, with their facts as rows of integers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icl.tasks.generated.world import (
    COLORS,
    CONCEPTS,
    KINDS,
    MAX_TOTAL,
    PLACES,
    SHAPES,
    SIDE,
    SIZES,
    TEXTURES,
    Concept,
    ImageFacts,
    Kind,
    draw,
)

# Fact -> number of classes. A row holds a class for each fact, -1 where the fact does not apply.
SINGLE_FACTS = {
    "kind": 5,
    "color": 10,
    "shape": 8,
    "texture": 4,
    "size": 3,
    "place": 9,
    "count": MAX_TOTAL + 1,
    "left": 10,
    "right": 10,
}
COUNT_FACTS = {f"n_{word}": MAX_TOTAL + 1 for word in (*COLORS, *SHAPES)}
PAIR_FACTS = {f"n_{color}_{shape}": MAX_TOTAL + 1 for color, shape in CONCEPTS}
FACTS = SINGLE_FACTS | COUNT_FACTS | PAIR_FACTS
COLUMN = {name: i for i, name in enumerate(FACTS)}
MIX: dict[Kind, float] = {"single": 0.34, "plain": 0.16, "count": 0.16, "scene": 0.24, "digits": 0.10}


@dataclass(frozen=True)
class ImagePool:
    """images: uint8 [N, 64, 64, 3]; facts: int64 [N, len(FACTS)]."""

    images: NDArray[np.uint8]
    facts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)


def row(facts: ImageFacts) -> NDArray[np.int64]:
    """One image's facts as classes, int64 [len(FACTS)]."""
    classes = np.full(len(FACTS), -1, np.int64)
    classes[COLUMN["kind"]] = KINDS.index(facts.kind)
    if facts.left is not None and facts.right is not None:
        classes[COLUMN["left"]], classes[COLUMN["right"]] = facts.left, facts.right
        return classes
    words: dict[str, tuple[str, ...]] = {
        "color": tuple(COLORS), "shape": SHAPES, "texture": TEXTURES, "size": tuple(SIZES), "place": PLACES
    }  # fmt: skip
    for name, values in words.items():
        value = getattr(facts, name)
        if value is not None:
            classes[COLUMN[name]] = values.index(value)
    classes[COLUMN["count"]] = facts.number()
    classes[len(SINGLE_FACTS) :] = 0
    for group in facts.groups:
        for name in (f"n_{group.color}", f"n_{group.shape}", f"n_{group.color}_{group.shape}"):
            classes[COLUMN[name]] += group.count
    return classes


def make_pool(
    seed: int, n: int, mix: dict[Kind, float] | None = None, concepts: Sequence[Concept] = CONCEPTS
) -> ImagePool:
    """n images from a seed; `mix` gives the share of each kind (`MIX` by default)."""
    rng = np.random.default_rng(seed)
    kinds, shares = zip(*(mix or MIX).items(), strict=True)
    images, facts = np.empty((n, SIDE, SIDE, 3), np.uint8), np.empty((n, len(FACTS)), np.int64)
    for i, k in enumerate(rng.choice(len(kinds), n, p=np.array(shares) / sum(shares))):
        image, image_facts = draw(rng, kinds[k], concepts=concepts)
        images[i], facts[i] = np.asarray(image), row(image_facts)
    return ImagePool(images, facts)
