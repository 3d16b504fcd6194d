"""The toy model of the decoding tests as a component, used by path: it has sessions and logits, and no weights."""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from icl.models.base import LogitModel
from icl.registry import component
from icl.types import Prompt


@component("model", "test-toy")
@dataclass(frozen=True)
class ToyModel(LogitModel):
    """Answers made of w1 ... w23."""

    abilities: ClassVar[frozenset[str]] = frozenset({"logits"})

    stop_bias: float = 3.0
    max_batch_tokens: int = 4096
    max_tokens: int | None = None
    salt: str = ""

    @cached_property
    def toy(self) -> Any:
        path = Path(__file__).parent.parent / "decoding" / "toy.py"
        spec = importlib.util.spec_from_file_location("toy_for_experiments", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        import sys

        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module.Toy(stop_bias=self.stop_bias)

    @property
    def digest(self) -> str:
        return f"toy-{self.stop_bias}-{self.salt}"

    @property
    def stop_tokens(self) -> frozenset[int]:
        return frozenset({0})

    def load(self) -> None:
        self.toy.load()

    def count_tokens(self, prompt: Prompt) -> int:
        return int(self.toy.count_tokens(prompt))

    def open(self, prompts: Sequence[Prompt], *, early_exits: bool = False) -> Any:
        return self.toy.open(prompts)

    def text(self, tokens: Sequence[int]) -> str:
        return str(self.toy.text(tokens))

    def option_ids(self, prompt: Prompt, options: Sequence[str]) -> list[list[int]]:
        return [[1 + len(option) % 7, 2 + sum(map(ord, option)) % 11] for option in options]

    def counters(self) -> Mapping[str, int]:
        return dict(self.toy.counts)
