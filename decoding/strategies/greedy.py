"""Greedy decoding: the model's own most probable token, the reference of every comparison."""

from dataclasses import dataclass
from typing import ClassVar

from decoding.base import Strategy
from icl.registry import component


@component("strategy", "greedy")
@dataclass(frozen=True)
class GreedyDecoding(Strategy):
    """The most probable token of the prompt as it is.

    Any model can do it, also one that answers without giving logits.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"generate"})
