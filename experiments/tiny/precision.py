"""How far bfloat16 and padded batches are from float32 prompts run alone."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor

from experiments.tiny.index import Index
from experiments.tiny.layout import Layout, Turn
from experiments.tiny.lessons import ask, attribute, bind, operator
from experiments.tiny.pool import Pool
from experiments.tiny.runner import Runner
from icl.tasks.generated.world import HELD_OUT


@dataclass(frozen=True)
class Agreement:
    """same: rows whose best token is the same, of n; largest: logit difference over all rows and tokens."""

    same: int
    n: int
    largest: float


def mixed_sequences(index: Index, n: int) -> list[list[Turn]]:
    """Prompts of different lengths and image counts, 0 to 16 demonstrations."""
    rng = np.random.default_rng(21)
    out = []
    for i in range(n):
        turns = int(rng.integers(1, 18))
        lessons = (
            lambda t=turns: bind(rng, index, 2, t, concepts=HELD_OUT),
            lambda t=turns: ask(rng, index, t),
            lambda t=turns: operator(rng, index, t),
            lambda t=turns: attribute(rng, index, t),
        )
        out.append(lessons[i % 4]())
    return out


def _compare(reference: Tensor, other: Tensor) -> Agreement:
    same = int((reference.argmax(-1) == other.argmax(-1)).sum())
    return Agreement(same, len(reference), float((reference - other).abs().max()))


@torch.no_grad()
def alone(runner: Runner, turns: list[Turn], pool: Pool) -> Tensor:
    """Logits [V] of one prompt through processor, pixels and model, without a cache of features or padding."""
    images = [PILImage.fromarray(pool.images[turn.image]) for turn in turns]
    inputs = runner.processor(text=[runner.prompt(turns, Layout())], images=[images], return_tensors="pt")
    logits: Tensor = runner.model(**inputs).logits[0, -1].float()
    return logits


def agreements(vlm: Path, pool: Pool, n: int = 200) -> dict[str, Agreement]:
    """Against float32 prompts alone: padded batches of 64 in float32, and in bfloat16."""
    index = Index(pool)
    sequences = mixed_sequences(index, n)
    full = Runner(vlm)
    reference = torch.stack([alone(full, turns, pool) for turns in sequences])
    out = {"float32, padded batches": _compare(reference, full.logits(sequences, full.features(pool.images), Layout()))}
    half = Runner(vlm, torch.bfloat16)
    logits = half.logits(sequences, half.features(pool.images), Layout())
    return out | {"bfloat16, padded batches": _compare(reference, logits)}
