"""Implicit in-context learning: one mean vector for every attention and MLP block, mixed in with learned weights.

Li et al., Implicit In-context Learning, ICLR 2025 (arXiv 2405.14660).

    c_l  = mean over sources, each alone with its answer, of what the block of layer l adds at the last token
    every token: out_l' = b_l out_l + a_l c_l        for attention and MLP of each layer, from a = .1, b = 1

The 4 L numbers are fitted on the sources by the cross-entropy of their answers: AdamW .01, weight decay .001, batch 2,
100 passes, with a linear warm-up over 5 % of the steps and a cosine decay to 0. a = 0 and b = 1 is off. The control
`random` fits the same numbers with random vectors of equal norm, as the release's `gen_cv_method: noise`.

Differs from the released code in the whole answer counts (the release scores its first token); no noise is added to
the blocks' outputs in the fit; sources are those of `icl fit`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from decoding import Control, Copies, FitData, FittedMethod, FittedTensors, random_of_equal_norm, tensor_digest
from decoding.interventions import EVERYWHERE, edit_digest, minimize
from icl import PositiveInt, Site, Tensor, Where, component, torch

FIRST_A, FIRST_B, RATE, DECAY, BATCH, WARMUP = 0.1, 1.0, 0.01, 1e-3, 2, 0.05


@dataclass(frozen=True, eq=False)
class MixEdit:
    """An intervention b out + a c at each of its sites. mixes: site -> tensor [2 + d] of a, b and c."""

    mixes: Mapping[Site, Tensor]
    where: Where = EVERYWHERE
    neutral: bool = False

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(self.mixes)

    @cached_property
    def digest(self) -> str:
        return edit_digest("mix", self.mixes, 1.0, self.where)

    @cached_property
    def _copies(self) -> Copies:
        return Copies(self.mixes)

    def edit(self, site: Site, x: Tensor, rows: Sequence[int]) -> Tensor:
        mix = self._copies.on(x.device, site)
        return mix[1] * x + mix[0] * mix[2:]


@component("intervention", "i2cl")
@dataclass(frozen=True)
class I2CL(FittedMethod):
    """Mean outputs of attention and MLP, mixed into every token's outputs with learned weights for each layer.

    Control: the same fit with random vectors of equal norm.
    """

    passes: PositiveInt = 100  # passes over the sources in the fit

    tensor: ClassVar[str] = "mixes"
    available_controls: ClassVar[tuple[Control, ...]] = ("random",)

    def intervention(self) -> MixEdit:
        mixes = self.file.tensors["mixes" if self.control == "none" else self.fitted_draw()]
        off = mixes.clone()
        off[:, 0], off[:, 1] = 0, 1
        mixes = mixes if self.strength == 1 else off + self.strength * (mixes - off)
        sites = [Site("attention" if kind else "mlp", int(layer)) for kind, layer in self.file.parameters["sites"]]
        return MixEdit(dict(zip(sites, mixes, strict=True)))

    def fit(self, data: FitData) -> FittedTensors:
        sites = (*data.model.sites.all("attention"), *data.model.sites.all("mlp"))
        _, after = data.answer_states(sites)
        vectors = after.mean(0)
        tensors, report = {"vectors": vectors}, dict[str, object](data.reference_accuracies())
        random = random_of_equal_norm(vectors, f"i2cl {tensor_digest(vectors)} {self.draw}")
        for name, own in (("mixes", vectors), ("mixes.random", random)):
            mixes, losses = self._mixes(data, sites, own)
            tensors[name] = mixes
            key = "steered" if name == "mixes" else "random_vectors"
            edit = MixEdit(dict(zip(sites, mixes, strict=True)))
            report |= {key: data.accuracies([(edit,)])[0], f"{key}_loss": losses[-1]}
        parameters = {"sites": [[site.kind == "attention", site.layer] for site in sites], "draw": self.draw}
        return FittedTensors(tensors, parameters, report)

    def _mixes(self, data: FitData, sites: Sequence[Site], vectors: Tensor) -> tuple[Tensor, list[float]]:
        a = torch.full((len(sites), 1), FIRST_A, requires_grad=True)
        b = torch.full((len(sites), 1), FIRST_B, requires_grad=True)

        def mixes() -> torch.Tensor:
            return torch.cat([a, b, vectors], 1)

        items = [(one.without_demonstrations, one.answers[0]) for one in data.sources]
        optimizer = torch.optim.AdamW([a, b], lr=RATE, weight_decay=DECAY)
        steps = self.passes * max(1, len(items) // BATCH)
        warmup = int(WARMUP * steps)

        def rate_factor(step: int) -> float:
            return step / warmup if step <= warmup and warmup else (1 + math.cos(math.pi * step / steps)) / 2

        losses = minimize(
            data,
            lambda: [MixEdit(dict(zip(sites, mixes(), strict=True)))],
            optimizer,
            items,
            steps=steps,
            batch=BATCH,
            what="learning weights",
            scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, rate_factor),
        )
        return mixes().detach(), losses
