"""A user-defined strategy."""

from dataclasses import dataclass

from decoding.base import Strategy


@dataclass(frozen=True)
class Plain(Strategy):
    """The prompt as it is."""
