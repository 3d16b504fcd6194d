"""Operator induction, as in VL-ICL (Zong et al., ICLR 2025): an image shows "3 ? 2", and only the demos tell the
operator.

The pool of a query uses one operator and never shows the query's pair of digits, so no answer can be copied from the
same sum. The left digit is never the smaller one, so no answer is negative and the order of digits reveals nothing.
Some demonstrations fit several operators (2 ? 2 = 4). `identifiable` tells whether a set of them determines the
operator, which bounds the possible accuracy.

`interleaved_operators` has the same episodes with one digit in each of two images, as the interleaved form in VL-ICL.
The difference in accuracy is the cost of combining two images.

`gated` has two rules in one pool.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Literal

from icl import (
    ConfigError,
    Example,
    GeneratedCount,
    Pool,
    SharedPoolTask,
    StreamKey,
    component,
    later_parameter,
    parameter,
)
from icl.tasks.generated import (
    ATTRIBUTE_QUESTIONS,
    ATTRIBUTES,
    CONCEPT_SETS,
    SIZES,
    TEXTURES,
    DigitImage,
    Drawing,
    balanced_choice,
    choice,
    query_id,
    query_number,
    shuffled,
)
from icl.tasks.generated.wording import NAMED_OPERATOR_QUESTIONS, OPERATOR_QUESTIONS, OPERATORS

PAIRS = tuple((left, right) for left in range(10) for right in range(left + 1))
RESULTS: Mapping[str, Callable[[int, int], int]] = {
    "plus": lambda left, right: left + right,
    "minus": lambda left, right: left - right,
    "times": lambda left, right: left * right,
}


def identifiable(demos: Iterable[Example]) -> bool:
    """Whether exactly one operator fits all these demonstrations. Reads their `secret`."""
    sums = [(demo.secret["left"], demo.secret["right"], demo.answer) for demo in demos]
    return sum(all(str(RESULTS[name](a, b)) == c for a, b, c in sums) for name in OPERATORS) == 1


@component("task", "operators")
@dataclass(frozen=True)
class OperatorsTask:
    """Results of "3 ? 2", of which only the demonstrations show whether ? is plus, minus or times.

    The three operators are equally frequent. The options are the results of all three, in ascending order (fewer than
    three if two are equal). `name_operator: true` is the control: the question names the operator, so nothing is
    induced.
    """

    support: GeneratedCount = 32  # images in a query's pool, with different pairs of digits; at most 54
    name_operator: bool = False  # whether the question names the operator
    bank: GeneratedCount = 4  # images of each pair of digits in the bank of all pools
    query_limit: GeneratedCount = parameter("queries", 200)  # number of queries
    seed: int = 0  # random seed of the task, independent of the seeds of a run
    operator: Literal["plus", "minus", "times"] | None = later_parameter(None)  # the operator of all queries; null: all

    def __post_init__(self) -> None:
        if self.support >= len(PAIRS):
            raise ConfigError(f"support {self.support} is more than the {len(PAIRS) - 1} other pairs of digits.")

    @property
    def title(self) -> str:
        parts = [*([self.operator] if self.operator else []), *(["operator named"] if self.name_operator else [])]
        return " · ".join(["operators", *parts])

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        return tuple(self._query(number) for number in range(self.query_limit))

    def pool(self, query_id: str) -> Pool:
        return _pool(self, query_number("operators", query_id, self.query_limit))

    @property
    def pool_size(self) -> int:
        return self.support

    def facts(self, demos: Sequence[Example]) -> Mapping[str, bool]:
        """Facts for a sample's record: whether the demonstrations determine the operator, or the question names it."""
        return {"identifiable": self.name_operator or identifiable(demos)}

    def _query(self, number: int) -> Example:
        name = query_id("operators", number)
        pair = choice(StreamKey(self.seed, name).numpy("pair"), PAIRS)
        return self._example(name, f"query/{name}", pair, self._operator(number))

    def _operator(self, number: int) -> str:
        return self.operator or balanced_choice(self.seed, "operators/operator", number, OPERATORS)

    def _example(self, name: str, image: str, pair: tuple[int, int], operator: str) -> Example:
        question = (
            NAMED_OPERATOR_QUESTIONS[0].format(operator=operator) if self.name_operator else OPERATOR_QUESTIONS[0]
        )
        results = sorted({result(*pair) for result in RESULTS.values()})
        left, right = pair
        return Example(
            id=name,
            images=(Drawing(self.seed, f"operators/{image}", "digits", left=left, right=right).image,),
            question=question,
            answers=(str(RESULTS[operator](left, right)),),
            options=tuple(map(str, results)),
            secret={"operator": operator, "left": left, "right": right},
        )


