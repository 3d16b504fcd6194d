"""Raven's matrices by the probability of yes, as Kosmos-1 answers them (Huang et al., 2302.14045).

A 3 x 3 matrix follows one rule for one property, and its last panel is missing. For each candidate the image shows the
matrix with the candidate in the last place, and the question is whether it is correct. The metric `raven` takes the
candidate with the highest P(yes) of a puzzle; use `answer_mode: options`.

    rows, columns   the property is equal within rows, or within columns
    square          every row and every column has each of three values once

With `alone: true` each candidate is also asked about without the matrix. `raven` subtracts this probability, so that a
preference for a candidate as such does not count: the control. With `panels: separate` the panels are images of their
own, one after another, as in the published test. That one has 50 puzzles with 6 candidates; these are generated.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

from annotated_types import Ge, Le

from icl import Example, GeneratedCount, Pool, SharedPoolTask, StreamKey, component, later_parameter, parameter
from icl.tasks.generated import CELLS, COLORS, SHAPES, Concept, PlacedShapes, Split, balanced_choice, choice, shuffled

QUESTION = "is it correct?"
RULES = ("rows", "columns", "square")
Property = Literal["color", "shape"]
Panels = Literal["together", "separate"]


@component("task", "raven")
@dataclass(frozen=True)
class RavenTask(SharedPoolTask):
    """Yes/no questions whether a candidate completes a matrix of one rule. A puzzle is a group of questions."""

    by: Property = "color"  # property that follows the rule; the other one is the same in all panels
    candidates: Annotated[int, Ge(2), Le(8)] = 6  # number of candidates; chance is 1 / candidates
    alone: bool = False  # whether each candidate is also asked about without the matrix
    query_limit: GeneratedCount = parameter("queries", 120)  # number of questions, rounded up to whole puzzles
    support: GeneratedCount = 20  # number of puzzles in the pool
    seed: int = 0  # random seed of the task, independent of the seeds of a run
    panels: Panels = later_parameter("together")  # together: a matrix is one image; separate: an image for each panel

    @property
    def title(self) -> str:
        return f"Raven · {self.by}"

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        each = self.candidates * (2 if self.alone else 1)
        puzzles = -(-self.query_limit // each)
        return tuple(e for number in range(puzzles) for e in self._puzzle("query", number, self.alone))

    @cached_property
    def _pool(self) -> Pool:
        return Pool(tuple(e for number in range(self.support) for e in self._puzzle("pool", number, False)))

    @property
    def pool_size(self) -> int:
        return self.support * self.candidates

    def _puzzle(self, split: Split, number: int, alone: bool) -> list[Example]:
        stream = f"raven/{self.by}/{split}/{number}"
        rng = StreamKey(self.seed, stream).numpy("facts")
        values = shuffled(rng, tuple(COLORS) if self.by == "color" else SHAPES)
        fixed = choice(rng, SHAPES if self.by == "color" else tuple(COLORS))
        rule = balanced_choice(self.seed, f"raven/{split}/rule", number, RULES)
        panels = [values[_value(rule, cell)] for cell in range(CELLS)]
        wrong = [value for value in values if value != panels[-1]]
        others = [value for value in wrong if value in panels] + [value for value in wrong if value not in panels]
        offered = shuffled(rng, [panels[-1], *others[: self.candidates - 1]])
        examples = []
        for form in ("completed", *(["alone"] if alone else [])):
            for place, value in enumerate(offered):
                filled = [*panels[:-1], value] if form == "completed" else [value]
                cells = tuple(range(CELLS)) if form == "completed" else (CELLS - 1,)
                concepts: tuple[Concept, ...] = tuple(
                    (one, fixed) if self.by == "color" else (fixed, one) for one in filled
                )
                scenes = [(concepts, cells)]
                if self.panels == "separate":
                    scenes = [((concept,), (CELLS // 2,)) for concept in concepts]
                answer = "yes" if value == panels[-1] else "no"
                examples.append(
                    Example(
                        id=f"raven-{split}-{number:05d}-{form}-{place}",
                        images=tuple(PlacedShapes(self.seed, stream, *scene).image for scene in scenes),
                        question=QUESTION,
                        answers=(answer,),
                        options=("yes", "no"),
                        label=answer,
                        group=f"raven-{split}-{number:05d}",
                        meta={"candidate": place, "form": form},
                        secret={"rule": rule},
                    )
                )
        return examples


def _value(rule: str, cell: int) -> int:
    """The number of the value in a cell: 0, 1 or 2."""
    row, column = divmod(cell, 3)
    return row if rule == "rows" else column if rule == "columns" else (row + column) % 3
