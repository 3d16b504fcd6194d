"""Edits of states as pure tensor functions, and the interventions that apply them at sites.

replace    x + s (v - x)
add        x + s v
heads      the rows of x [n, H, e] of some heads are replaced, or get a vector added
"""

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from typing import Any, Literal

from icl import END, ModelError, Site, Tensor, Where, canonical_digest, torch
from icl.models.hf.model import HF

How = Literal["replace", "add"]


def replaced(x: Tensor, vector: Tensor, strength: float) -> Tensor:
    """The states moved to a vector: [n, ...], [...] -> [n, ...]. At strength 1 they are the vector, bit for bit."""
    return vector.expand_as(x) if strength == 1 else x + strength * (vector - x)


def shifted(x: Tensor, vector: Tensor, strength: float) -> Tensor:
    """The states plus a vector: [n, ...], [...] -> [n, ...]."""
    return x + strength * vector


def with_heads(x: Tensor, heads: Sequence[int], values: Tensor, strength: float, how: How = "replace") -> Tensor:
    """The head inputs [n, H, e] with some heads moved to values [len(heads), e], or with these added."""
    own = x.clone()
    own[:, list(heads)] = (replaced if how == "replace" else shifted)(x[:, list(heads)], values, strength)
    return own


class Copies:
    """The float32 tensors of an edit, with one copy on each device that needs them."""

    def __init__(self, tensors: Mapping[Any, Tensor]) -> None:
        self.tensors = tensors
        self._copies: dict[tuple[Hashable, object], Tensor] = {}

    def on(self, device: "torch.device", name: Hashable) -> Tensor:
        """The tensor of a site or layer on the device."""
        key = name, device
        if key not in self._copies:
            self._copies[key] = self.tensors[name].float().to(device)
        return self._copies[key]


@dataclass(frozen=True, eq=False)
class VectorEdit:
    """An intervention that adds a vector at each of its sites, or replaces the states by it.

    Attributes:
        vectors: Site -> vector [d].
        how: Whether vectors are added, or replace the states.
        strength: Share of the edit.
        where: The tokens.
    """

    vectors: Mapping[Site, Tensor]
    how: How = "add"
    strength: float = 1.0
    where: Where = END

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(self.vectors)

    @property
    def neutral(self) -> bool:
        return self.strength == 0

    @cached_property
    def digest(self) -> str:
        return edit_digest(self.how, self.vectors, self.strength, self.where)

    @cached_property
    def _copies(self) -> Copies:
        return Copies(self.vectors)

    def edit(self, site: Site, x: Tensor, rows: Sequence[int]) -> Tensor:
        vector = self._copies.on(x.device, site)
        return replaced(x, vector, self.strength) if self.how == "replace" else shifted(x, vector, self.strength)


@dataclass(frozen=True, eq=False)
class HeadEdit:
    """An intervention that replaces the inputs of the output projection in some heads, or adds to them.

    Attributes:
        heads: Layer -> heads.
        values: Layer -> their inputs [heads, e].
        strength: Share of the edit.
        where: The tokens.
        how: Whether the values replace the inputs, or are added to them.
    """

    heads: Mapping[int, tuple[int, ...]]
    values: Mapping[int, Tensor]
    strength: float = 1.0
    where: Where = END
    how: How = "replace"

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(Site("heads", layer) for layer in self.heads)

    @property
    def neutral(self) -> bool:
        return self.strength == 0 or not self.heads

    @cached_property
    def digest(self) -> str:
        layers = {Site("heads", layer): values for layer, values in self.values.items()}
        what = "heads" if self.how == "replace" else "added to heads"
        return edit_digest(f"{what} {sorted(self.heads.items())}", layers, self.strength, self.where)

    @cached_property
    def _copies(self) -> Copies:
        return Copies(self.values)

    def edit(self, site: Site, x: Tensor, rows: Sequence[int]) -> Tensor:
        values = self._copies.on(x.device, site.layer)
        return with_heads(x, self.heads[site.layer], values, self.strength, self.how)