@lru_cache(maxsize=512)
def _pool(task: OperatorsTask, number: int) -> Pool:
    query = task._query(number)
    rng = StreamKey(task.seed, query.id).numpy("pool")
    others = [pair for pair in PAIRS if pair != (query.secret["left"], query.secret["right"])]
    examples = []
    for i, pair in enumerate(shuffled(rng, others)[: task.support]):
        image = f"bank/{pair[0]}{pair[1]}/{int(rng.integers(task.bank))}"
        examples.append(task._example(f"{query.id}-s{i:03d}", image, pair, query.secret["operator"]))
    return Pool(tuple(examples))


@component("task", "interleaved_operators")
@dataclass(frozen=True)
class InterleavedOperatorsTask:
    """Sums of two digits in two images; only the demonstrations show the operator.

    Queries have the ids, digits, operators and options of the task `operators`. Some demonstrations fit several
    operators; `icl.tasks.generated.operators.identifiable` tells whether a set of them determines the answer.
    """

    support: GeneratedCount = 32  # pairs of images in a query's pool, with different pairs of digits; at most 54
    name_operator: bool = False  # whether the question names the operator: the control
    bank: GeneratedCount = 16  # images of each digit in the bank of all pools
    query_limit: GeneratedCount = parameter("queries", 200)  # number of queries
    seed: int = 0  # random seed of the task, independent of the seeds of a run

    def __post_init__(self) -> None:
        self.sums  # noqa: B018  refuses a support that is too large

    @property
    def title(self) -> str:
        return "interleaved operators · operator named" if self.name_operator else "interleaved operators"

    @cached_property
    def sums(self) -> OperatorsTask:
        """The same episodes with one image for each sum."""
        return OperatorsTask(self.support, self.name_operator, query_limit=self.query_limit, seed=self.seed)

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        return tuple(self.example(query, None) for query in self.sums.queries)

    def pool(self, query_id: str) -> Pool:
        return _interleaved_pool(self, query_id)

    @property
    def pool_size(self) -> int:
        return self.support

    def facts(self, demos: Sequence[Example]) -> Mapping[str, bool]:
        """Facts about the demonstrations for a sample's record."""
        return self.sums.facts(demos)

    def example(self, example: Example, bank: int | None) -> Example:
        """The sum as two images, either new ones or from the bank that all pools share."""
        images = []
        for side in ("left", "right"):
            value, name = int(example.secret[side]), f"query/{example.id}/{side}"
            if bank is not None:
                name = f"bank/{value}/{StreamKey(self.seed, example.id).number(f'interleaved/{side}') % bank}"
            images.append(DigitImage(self.seed, f"interleaved/{name}", value).image)
        return replace(example, images=tuple(images))


@lru_cache(maxsize=512)
def _interleaved_pool(task: InterleavedOperatorsTask, query_id: str) -> Pool:
    return Pool(tuple(task.example(example, task.bank) for example in task.sums.pool(query_id).examples))


ATTRIBUTE_OF = {"solid": "color", "striped": "color", "dotted": "shape", "hollow": "shape"}
"""Texture -> the attribute that answers."""


@component("task", "gated")
@dataclass(frozen=True)
class GatedTask(SharedPoolTask):
    """Questions with two rules in one pool; the texture of a shape, or a digit, shows which rule answers.

    The right demonstrations for a query are those of its rule.

        rule: attribute     "which one is it?": the color of a solid or striped shape, the shape of another
        rule: operator      "3 ? 2": plus if the left digit is even, times if it is odd

    The nearest demonstrations by image agree in everything that an image shows, and the cue is a small part of it. With
    `misleading: true` half of the pool, which are the small shapes, answer with the texture. `split` names queries:
    train and test have no image in common, and they share the pool.
    """

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
