"""Stage 1: the tower learns the facts of images. One linear head per fact reads the single image token.

Held-out concepts appear as images with color and shape as separate facts; their pair has no head: nothing names it.
"""

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icl.tasks.generated.world import KINDS, TRAINING_CONCEPTS
from lab.tiny import state
from lab.tiny.pool import COLUMN, COUNT_FACTS, FACTS, SINGLE_FACTS, ImagePool, make_pool
from lab.tiny.tower import Tower, TowerShape

PAIRS = [COLUMN[f"n_{color}_{shape}"] for color, shape in TRAINING_CONCEPTS]
WEIGHTS = {"size": 1.5, "texture": 1.5, "count": 1.5, "place": 0.7, "left": 1.0, "right": 1.0}
COUNTS_WEIGHT, PAIRS_WEIGHT = 0.4, 0.8  # weights of the sums over colors and shapes, and over pairs
SCENES_FROM = 0.3  # share of the steps


class FactHeads(nn.Module):
    """Linear readers of a normed image token [B, out]."""

    def __init__(self, out: int) -> None:
        super().__init__()
        self.single = nn.Linear(out, sum(SINGLE_FACTS.values()))
        self.counts = nn.Linear(out, sum(COUNT_FACTS.values()))
        self.pairs = nn.Linear(out, 4 * len(PAIRS))  # 0, 1, 2, 3 or more

    def logits(self, token: Tensor) -> dict[str, Tensor]:
        """Fact -> [B, classes]."""
        token = F.rms_norm(token, token.shape[-1:])  # the scale at which the decoder reads it
        single = self.single(token).split(list(SINGLE_FACTS.values()), -1)
        counts = self.counts(token).split(list(COUNT_FACTS.values()), -1)
        return dict(zip((*SINGLE_FACTS, *COUNT_FACTS), (*single, *counts), strict=True)) | {
            "pairs": self.pairs(token).unflatten(-1, (len(PAIRS), 4))
        }

    def loss(self, token: Tensor, facts: Tensor) -> Tensor:
        """token: [B, out], facts: [B, len(FACTS)] -> mean loss; facts that do not apply to an image have no loss."""
        total = token.new_zeros(())
        logits = {name: out.float() for name, out in self.logits(token).items()}
        for name in SINGLE_FACTS:
            target = facts[:, COLUMN[name]]
            total = total + WEIGHTS.get(name, 1.0) * F.cross_entropy(
                logits[name], target, ignore_index=-1, reduction="sum"
            ) / len(facts)
        stacked = torch.stack([logits[name] for name in COUNT_FACTS], 1)  # [B, 18, classes]
        target = facts[:, [COLUMN[name] for name in COUNT_FACTS]]
        total = total + COUNTS_WEIGHT * F.cross_entropy(
            stacked.flatten(0, 1), target.flatten(), ignore_index=-1, reduction="sum"
        ) / len(facts)
        pairs = facts[:, PAIRS].clamp(max=3)
        return total + PAIRS_WEIGHT * F.cross_entropy(
            logits["pairs"].flatten(0, 1), pairs.flatten(), ignore_index=-1, reduction="sum"
        ) / len(facts)


@torch.no_grad()
def accuracy(tower: Tower, heads: FactHeads, pool: ImagePool) -> dict[str, float]:
    """The share of right classes of each fact; counts and pairs only if the true number is above zero."""
    images, facts = torch.from_numpy(pool.images), torch.from_numpy(pool.facts)
    parts = [heads.logits(tower(images[i : i + 250])) for i in range(0, len(pool), 250)]
    predictions = {name: torch.cat([p[name] for p in parts]).argmax(-1) for name in parts[0]}
    out = {}
    for name in SINGLE_FACTS:
        target = facts[:, COLUMN[name]]
        out[name] = (predictions[name] == target)[target >= 0].float().mean().item()
    scene = facts[:, COLUMN["kind"]] == 3
    for label, names in (("n_color", list(COUNT_FACTS)[:10]), ("n_shape", list(COUNT_FACTS)[10:])):
        right = torch.stack([predictions[n] == facts[:, COLUMN[n]] for n in names], 1)
        some = (facts[:, [COLUMN[n] for n in names]] > 0) & scene[:, None]
        out[label] = right[some].float().mean().item()
    target = facts[:, PAIRS].clamp(max=3)
    out["pairs"] = (predictions["pairs"] == target)[(target > 0) & scene[:, None]].float().mean().item()
    return {name: round(v, 3) for name, v in out.items()}


def train(  # noqa: PLR0917
    out: Path,
    seed: int = 0,
    steps: int = 10_000,
    batch: int = 96,
    lr: float = 2e-3,
    images: int = 150_000,
    checked: int = 2000,
) -> Tower:
    """Trains the tower to `out` and returns it; a saved run continues. `checked`: images of the reports."""
    running = out.with_name("tower.run.safetensors")
    shape = TowerShape()
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    tower, heads = Tower(shape), FactHeads(shape.out)
    both = nn.ModuleList([tower, heads])
    optimizer = torch.optim.AdamW(both.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.02, fused=True)
    first = state.load_run(running, both, [optimizer], rng)
    pool, check = make_pool(1000 + seed, images), make_pool(10_001, checked)
    x, y = torch.from_numpy(pool.images), torch.from_numpy(pool.facts)
    scenes = np.flatnonzero(pool.facts[:, COLUMN["kind"]] == KINDS.index("scene"))
    start = time.time()
    for step in range(first, steps):
        done = step / steps
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 100) * (1.0 if done < 0.5 else max(0.01, 2 * (1 - done)))
        rows = rng.integers(0, len(pool), batch)
        if done >= SCENES_FROM:  # single shapes first, then scenes, which are harder, in half of a batch
            rows[: batch // 2] = rng.choice(scenes, batch // 2)
        chosen = torch.from_numpy(rows)
        with torch.autocast("cpu", torch.bfloat16):
            loss = heads.loss(tower(x[chosen]), y[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 500 == 0:
            left = (time.time() - start) / (step + 1 - first) * (steps - step - 1)
            print(
                f"tower step {step + 1}/{steps} loss {loss.item():.3f} {left / 60:.1f} min left",
                accuracy(tower, heads, check),
                flush=True,
            )
            state.save_run(running, both, [optimizer], rng, step + 1)
    state.save(out, dict(tower.state_dict()), {"shape": shape.asdict(), "accuracy": accuracy(tower, heads, check)})
    running.unlink(missing_ok=True)
    return tower


def load_tower(path: Path) -> Tower:
    """The tower that `train` saved, for scoring."""
    tensors, notes = state.load(path)
    tower = Tower(TowerShape(**notes["shape"]))
    tower.load_state_dict(tensors)
    return tower.eval()


assert len(FACTS) == len(COLUMN)
