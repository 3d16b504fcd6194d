"""Stage 2: the decoder trains on sequences over cached image tokens, with guided heads in the first half."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icl.tasks.generated.world import TRAINING_CONCEPTS
from lab.tiny import state
from lab.tiny.code import fact_code
from lab.tiny.curriculum import draw_batch, draw_lesson
from lab.tiny.decoder import Decoder, DecoderShape, HeadStates
from lab.tiny.dev import Dev, dev_scores
from lab.tiny.guides import guide_loss, number_lessons
from lab.tiny.index import PoolIndex
from lab.tiny.layout import Batch
from lab.tiny.pool import make_pool
from lab.tiny.tower import Tower, tokens_of
from lab.tiny.vocabulary import TOKENS

GUIDE, NUMBERS = 0.3, 0.5  # weights of the guides and of the number lessons
EARLY = 300  # steps in which every second lesson is binding of concepts


def loss_of(model: Decoder, batch: Batch, features: Tensor, index: PoolIndex, guided: bool) -> tuple[Tensor, Tensor]:
    """(answer loss with number lessons, guide loss) of one batch, float32 scalars."""
    keep: HeadStates | None = [] if guided else None
    with torch.autocast("cpu", torch.bfloat16):
        states = model(torch.from_numpy(batch.tokens), torch.from_numpy(batch.image_at), features[batch.images], keep)
        lessons = number_lessons(batch, index)
        grades = torch.from_numpy(np.concatenate([batch.grades, lessons]))
        logits = model.lm_head(states[grades[:, 0], grades[:, 1]]).float()
    each = F.cross_entropy(logits, grades[:, 2], reduction="none")
    answers = len(batch.grades)
    loss = each[:answers].mean()
    if len(lessons):
        loss = loss + NUMBERS * each[answers:].mean()
    return loss, guide_loss(keep, batch, index) if keep else loss.new_zeros(())


def train(  # noqa: PLR0917
    out: Path,
    tower: Tower,
    seed: int,
    steps: int,
    images: int = 60_000,
    lr: float = 1.6e-3,
    guided: float = 0.5,
    save_every: int = 250,
    dev_every: int = 2500,
    stop_after: int | None = None,
    dev: Dev | None = None,
) -> Decoder:
    """Trains the decoder to `out`; a saved run continues. `stop_after` ends early, as a kill would."""
    running = out.with_name("decoder.run.safetensors")
    torch.manual_seed(seed)
    rng = np.random.default_rng((7, seed))
    pool = make_pool(2000 + seed, images, concepts=TRAINING_CONCEPTS)
    index, features = PoolIndex(pool), tokens_of(tower, torch.from_numpy(pool.images))
    model = Decoder(DecoderShape(len(TOKENS)), fact_code(features, pool.facts))
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    first = state.load_run(running, model, [optimizer], rng)
    start, losses = time.time(), {}  # type: ignore[var-annotated]
    for step in range(first, steps):
        if step == stop_after:
            return model
        for group in optimizer.param_groups:
            group["lr"] = lr * state.rate(step, steps, 100, flat=0.1, floor=0.01)  # binding needs a falling rate
        optimizer.zero_grad(set_to_none=True)
        guiding = step < guided * steps
        early = step < EARLY
        for half in range(2):
            lesson = "bind" if early and half == 0 and step % 2 == 0 else draw_lesson(rng)
            answer, guide = loss_of(model, draw_batch(rng, index, lesson, early), features, index, guiding)
            ((answer + GUIDE * guide) / 2).backward()  # type: ignore[no-untyped-call]
            losses.setdefault(lesson, []).append((answer.item(), guide.item()))
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            each = (time.time() - start) / (step + 1 - first)
            means = {k: " ".join(f"{m:.2f}" for m in np.mean(v[-40:], 0)) for k, v in losses.items()}
            left = each * (steps - step - 1) / 60
            print(f"seed {seed} step {step + 1}/{steps} {each:.3f} s each, {left:.1f} min left", means, flush=True)
        if (step + 1) % save_every == 0:
            state.save_run(running, model, [optimizer], rng, step + 1)
        if dev is not None and (step + 1) % dev_every == 0:
            print("  dev", dev_scores(model, dev), flush=True)
    notes: dict[str, Any] = {"shape": model.shape.asdict(), "seed": seed, "steps": steps}
    state.save(out, dict(model.state_dict()), notes)
    running.unlink(missing_ok=True)
    return model


def load_decoder(path: Path) -> Decoder:
    """The decoder that `train` saved, for scoring."""
    tensors, notes = state.load(path)
    model = Decoder(DecoderShape(**notes["shape"]))
    model.load_state_dict(tensors)
    return model.eval()
