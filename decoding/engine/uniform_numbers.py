"""Uniform random numbers of a sampled group, drawn for several steps and copied to the device at once."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from decoding.formulas.sampling import uniform_numbers
from icl.memory.device_copies import StepIndices, copied_to_device
from icl.memory.float_precision import wide_dtype
from icl.streams import StreamKey

if TYPE_CHECKING:
    from torch import Tensor

STEPS_AHEAD = 16
"""Steps whose numbers are drawn together. Drawing early changes no number: it depends on its query and step only."""


class UniformNumbers:
    """The uniform numbers of the hypotheses of a group. One block of steps is on the device."""

    def __init__(self) -> None:
        self.first_step = 0
        self.columns: dict[StreamKey, int] = {}
        self.block: Tensor | None = None  # [steps, columns], in `wide_dtype`

    def at(
        self, step: int, keys: Sequence[StreamKey], group_keys: Sequence[StreamKey], left: int, indices: StepIndices
    ) -> "Tensor":
        """The numbers of a step, [B, 1] in the widest type of the device.

        Args:
            step: Number of the token, from 0.
            keys: Random stream of each row.
            group_keys: Random streams of all hypotheses of the group.
            left: Tokens that the longest answer may still get.
            indices: Row numbers on the device.
        """
        if self.block is None or not self.first_step <= step < self.first_step + len(self.block):
            self.columns = {key: i for i, key in enumerate(dict.fromkeys([*group_keys, *keys]))}
            self.first_step, last = step, step + min(STEPS_AHEAD, max(1, left))
            numbers = [uniform_numbers(list(self.columns), one) for one in range(step, last)]
            self.block = copied_to_device(numbers, wide_dtype(indices.device), indices.device)
        row, columns = self.block[step - self.first_step], [self.columns[key] for key in keys]
        is_whole = columns == list(range(len(row)))
        return (row if is_whole else row.index_select(0, indices.of(columns)))[:, None]
