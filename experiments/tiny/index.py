"""A pool of pictures, indexed by what they show."""

import numpy as np
from numpy.typing import NDArray

from experiments.tiny.pool import COLUMN, Pool
from icl.tasks.generated.wording import VALUES
from icl.tasks.generated.world import COLOURS, CONCEPTS, KINDS, SHAPES, Concept

Indices = NDArray[np.int64]
ONE_CONCEPT = ("single", "plain", "count")


class Index:
    """Pictures of a pool by kind, concept and attribute value.

    kind: kind (and "ordered", digits whose left is at least the right) -> pictures; pair: concept -> pictures that show
    it alone; by: attribute -> class -> pictures; groups: a picture's (colour, shape, count) triples.
    """

    def __init__(self, pool: Pool) -> None:
        self.facts = pool.facts
        kinds = self.column("kind")
        self.kind: dict[str, Indices] = {k: np.flatnonzero(kinds == i) for i, k in enumerate(KINDS)}
        self.kind["ordered"] = self.kind["digits"][
            self.column("left")[self.kind["digits"]] >= self.column("right")[self.kind["digits"]]
        ]
        colours, shapes, hues = self.column("colour"), self.column("shape"), tuple(COLOURS)
        self.pair: dict[Concept, Indices] = {
            (c, s): np.flatnonzero(
                (colours == hues.index(c)) & (shapes == SHAPES.index(s)) & (kinds != KINDS.index("scene"))
            )
            for c, s in CONCEPTS
        }
        usable = {
            "colour": ONE_CONCEPT,
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

    def fact(self, picture: int, name: str) -> int:
        return int(self.facts[picture, COLUMN[name]])

    def concept(self, picture: int) -> Concept:
        return self.groups[picture][0][:2]

    def result(self, picture: int, operator: str) -> int:
        a, b = self.fact(picture, "left"), self.fact(picture, "right")
        return {"plus": a + b, "minus": a - b, "times": a * b}[operator]
