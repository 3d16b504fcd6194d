"""Context vectors: demonstrations pooled into a few virtual tokens by a small trained module before the frozen model.

Chen et al., Lightweight In-Context Tuning for Multimodal Unified Models (M2IXT), 2023 (arXiv 2310.05109).

    s_j    last-layer state at the j-th text token of all demonstrations, each read alone with its image
    u_j    s_j / rms(s_j)
    c_i    b_i + sum_j a_ij (W u_j + w)      a_ij = softmax over j of q_i . u_j / sqrt(d)      i = 1, ..., n
    prompt input embeddings c_1, ..., c_n, then the query without demonstrations

`icl fit` trains b, q, W and w on episodes. The model is frozen:

    tune: {parameters: vectors, intervene: context_vectors, objective: sft, ...}     distill: towards demonstrations

b begins at 0, q at N(0, 1), and W, w at AIM's ridge regression. Controls: `soft: true` trains as many vectors that
read no demonstration (c = b, a soft prompt); `icl fit --control shuffled` trains on demonstrations that exchange
their answers; `random` has a random module.

A reconstruction from the paper's abstract, which has a module before the model that perceives a window of examples:
what it reads, its form, and its start are ours. No released code was compared.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, ClassVar

from annotated_types import Gt

from decoding import FittedTensors, demonstrations
from decoding.interventions.virtual_tokens import (
    START_PROMPTS,
    DemonstrationBank,
    EmbeddingEdit,
    VirtualTokenMethod,
    apply_map,
    read_alone,
    ridge_map,
    text_states,
    with_slots,
)
from icl import PositiveInt, Prompt, Tensor, canonical_digest, component, steer, torch
from icl.models.hf.model import HF


@component("intervention", "context_vectors")
@dataclass(frozen=True)
class ContextVectors(VirtualTokenMethod):
    """Demonstrations pooled into a few virtual tokens before the query, by a module that `icl fit` trains.

    The prompt needs demonstrations, so shots must be above 0. Control: a random module of equal norm.
    """

    count: PositiveInt = 8  # training: number of vectors
    soft: bool = False  # training: control, vectors that read no demonstration
    ridge: Annotated[float, Gt(0)] = 1e-3  # training: weight of the size of the map that it starts with

    tensor: ClassVar[str] = "pooler"

    def steered(self, prompts: Sequence[Prompt], model: HF) -> Sequence[Prompt]:
        self.check(model)
        own = FittedTensors({self.tensor: self.vectors}, self.file.parameters, {})
        return self._virtual(prompts, model, self.bank, own, (self.file.digest, self.control, self.draw))

    def start(self, model: HF, prompts: Iterable[Prompt], seed: int) -> FittedTensors:
        states, embeddings = text_states(islice(prompts, START_PROMPTS), model)
        affine = ridge_map(unit_rms(states), embeddings, self.ridge)
        width = states.shape[1]
        queries = torch.randn(self.count, width, generator=torch.Generator().manual_seed(seed))
        pooler = torch.cat([torch.zeros(self.count, width), queries, affine.cpu()])
        return FittedTensors({self.tensor: pooler}, {"soft": self.soft}, {})

    def steered_by(self, trained: FittedTensors, prompts: Sequence[Prompt], model: HF) -> Sequence[Prompt]:
        bank = DemonstrationBank()  # of this step: the last bits of states depend on the batch
        return self._virtual(prompts, model, bank, trained, ("in training",))

    def _virtual(
        self,
        prompts: Sequence[Prompt],
        model: HF,
        bank: DemonstrationBank,
        module: FittedTensors,
        name: tuple[object, ...],
    ) -> list[Prompt]:
        """The queries behind the vectors of their demonstrations. name: of the module, in the digests of edits."""
        pooler, is_soft = module.tensors[self.tensor], bool(module.parameters["soft"])
        own = [[read_alone(prompt, place) for place in demonstrations(prompt)] for prompt in prompts]
        states = {} if is_soft else bank.read({one.digest: one for alone in own for one in alone}, model)
        made = []
        for prompt, alone in zip(prompts, own, strict=True):
            read = None if is_soft or not alone else torch.cat([states[one.digest] for one in alone])
            values = pooled(pooler, read)
            digest = canonical_digest(["context", model.digest, *name, self.strength, [one.digest for one in alone]])
            made.append(steer(with_slots(prompt, len(values), model), EmbeddingEdit(values, digest, self.strength)))
        return made


def pooled(pooler: Tensor, states: Tensor | None) -> Tensor:
    """The context vectors [n, d].

    Args:
        pooler: [2 n + 1 + d, d]: b, q, w and the transpose of W.
        states: [t, d], of all demonstrations. None: the vectors are b.
    """
    width = pooler.shape[1]
    count = (len(pooler) - 1 - width) // 2
    own, queries, affine = pooler[:count], pooler[count : 2 * count], pooler[2 * count :]
    if states is None:
        return own
    units = unit_rms(states).to(pooler)
    weights = (queries @ units.T / width**0.5).softmax(-1)
    vectors: Tensor = own + weights @ apply_map(affine, units)
    return vectors


def unit_rms(states: Tensor) -> Tensor:
    """States [t, d], each divided by its root mean square, float32."""
    states = states.float()
    return states / states.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-6)
