"""Steps of rows that stand at different tokens of their answers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from icl.memory.device_copies import copied_to_device

if TYPE_CHECKING:
    from torch import Tensor

NUMBER_METHODS = (
    *("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "floordiv", "rfloordiv", "mod", "rmod"),
    *("pow", "rpow", "neg", "abs", "int", "float", "index", "round", "bool", "eq", "ne", "lt", "le", "gt", "ge"),
    *("hash", "str", "repr", "format", "len", "iter", "contains", "getitem"),
)


class RowSteps:
    """The step of each row of a batch, passed in place of the number `step`.

    A strategy that does not use `step` combines all rows at once. Code that knows this class reads the steps with
    `steps_per_row`. Any use as a number raises TypeError, and the engine then combines the rows of each step alone.
    """

    def __init__(self, steps: Sequence[int]) -> None:
        self.steps = list(steps)


def _refuse(self: RowSteps, *args: Any) -> NoReturn:
    raise TypeError("the rows stand at different steps; read them with decoding.formulas.row_steps.steps_per_row")


for _name in NUMBER_METHODS:
    setattr(RowSteps, f"__{_name}__", _refuse)


def steps_per_row(step: int | RowSteps, count: int) -> list[int]:
    """The step of each of `count` rows."""
    return step.steps if isinstance(step, RowSteps) else [step] * count


def weight_per_row(step: int | RowSteps, weight: Any, like: "Tensor") -> "float | Tensor":
    """A weight that depends on the step: a number, or [B, 1] float32 if rows stand at different steps.

    Args:
        step: Step of the rows.
        weight: Function from a step to a weight.
        like: Scores of the rows, which give the device.
    """
    import torch

    if not isinstance(step, RowSteps):
        return float(weight(step))
    return copied_to_device([[weight(one)] for one in step.steps], torch.float32, like.device)
