"""The difference of bfloat16 and of padded batches from float32 prompts run alone."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor

from icl.tasks.generated.world import HELD_OUT_CONCEPTS
from lab.tiny.index import PoolIndex
from lab.tiny.layout import PromptLayout, TokenTurn
from lab.tiny.lessons import ask, attribute, bind, operator
from lab.tiny.pool import ImagePool
from lab.tiny.runner import CheckpointRunner


@dataclass(frozen=True)
class LogitAgreement:
    """Agreement of logits: rows with the same best token, of n, and the largest logit difference."""

    same: int
    n: int
    largest: float


def mixed_sequences(index: PoolIndex, n: int) -> list[list[TokenTurn]]:
    """Prompts of different lengths and image counts, 0 to 16 demonstrations."""
    rng = np.random.default_rng(21)
    out = []
    for i in range(n):
        turns = int(rng.integers(1, 18))
        lessons = (
            lambda t=turns: bind(rng, index, 2, t, concepts=HELD_OUT_CONCEPTS),
            lambda t=turns: ask(rng, index, t),
            lambda t=turns: operator(rng, index, t),
            lambda t=turns: attribute(rng, index, t),
        )
        out.append(lessons[i % 4]())
    return out


def _compare(reference: Tensor, other: Tensor) -> LogitAgreement:
    same = int((reference.argmax(-1) == other.argmax(-1)).sum())
    return LogitAgreement(same, len(reference), float((reference - other).abs().max()))


@torch.no_grad()
def alone(runner: CheckpointRunner, turns: list[TokenTurn], pool: ImagePool) -> Tensor:
    """Logits [V] of one prompt through processor, pixels and model, without a cache of features or padding."""
    images = [PILImage.fromarray(pool.images[turn.image]) for turn in turns]
    inputs = runner.processor(text=[runner.prompt(turns, PromptLayout())], images=[images], return_tensors="pt")
    logits: Tensor = runner.model(**inputs).logits[0, -1].float()
    return logits


def agreements(vlm: Path, pool: ImagePool, n: int = 200) -> dict[str, LogitAgreement]:
    """Compares float32 prompts alone with padded batches of 64 in float32, and in bfloat16."""
    index = PoolIndex(pool)
    sequences = mixed_sequences(index, n)
    full = CheckpointRunner(vlm)
    reference = torch.stack([alone(full, turns, pool) for turns in sequences])
    out = {
        "float32, padded batches": _compare(
            reference, full.logits(sequences, full.features(pool.images), PromptLayout())
        )
    }
    half = CheckpointRunner(vlm, torch.bfloat16)
    logits = half.logits(sequences, half.features(pool.images), PromptLayout())
    return out | {"bfloat16, padded batches": _compare(reference, logits)}
