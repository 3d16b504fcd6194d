"""Edits of states as pure tensor functions, and the interventions that apply them at sites.

replace    x + s (v - x)
add        x + s v
heads      the rows of x [n, H, e] of some heads are replaced
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from icl.models.interventions import Site, Where
from icl.text.json_text import canonical_digest

if TYPE_CHECKING:
    from torch import Tensor

END = Where()
"""The last token of a prompt."""

How = Literal["replace", "add"]


def replaced(x: "Tensor", vector: "Tensor", strength: float) -> "Tensor":
    """The states moved to a vector: [n, ...], [...] -> [n, ...]. At strength 1 they are the vector, bit for bit."""
    return vector.expand_as(x) if strength == 1 else x + strength * (vector - x)


def shifted(x: "Tensor", vector: "Tensor", strength: float) -> "Tensor":
    """The states plus a vector: [n, ...], [...] -> [n, ...]."""
    return x + strength * vector


def with_heads(x: "Tensor", heads: Sequence[int], values: "Tensor", strength: float) -> "Tensor":
    """The head inputs [n, H, e] with some heads moved to values [len(heads), e]."""
    own = x.clone()
    own[:, list(heads)] = replaced(x[:, list(heads)], values, strength)
    return own


@dataclass(frozen=True, eq=False)
class VectorEdit:
    """An intervention that adds a vector at each of its sites, or replaces the states by it.

    Attributes:
        vectors: Site -> vector [d].
        how: Whether vectors are added, or replace the states.
        strength: Share of the edit.
        where: The tokens.
    """

    vectors: "Mapping[Site, Tensor]"
    how: How = "add"
    strength: float = 1.0
    where: Where = END
    _on_device: dict[tuple[Site, object], "Tensor"] = field(default_factory=dict, repr=False)

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(self.vectors)

    @property
    def neutral(self) -> bool:
        return self.strength == 0

    @cached_property
    def digest(self) -> str:
        return edit_digest(self.how, self.vectors, self.strength, self.where)

    def edit(self, site: Site, x: "Tensor", rows: Sequence[int]) -> "Tensor":
        key = site, x.device
        if key not in self._on_device:
            self._on_device[key] = self.vectors[site].float().to(x.device)
        vector = self._on_device[key]
        return replaced(x, vector, self.strength) if self.how == "replace" else shifted(x, vector, self.strength)


@dataclass(frozen=True, eq=False)
class HeadEdit:
    """An intervention that replaces the inputs of the output projection in some heads.

    Attributes:
        heads: Layer -> heads.
        values: Layer -> their inputs [heads, e].
        strength: Share of the edit.
        where: The tokens.
    """

    heads: Mapping[int, tuple[int, ...]]
    values: "Mapping[int, Tensor]"
    strength: float = 1.0
    where: Where = END
    _on_device: dict[tuple[Site, object], "Tensor"] = field(default_factory=dict, repr=False)

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(Site("heads", layer) for layer in self.heads)

    @property
    def neutral(self) -> bool:
        return self.strength == 0 or not self.heads

    @cached_property
    def digest(self) -> str:
        layers = {Site("heads", layer): values for layer, values in self.values.items()}
        return edit_digest(f"heads {sorted(self.heads.items())}", layers, self.strength, self.where)

    def edit(self, site: Site, x: "Tensor", rows: Sequence[int]) -> "Tensor":
        key = site, x.device
        if key not in self._on_device:
            self._on_device[key] = self.values[site.layer].float().to(x.device)
        return with_heads(x, self.heads[site.layer], self._on_device[key], self.strength)


def tensor_digest(tensor: "Tensor") -> str:
    """A digest of the values of a tensor, as float32."""
    import hashlib

    return hashlib.sha256(tensor.float().cpu().contiguous().numpy().tobytes()).hexdigest()


def edit_digest(what: str, tensors: "Mapping[Site, Tensor]", strength: float, where: Where) -> str:
    """A digest of everything that decides an edit."""
    values = [(str(site), list(tensor.shape), tensor_digest(tensor)) for site, tensor in sorted(tensors.items())]
    return canonical_digest([what, values, strength, astuple(where)])[:32]
