"""How much of a grid's prompts an engine's prefix cache will have: what is in whole blocks, less the distinct ones."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from icl.types import Prompt


@dataclass(frozen=True)
class PrefixReuse:
    """asked: tokens of all prompts. found: those that the cache has, where it has room for all."""

    asked: float = 0.0
    found: float = 0.0

    @property
    def share(self) -> float | None:
        return self.found / self.asked if self.asked else None

    def __add__(self, other: "PrefixReuse") -> "PrefixReuse":
        return PrefixReuse(self.asked + other.asked, self.found + other.found)


@dataclass
class PrefixBlocks:
    """Of one task. first: block, and the place of the query that had it first. Models without a cache do not count."""

    asked: int = 0
    whole: int = 0
    first: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)

    def see(self, model: Any, branch: "Prompt", tokens: int, times: int, place: int) -> None:
        """A prompt that is read so many times, for the query at this place."""
        if (blocks := model.prefix_blocks(branch)) is None:
            return
        size, found = blocks
        self.asked += times * tokens
        self.whole += times * size * len(found)
        for block in found:
            self.first.setdefault((id(model), block), (place, size))

    def scaled(self, read: int, of: int) -> PrefixReuse:
        """After all queries, if each of the rest brings as many new blocks as one of the second half of those read."""
        held = float(sum(size for _, size in self.first.values()))
        late = sum(size for place, size in self.first.values() if place >= read / 2)
        held += late * (of - read) / max(read - -(-read // 2), 1)
        return PrefixReuse(self.asked * of / read, max(self.whole * of / read - held, 0.0))
