"""Two rules in one pool: the image shows which of them answers it, so the right demonstrations are those of its rule.

    rule: attribute     "which one is it?": the color of a solid or striped shape, the shape of a dotted or hollow one
    rule: operator      "3 ? 2": plus if the left digit is even, times if it is odd

The nearest demonstrations by image agree in everything that an image shows, and the cue is a small part of it. With
`misleading: true` half of the pool, which are the small shapes, answer with the texture. `split` names queries: train
and test have no image in common, and they share the pool.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from icl import ConfigError, Example, GeneratedCount, Pool, SharedPoolTask, StreamKey, component, parameter
from icl.tasks.generated import (
    ATTRIBUTE_QUESTIONS,
    ATTRIBUTES,
    CONCEPT_SETS,
    SIZES,
    TEXTURES,
    Drawing,
    choice,
    query_id,
)
from icl.tasks.generated.operators import PAIRS, RESULTS
from icl.tasks.generated.wording import OPERATOR_QUESTIONS

ATTRIBUTE_OF = {"solid": "color", "striped": "color", "dotted": "shape", "hollow": "shape"}
"""Texture -> the attribute that answers."""


@component("task", "gated")
@dataclass(frozen=True)
class GatedTask(SharedPoolTask):
    """Questions with two rules in one pool; the texture of a shape, or a digit, shows which rule answers."""

    rule: Literal["attribute", "operator"] = "attribute"  # what is asked: color or shape, or plus or times
    split: Literal["train", "test"] = "test"  # which queries; both have the same pool
    misleading: bool = False  # whether the small half of the pool answers with the texture (attributes only)
    support: GeneratedCount = 96  # images in the pool
    query_limit: GeneratedCount = parameter("queries", 200)  # number of queries
    seed: int = 0  # random seed of the task, independent of the seeds of a run

    def __post_init__(self) -> None:
        if self.misleading and self.rule == "operator":
            raise ConfigError("misleading: true is for rule: attribute.")

    @property
    def title(self) -> str:
        return " · ".join(["gated", self.rule, *(["misleading"] if self.misleading else []), self.split])

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        return tuple(self._example(query_id(f"gated-{self.split}", i), False) for i in range(self.query_limit))

    @cached_property
    def _pool(self) -> Pool:
        return Pool(tuple(self._example(query_id("gated-pool", i), True) for i in range(self.support)))

    @property
    def pool_size(self) -> int:
        return self.support

    def _example(self, name: str, in_pool: bool) -> Example:
        rng = StreamKey(self.seed, f"gated/{self.rule}/{name}").numpy("facts")
        is_misleading = in_pool and self.misleading and bool(rng.integers(2))
        kind: Literal["single", "digits"] = "single" if self.rule == "attribute" else "digits"
        facts: dict[str, Any]
        if kind == "single":
            color, shape = choice(rng, CONCEPT_SETS["held_out"])
            sizes = [size for size in SIZES if not (in_pool and self.misleading) or (size == "small") == is_misleading]
            facts = {"color": color, "shape": shape, "texture": choice(rng, TEXTURES), "size": choice(rng, sizes)}
            rule = "texture" if is_misleading else ATTRIBUTE_OF[facts["texture"]]
            question, options, answer = ATTRIBUTE_QUESTIONS[0], [facts[one] for one in ATTRIBUTES], facts[rule]
        else:
            left, right = choice(rng, [pair for pair in PAIRS if RESULTS["plus"](*pair) != RESULTS["times"](*pair)])
            facts, rule = {"left": left, "right": right}, "times" if left % 2 else "plus"
            results = {name: RESULTS[name](left, right) for name in ("plus", "times")}
            question, answer = OPERATOR_QUESTIONS[0], str(results[rule])
            options = [str(result) for result in sorted(results.values())]
        image = Drawing(self.seed, f"gated/{self.rule}/{name}", kind, **facts).image
        secret = {"rule": rule, **facts}
        return Example(name, (image,), question, (answer,), tuple(options), answer, secret=secret)
