"""Constants of a formula as a tensor."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def constants_like(values: Sequence[float], like: "Tensor") -> "Tensor":
    """[n] with the type and device of another tensor. Filled on the device, so nothing is copied to it."""
    import torch

    return torch.stack([like.new_full((), value) for value in values])
