"""Operator induction, as in VL-ICL (Zong et al., ICLR 2025): an image shows "3 ? 2", and only the demos tell the
operator.

The pool of a query uses one operator and never shows the query's pair of digits, so no answer can be copied from the
same sum. The left digit is never the smaller one, so no answer is negative and the order of digits reveals nothing.
Some demonstrations fit several operators (2 ? 2 = 4). `identifiable` tells whether a set of them determines the
operator, which bounds the possible accuracy.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

from icl import ConfigError, Example, GeneratedCount, Pool, StreamKey, component, later_parameter, parameter
from icl.tasks.generated import Drawing, balanced_choice, choice, query_id, query_number, shuffled
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
