"""Multimodal in-context vectors: free vectors on what attention and MLP of every layer add, distilled from shots.

Li et al., M2IV: Towards Efficient and Fine-grained Multimodal In-Context Learning via Representation Engineering, COLM
2025 (arXiv 2504.04633).

    every token, without demonstrations:   attention_l += v_l      MLP_l += u_l
    loss over the answer's tokens:         KL(p(. | demonstrations, query) || p_v(. | query)) + w CE of the answer

The first distribution comes from the model without vectors. `icl fit` trains the 2 L vectors, which begin at 0 (off):

    tune: {parameters: vectors, intervene: m2iv, objective: distill, sft_weight: 1.0, shots: 8, lr: 0.01, ...}

`sft_weight` is w. **Labels alone can explain the gain**: `icl fit --control zero_shot` trains the same vectors on the
same queries with a teacher that has no demonstrations, and `--control shuffled` with a teacher that sees permuted
answers. With `sft_weight: 0`, only demonstrations can teach. The control `random` has random vectors of equal norm.

A reconstruction from the paper's abstract: where the vectors act, their start, the two losses and their weights are
parameters here. The paper's repository VLibrary is a folder of such files, as values of the axis `intervene`. No
released code was compared.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from decoding import FittedTensors, VectorEdit
from decoding.interventions.trainable import TrainableMethod
from icl import Prompt, Site, Tensor, Where, component, torch
from icl.models.hf.model import HF


@component("intervention", "m2iv")
@dataclass(frozen=True)
class M2IV(TrainableMethod):
    """Vectors that are added to what attention and MLP of every layer add, trained by `icl fit`.

    Control: random vectors of equal norm.
    """

    kinds: tuple[Literal["attention", "mlp"], ...] = ("attention", "mlp")  # training: blocks that get vectors
    tokens: Literal["all", "end"] = "all"  # training: tokens that get them; end: the last one and generated ones

    def intervention(self) -> VectorEdit:
        return self.edit(self.vectors, self.file.parameters)

    def edit(self, tensor: Tensor, parameters: Mapping[str, Any]) -> VectorEdit:
        sites = [Site(kind, int(layer)) for kind, layer in parameters["sites"]]
        where = Where(str(parameters["tokens"]), "both")
        return VectorEdit(dict(zip(sites, tensor, strict=True)), "add", self.strength, where)

    def start(self, model: HF, prompts: Iterable[Prompt], seed: int) -> FittedTensors:
        sites = [site for kind in self.kinds for site in model.sites.all(kind)]
        parameters = {"sites": [[site.kind, site.layer] for site in sites], "tokens": self.tokens}
        return FittedTensors({self.tensor: torch.zeros(len(sites), model.sites.width)}, parameters, {})