def tensor_digest(tensor: Tensor) -> str:
    """A digest of the values of a tensor, as float32."""
    return hashlib.sha256(tensor.float().cpu().contiguous().numpy().tobytes()).hexdigest()


def edit_digest(what: str, tensors: Mapping[Site, Tensor], strength: float, where: Where) -> str:
    """A digest of everything that decides an edit."""
    values = [(str(site), list(tensor.shape), tensor_digest(tensor)) for site, tensor in sorted(tensors.items())]
    return canonical_digest([what, values, strength, astuple(where)])[:32]


# Steering along a direction without a change of length, as in In-Context Vectors (Liu et al., arXiv 2311.06668).
#
#     x' = |x| unit(unit(x) + lam (1 + max(0, cos(x, -u))) u)
#
# u is a unit direction at each layer. The edit acts on what the MLP adds, at every token. VTI has the factor lam alone.

EVERYWHERE = Where("all", "both")
"""Every token of the prompt and of the answer."""


def turned(x: Tensor, direction: Tensor, lam: float, evenly: bool = False) -> Tensor:
    """The states turned towards a unit direction [d] or [n, d], with their own lengths: [n, d] -> [n, d].

    evenly: whether states that point away are turned no further than others.
    """
    length = x.norm(dim=-1, keepdim=True)
    against = torch.nn.functional.cosine_similarity(x, -direction, dim=-1)[..., None].clamp(min=0)
    new = torch.nn.functional.normalize(
        torch.nn.functional.normalize(x, dim=-1) + lam * (1 if evenly else 1 + against) * direction, dim=-1
    )
    states: Tensor = length * new
    return states


def principal_direction(differences: Tensor) -> Tensor:
    """The first principal direction of [n, layers, d], of length 1 over all layers: [layers, d].

    Its sign makes the largest projection of a centered difference positive, as `svd_flip` in the code of In-Context
    Vectors and of VTI.
    """
    centered = (differences - differences.mean(0)).flatten(1)
    left, _, right = torch.linalg.svd(centered, full_matrices=False)
    direction: Tensor = right[0] * left[left[:, 0].abs().argmax(), 0].sign()
    return direction.view(differences.shape[1:])


@dataclass(frozen=True, eq=False)
class DirectionEdit:
    """An intervention that turns states towards a direction.

    Attributes:
        directions: Site -> direction [d], of any length; or [tokens, d], one for each token that it addresses in a row.
        lam: Strength; 0 is off.
        where: The tokens.
        evenly: As in `turned`.
    """

    directions: Mapping[Site, Tensor]
    lam: float
    where: Where = EVERYWHERE
    evenly: bool = False

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(self.directions)

    @property
    def neutral(self) -> bool:
        return self.lam == 0

    @cached_property
    def digest(self) -> str:
        what = "even direction" if self.evenly else "direction"
        return edit_digest(f"{what} {astuple(self.where)}", self.directions, self.lam, self.where)

    @property
    def tokens(self) -> int | None:
        """Number of tokens of a row that have directions of their own. None if all tokens share one."""
        own = next(iter(self.directions.values()))
        return len(own) if own.ndim > 1 else None

    @cached_property
    def _units(self) -> Copies:
        return Copies(
            {site: torch.nn.functional.normalize(own.float(), dim=-1) for site, own in self.directions.items()}
        )

    def edit(self, site: Site, x: Tensor, rows: Sequence[int]) -> Tensor:
        unit = self._units.on(x.device, site)
        if self.tokens:
            if len(x) != self.tokens * len(set(rows)):
                raise ModelError(
                    f"{site}: an image has {len(x) // len(set(rows))} tokens, and the directions were fitted for "
                    f"{self.tokens}. Fit one direction for all tokens (tokens: mean), or use images of equal size."
                )
            unit = unit.repeat(len(set(rows)), 1)
        return turned(x, unit, self.lam, self.evenly)


def directions_by_site(model: HF, vectors: Tensor) -> dict[Site, Tensor]:
    """The direction of each layer at its site `mlp`: vectors [layers, d]. Directions of length 0 are left out."""
    sites = model.sites.all("mlp")
    return {site: vectors[site.layer] for site in sites if float(vectors[site.layer].norm()) > 0}
