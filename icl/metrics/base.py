"""What a metric is: one generation against its example, a number in [0, 1] or None where it does not apply."""

from typing import ClassVar, Literal, Protocol, runtime_checkable

from icl.types import Example, Generation

Better = Literal["higher", "lower", "neither"]


@runtime_checkable
class Metric(Protocol):
    """A component of kind `metric`: pure, the same answer for the same pair. better: which way is good."""

    better: ClassVar[Better]

    def score(self, generation: Generation, example: Example) -> float | None:
        """In [0, 1]. None: this example has nothing that the metric could judge."""
        ...
