"""Scores during training on unseen images and held-out concepts, without data of any package."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from icl.tasks.generated.world import HELD_OUT_CONCEPTS
from lab.tiny.decoder import Decoder
from lab.tiny.index import PoolIndex
from lab.tiny.layout import Batch, PromptLayout, TokenTurn
from lab.tiny.lessons import ask, attribute, bare, bind, describe, operator
from lab.tiny.pool import make_pool
from lab.tiny.tower import Tower, tokens_of


@dataclass(frozen=True)
class Dev:
    """An indexed pool of unseen images and its tokens [N, width]."""

    index: PoolIndex
    features: Tensor


def make_dev(tower: Tower, images: int = 6000) -> Dev:
    """Images of all concepts from a seed that no training uses."""
    pool = make_pool(20_001, images)
    return Dev(PoolIndex(pool), tokens_of(tower, torch.from_numpy(pool.images)))


@torch.no_grad()
def right(
    model: Decoder, sequences: Sequence[Sequence[TokenTurn]], features: Tensor, layout: PromptLayout, among: bool
) -> float:
    """Share of queries whose first answer token scores highest, in the whole vocabulary or among the options."""
    hits = []
    for i in range(0, len(sequences), 64):
        part = sequences[i : i + 64]
        batch = Batch(part, layout)
        states = model(torch.from_numpy(batch.tokens), torch.from_numpy(batch.image_at), features[batch.images])
        logits = model.lm_head(states[torch.arange(len(part)), torch.from_numpy(batch.slots)])
        for turns, row in zip(part, logits, strict=True):
            options = sorted({option[0] for option in turns[-1].options}) if among else None
            best = int(row.argmax()) if options is None else options[int(row[options].argmax())]
            hits.append(best == turns[-1].answer[0])
    return float(np.mean(hits))


def dev_scores(model: Decoder, dev: Dev, n: int = 128, layout: PromptLayout | None = None) -> dict[str, float]:
    """Accuracies by task and shots, n sequences each."""
    layout, rng, index, out = layout or PromptLayout(), np.random.default_rng(77), dev.index, {}

    def note(name: str, sequences: list[list[TokenTurn]], among: bool = False) -> None:
        out[name] = round(right(model, sequences, dev.features, layout, among), 2)

    for ways in (2, 4, 8):
        note(
            f"bind{ways}@8",
            [bind(rng, index, ways, 9, "pair", concepts=HELD_OUT_CONCEPTS, balanced=True) for _ in range(n)],
            True,
        )
    note(
        "bind4@16", [bind(rng, index, 4, 17, "pair", concepts=HELD_OUT_CONCEPTS, balanced=True) for _ in range(n)], True
    )
    note("near4@8", [bind(rng, index, 4, 9, "near", concepts=HELD_OUT_CONCEPTS, balanced=True) for _ in range(n)], True)
    for kind in ("texture", "size", "count", "shape", "color"):
        for hint in (True, False):
            note(
                f"{kind}{'+' if hint else '-'}@8",
                [bind(rng, index, 2, 9, kind, hint, balanced=True) for _ in range(n)],
                True,
            )
    for name, lesson in (("attribute", attribute), ("operator", operator), ("bare", bare)):
        for shots in (1, 4, 16):
            note(f"{name}@{shots}", [lesson(rng, index, shots + 1) for _ in range(n)])
    for name in (
        "plain_color",
        "plain_shape",
        "plain_yes_no",
        "count_all",
        "count_color",
        "count_both",
        "existence",
        "size",
    ):
        for shots in (0, 8):
            note(f"{name}@{shots}", [ask(rng, index, shots + 1, name) for _ in range(n)])
    note("describe@0", [describe(rng, index, 1) for _ in range(n)])
    return out
