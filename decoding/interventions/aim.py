"""Demonstrations as virtual tokens: each is read alone with its image, and its text tokens carry what was read.

Gao et al., AIM: Let Any Multi-modal Large Language Models Embrace Efficient In-Context Learning, 2024 (arXiv
2406.07588).

    h_j       last-layer state at the j-th text token of a demonstration that is read alone, with its image
    prompt    the demonstrations without their images; the input embedding of that token := W h_j + b

A bank has the states h of each demonstration, which is encoded once. The query's prompt is as short as one of text
alone.

The map (W, b) is made in one of two ways. `icl fit` trains it by the cross-entropy of answers after virtual tokens, as
the paper trains its projection; the model is frozen:

    tune: {parameters: vectors, intervene: aim, objective: sft, ...}     distill: towards the demonstrations with images

`icl fit` solves a ridge regression from last-layer states to input embeddings, while demonstrations of the dev split
are read alone as text. `icl fit` starts with that of its first 64 prompts, or with the map of `fitted`:

    min over W, b of  sum_j |W h_j + b - e_j|^2 + ridge s |W|^2        s: mean squared entry of the centered states,
                                                                       times the number of tokens

The paper's, by its abstract: a frozen model reads each demonstration alone; the states on top of its text; one trained
projection; virtual tokens, as many as the text has; a bank. Ours: the last layer, the ridge start, distillation, and
training on episodes of the task (there public web corpora). The full text was not read. No released code was compared.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Annotated, ClassVar

from annotated_types import Gt

from decoding import FitData, FittedTensors, SteeringMethod
from decoding.interventions.virtual_tokens import (
    START_PROMPTS,
    DemonstrationBank,
    VirtualTokenMethod,
    apply_map,
    ridge_map,
    text_states,
    texts_only,
)
from icl import Prompt, Tensor, component
from icl.models.hf.model import HF


@component("intervention", "aim")
@dataclass(frozen=True)
class AIM(VirtualTokenMethod):
    """Demonstrations as text; its tokens carry the states of the demonstration read with its image.

    The prompt needs demonstrations, so shots must be above 0. Controls: the same text without states, and a random map.
    """

    ridge: Annotated[float, Gt(0)] = 1e-3  # fit: weight of the map's size, relative to that of the states
    text_only: bool = False  # control: demonstrations without images, and nothing in their place

    tensor: ClassVar[str] = "map"

    def steered(self, prompts: Sequence[Prompt], model: HF) -> Sequence[Prompt]:
        if self.text_only:
            return [texts_only(prompt) for prompt in prompts]
        self.check(model)
        return self.bank.virtual(prompts, model, self.vectors, (self.file.digest, self.control, self.draw))

    def controls(self) -> tuple[SteeringMethod, ...]:
        if self.text_only or self.control != "none" or not self.fitted:
            return ()
        return (replace(self, text_only=True), *super().controls())

    def start(self, model: HF, prompts: Iterable[Prompt], seed: int) -> FittedTensors:
        affine = ridge_map(*text_states(islice(prompts, START_PROMPTS), model), self.ridge)
        return FittedTensors({"map": affine}, {"ridge": self.ridge}, {})

    def steered_by(self, trained: FittedTensors, prompts: Sequence[Prompt], model: HF) -> Sequence[Prompt]:
        bank = DemonstrationBank(self.strength)  # of this step: the last bits of states depend on the batch
        return bank.virtual(prompts, model, trained.tensors["map"], ("in training",))

    def fit(self, data: FitData) -> FittedTensors:
        states, embeddings = text_states([one.prompt for one in data.sources], data.model)
        affine = ridge_map(states, embeddings, self.ridge)
        prompts = [one.prompt for one in data.choice]
        virtual = DemonstrationBank().virtual(prompts, data.model, affine, ())
        report = {
            **data.reference_accuracies(),
            "text_only": data.accuracies([()], [texts_only(prompt) for prompt in prompts])[0],
            "aim": data.accuracies([()], virtual)[0],
            "tokens": len(states),
            "explained": explained_share(apply_map(affine, states), embeddings),
        }
        return FittedTensors({"map": affine}, {"ridge": self.ridge}, report)


def explained_share(values: Tensor, targets: Tensor) -> float:
    """Share of the variance of targets [n, d] that values explain."""
    spread = (targets - targets.mean(0)).square().sum()
    return float(1 - (targets - values).square().sum() / spread)
