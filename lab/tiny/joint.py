"""Stage 3: tower, connector and decoder train together from pixels, for few steps at a low learning rate.

Until here the decoder has read stored tokens and the tower has answered to its fact heads. Together the tower learns
what the sequences need, captions above all. The lessons are those of stage 2, without guides.
"""

import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from icl.tasks.generated.world import TRAINING_CONCEPTS
from lab.tiny import state
from lab.tiny.curriculum import draw_batch, draw_lesson
from lab.tiny.decoder import Decoder
from lab.tiny.index import PoolIndex
from lab.tiny.pool import make_pool
from lab.tiny.tower import Tower
from lab.tiny.train import loss_of

CAPTIONS = 0.2  # share of batches with captions, next to the curriculum


def image_tokens(tower: Tower, images: Tensor, indices: NDArray[np.int64]) -> Tensor:
    """Tokens of one batch's images, [P, out], each distinct image encoded once. images: uint8 [N, 64, 64, 3]."""
    distinct, back = np.unique(indices, return_inverse=True)
    with torch.autocast("cpu", torch.bfloat16):
        tokens = tower(images[torch.from_numpy(distinct)])
    rows: Tensor = tokens.float()[torch.from_numpy(back)]
    return rows


def train_together(  # noqa: PLR0917
    out: Path,
    tower: Tower,
    decoder: Decoder,
    seed: int,
    steps: int = 500,
    images: int = 60_000,
    lr: float = 2.5e-4,
    save_every: int = 100,
    stop_after: int | None = None,
) -> None:
    """Trains both in place and saves them to `out`; a saved run continues."""
    running = out.with_name("joint.run.safetensors")
    rng = np.random.default_rng((11, seed))
    pool = make_pool(3000 + seed, images, concepts=TRAINING_CONCEPTS)
    index, pixels = PoolIndex(pool), torch.from_numpy(pool.images)
    both = nn.ModuleDict({"tower": tower, "decoder": decoder}).train()
    optimizer = torch.optim.AdamW(both.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.02, fused=True)
    first = state.load_run(running, both, [optimizer], rng)
    start, losses = time.time(), []
    for step in range(first, steps):
        if step == stop_after:
            return
        for group in optimizer.param_groups:
            group["lr"] = lr * state.rate(step, steps, 20)
        optimizer.zero_grad(set_to_none=True)
        for _ in range(2):
            lesson = "describe" if rng.random() < CAPTIONS else draw_lesson(rng)
            batch = draw_batch(rng, index, lesson)
            tokens, places = decoder.lm.embed_tokens.weight.new_zeros(0, tower.shape.out), batch.images
            if len(places):
                tokens = image_tokens(tower, pixels, places)
            batch.images = np.arange(len(places))
            answer, _ = loss_of(decoder, batch, tokens, index, guided=False)
            (answer / 2).backward()  # type: ignore[no-untyped-call]
            losses.append(answer.item())
        nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0:
            left = (time.time() - start) / (step + 1 - first) * (steps - step - 1) / 60
            print(
                f"joint seed {seed} step {step + 1}/{steps} loss {np.mean(losses[-100:]):.3f} {left:.1f} min left",
                flush=True,
            )
        if (step + 1) % save_every == 0:
            state.save_run(running, both, [optimizer], rng, step + 1)
    notes = {"tower": tower.shape.asdict(), "decoder": decoder.shape.asdict(), "seed": seed, "steps": steps}
    state.save(out, dict(both.state_dict()), notes)
    running.unlink(missing_ok=True)


def load_both(path: Path, tower: Tower, decoder: Decoder) -> None:
    """Loads the weights that `train_together` saved into both, for scoring."""
    tensors, _ = state.load(path)
    both = nn.ModuleDict({"tower": tower, "decoder": decoder})
    both.load_state_dict(tensors)
    both.eval()
