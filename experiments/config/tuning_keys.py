"""The keys of `tune` in an experiment file: how `icl tune` trains an adapter for the model of the file.

They change no sample and no digest. `icl run` ignores them.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen

from icl.registry import NestedComponent

Objective = Literal["sft", "dpo", "realign", "distill"]
Parameters = Literal["lora", "projector", "vectors"]
Count = Annotated[int, Ge(1), Le(1_000_000)]
Steps = Annotated[int, Ge(0), Le(10_000_000)]
Fraction = Annotated[float, Ge(0), Lt(1)]
Positive = Annotated[float, Gt(0)]
Modules = Annotated[tuple[Annotated[str, MinLen(1)], ...], MinLen(1)]

Shots = Annotated[int, Ge(0), Le(10_000)]
ShotsList = Annotated[tuple[Shots, ...], MinLen(1)]
Relations = tuple[Annotated[Any, NestedComponent("retriever")], ...]


class TuningControl(StrEnum):
    """A control of an adapter, trained on the same queries in the same order (`experiments.tuning.tune`)."""

    ZERO_SHOT = "zero_shot"
    SHUFFLED = "shuffled"


@dataclass(frozen=True, kw_only=True)
class TuneSpec:
    """The training of an adapter on episodes: prompts with demonstrations, and the answers of their queries."""

    task: Annotated[Any, NestedComponent("task")]  # task with the training queries and their pools
    dev: Annotated[Any, NestedComponent("task")] = None  # task whose loss is measured at every checkpoint
    objective: Objective = "sft"  # sft: cross-entropy of the answer; dpo: against a wrong one, and sft;
    # realign: Re-Align; distill: without demonstrations, towards the base model with them, and sft
    nearest: Annotated[Any, NestedComponent("retriever")] = "knn"  # realign: ranks the other images of the query's pool
    parameters: Parameters = "lora"  # lora: matrices in the decoder; projector: all weights of the model's own
    # projector; vectors: the tensors of tune.intervene
    intervene: Annotated[Any, NestedComponent("intervention")] = "m2iv"  # vectors: the intervention that trains
    shots: Shots | ShotsList | None = (
        None  # shots of an episode, or a list of which each draws one; null: the largest number of the file
    )
    relations: Relations = ()  # retrievers of which each episode draws one; empty: the retriever of the file
    steps: Steps = 200  # optimizer steps
    batch: Count = 16  # episodes of a step
    rows: Count = 16  # episodes of one forward pass; fewer need less memory
    lr: Positive = 1e-3  # learning rate after the warm-up; it falls linearly to 0
    warmup: Fraction = 0.05  # share of the steps in which the learning rate rises
    rank: Count = 16  # lora: rank of the LoRA matrices
    alpha: Positive = 32.0  # lora: scale; its product is multiplied by alpha / rank
    dropout: Fraction = 0.0  # lora: share of a layer's inputs that are set to 0
    modules: Modules = ("q_proj", "k_proj", "v_proj", "o_proj")  # lora: names of the decoder's linear modules
    beta: Positive = 0.1  # dpo, realign: weight of the distance from the base model
    sft_weight: Annotated[float, Ge(0)] = 1.0  # all but sft: weight of the cross-entropy that is added
    clip: Positive = 1.0  # largest norm of the gradient
    save_every: Count = 50  # steps between two checkpoints
    seed: Annotated[int, Ge(0)] = 0  # seed of the first weights, of the order of queries and of demonstrations
