"""A pool of images, indexed by their content."""

import numpy as np
from numpy.typing import NDArray

from icl.tasks.generated.wording import VALUES
from icl.tasks.generated.world import COLORS, CONCEPTS, KINDS, SHAPES, Concept
from lab.tiny.pool import COLUMN, ImagePool

Indices = NDArray[np.int64]
ONE_CONCEPT = ("single", "plain", "count")


class PoolIndex:
    """Images of a pool by kind, concept and attribute value.

    kind: kind (and "ordered", digits whose left is at least the right) -> images; pair: concept -> images that show
    it alone; by: attribute -> class -> images; groups: an image's (color, shape, count) triples.
    """

    def __init__(self, pool: ImagePool) -> None:
        self.facts = pool.facts
        kinds = self.column("kind")
        self.kind: dict[str, Indices] = {k: np.flatnonzero(kinds == i) for i, k in enumerate(KINDS)}
        self.kind["ordered"] = self.kind["digits"][
            self.column("left")[self.kind["digits"]] >= self.column("right")[self.kind["digits"]]
        ]
        colors, shapes, hues = self.column("color"), self.column("shape"), tuple(COLORS)
        self.pair: dict[Concept, Indices] = {
            (c, s): np.flatnonzero(
                (colors == hues.index(c)) & (shapes == SHAPES.index(s)) & (kinds != KINDS.index("scene"))
            )
            for c, s in CONCEPTS
        }
        usable = {
            "color": ONE_CONCEPT,
            "shape": ONE_CONCEPT,
            "texture": ("single",),
            "size": ("single",),
            "count": ("count",),
            "place": ("single",),
        }
        self.by: dict[str, dict[int, Indices]] = {}
        for name, of in usable.items():
            among = np.isin(kinds, [KINDS.index(k) for k in of if k in KINDS])
            first = 1 if name == "count" else 0
            self.by[name] = {
                v: np.flatnonzero(among & (self.column(name) == v)) for v in range(first, len(VALUES[name]) + first)
            }
        self.groups: list[list[tuple[str, str, int]]] = []
        pairs = [COLUMN[f"n_{c}_{s}"] for c, s in CONCEPTS]
        for counts in pool.facts[:, pairs]:
            self.groups.append([(*CONCEPTS[i], int(counts[i])) for i in np.flatnonzero(counts > 0)])

    def column(self, name: str) -> Indices:
        return self.facts[:, COLUMN[name]]

    def fact(self, image: int, name: str) -> int:
        return int(self.facts[image, COLUMN[name]])

    def concept(self, image: int) -> Concept:
        return self.groups[image][0][:2]

    def result(self, image: int, operator: str) -> int:
        a, b = self.fact(image, "left"), self.fact(image, "right")
        return {"plus": a + b, "minus": a - b, "times": a * b}[operator]
