"""Estimate the tokens that an engine's prefix cache saves: tokens in whole blocks, less those of distinct blocks."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from icl.types import Prompt


@dataclass(frozen=True)
class PrefixReuse:
    """Tokens of all prompts, and those of them that are in the cache if it holds all blocks."""

    tokens: float = 0.0
    cached: float = 0.0

    @property
    def fraction(self) -> float | None:
        return self.cached / self.tokens if self.tokens else None

    def __add__(self, other: "PrefixReuse") -> "PrefixReuse":
        return PrefixReuse(self.tokens + other.tokens, self.cached + other.cached)


@dataclass
class PrefixBlocks:
    """A counter of the cache blocks of one task's prompts. Models without a prefix cache do not count.

    Attributes:
        tokens: Tokens of all prompts.
        in_blocks: Tokens of them in whole blocks.
        first: (model, block) -> (index of the first query that had it, tokens of the block).
    """

    tokens: int = 0
    in_blocks: int = 0
    first: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)

    def add(self, model: Any, branch: "Prompt", tokens: int, times: int, index: int) -> None:
        """Counts a prompt that the query at this index reads `times` times."""
        if (blocks := model.prefix_blocks(branch)) is None:
            return
        size, keys = blocks
        self.tokens += times * tokens
        self.in_blocks += times * size * len(keys)
        for key in keys:
            self.first.setdefault((id(model), key), (index, size))

    def scaled(self, read: int, of: int) -> PrefixReuse:
        """Estimates the reuse after all queries.

        Each further query brings as many new blocks as one of the second half of those read.
        """
        distinct = float(sum(size for _, size in self.first.values()))
        second_half = sum(size for index, size in self.first.values() if index >= read / 2)
        distinct += second_half * (of - read) / max(read - -(-read // 2), 1)
        return PrefixReuse(self.tokens * of / read, max(self.in_blocks * of / read - distinct, 0.0))
