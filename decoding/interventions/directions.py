"""Steering along a direction without a change of length, as in In-Context Vectors (Liu et al., arXiv 2311.06668).

    x' = |x| unit(unit(x) + lam (1 + max(0, cos(x, -u))) u)

u is a unit direction at each layer. The edit acts on what the MLP adds, at every token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from decoding.interventions.edits import Copies, edit_digest
from icl.models.interventions import Site, Where

if TYPE_CHECKING:
    from torch import Tensor

    from icl.models.hf.model import HF

EVERYWHERE = Where("all", "both")
"""Every token of the prompt and of the answer."""


def turned(x: "Tensor", direction: "Tensor", lam: float) -> "Tensor":
    """The states turned towards a unit direction [d], with their own lengths: [n, d] -> [n, d]."""
    from torch.nn import functional

    length = x.norm(dim=-1, keepdim=True)
    against = functional.cosine_similarity(x, -direction, dim=-1)[..., None].clamp(min=0)
    new = functional.normalize(functional.normalize(x, dim=-1) + lam * (1 + against) * direction, dim=-1)
    states: Tensor = length * new
    return states


@dataclass(frozen=True, eq=False)
class DirectionEdit:
    """An intervention that turns states towards a direction.

    Attributes:
        directions: Site -> direction [d], of any length above 0.
        lam: Strength; 0 is off.
        where: The tokens.
    """

    directions: "Mapping[Site, Tensor]"
    lam: float
    where: Where = EVERYWHERE

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(self.directions)

    @property
    def neutral(self) -> bool:
        return self.lam == 0

    @cached_property
    def digest(self) -> str:
        return edit_digest(f"direction {astuple(self.where)}", self.directions, self.lam, self.where)

    @cached_property
    def _units(self) -> Copies:
        from torch.nn import functional

        return Copies({site: functional.normalize(own.float(), dim=-1) for site, own in self.directions.items()})

    def edit(self, site: Site, x: "Tensor", rows: Sequence[int]) -> "Tensor":
        return turned(x, self._units.on(x.device, site), self.lam)


def directions_by_site(model: "HF", vectors: "Tensor") -> "dict[Site, Tensor]":
    """The direction of each layer at its site `mlp`: vectors [layers, d]. Directions of length 0 are left out."""
    sites = model.sites.all("mlp")
    return {site: vectors[site.layer] for site in sites if float(vectors[site.layer].norm()) > 0}
