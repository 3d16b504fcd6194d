"""The training loop: episodes, loss on answers, gradient step, checkpoint.

Episodes and dropout depend on the seed and the step alone. So a training run that was interrupted continues bit for
bit. A state is saved only after its loss has been computed and is a number.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from experiments.config.keys import TuneSpec
from experiments.tuning.checkpoint import CURVE, Curve, TrainingFolder, report_write_errors
from experiments.tuning.episodes import Episode, Episodes
from experiments.tuning.objectives import chunk_loss, encode_images_repeatably, encode_step, learning_rate
from experiments.tuning.projector import NewProjector, TrainedProjector
from experiments.tuning.trained_parts import TrainedLora, TrainedPart, TrainedVectors
from icl import ModelError, StreamKey, report_out_of_memory
from icl.models.hf.model import HF

Record = Mapping[str, Any]
"""What a file of vectors says about its training."""
PARTS: Mapping[str, Callable[[HF, TuneSpec, Episodes, Record], TrainedPart]] = {
    "lora": lambda model, spec, stream, record: TrainedLora(model, spec),
    "projector": lambda model, spec, stream, record: TrainedProjector(model, spec),
    "new_projector": lambda model, spec, stream, record: NewProjector(model, spec),
    "vectors": lambda model, spec, stream, record: TrainedVectors(model, spec, stream.prompts(), record),
}
"""Value of `tune.parameters` -> what trains."""
ReportProgress = Callable[[str, int, int], None]
DEV_STEPS = 4
"""Batches of dev episodes whose loss is measured at each checkpoint. They are the same each time."""


@dataclass(frozen=True)
class TrainingOutcome:
    """The result of `train`.

    Attributes:
        folder: The adapter's folder.
        steps: Optimizer steps in the adapter.
        computed: Those of them that this call has computed.
        first_loss: Loss before the first step that this call has computed, in nats a token.
        last_loss: Loss after the last step.
        tokens: Tokens of prompts and answers that this call has trained on.
        seconds: Time of the steps of this call.
    """

    folder: Path
    steps: int
    computed: int
    first_loss: float
    last_loss: float
    tokens: int
    seconds: float


def train(
    model: HF,
    spec: TuneSpec,
    stream: Episodes,
    folder: TrainingFolder,
    *,
    dev: Episodes | None = None,
    record: Record = MappingProxyType({}),
    report_progress: ReportProgress = lambda what, done, of: None,
    stop_after: int | None = None,
) -> TrainingOutcome:
    """Trains an adapter, from the state in the folder if there is one.

    Args:
        model: A model of its own: its weights change.
        spec: The settings.
        stream: The training episodes.
        folder: Where state, curve and adapter are written.
        dev: Episodes whose loss is measured at each checkpoint.
        record: What a file of vectors says about its training.
        report_progress: Called with a text and the number of steps done and planned.
        stop_after: Ends before this step, as a kill would.

    Raises:
        ModelError: The loss or the gradient is not a number. The folder has the last good adapter.
        StoreError: The folder cannot be written, or its state is damaged or of other settings.
    """
    with report_write_errors(folder.path):
        folder.path.mkdir(parents=True, exist_ok=True)
    encode_images_repeatably(model)
    part = PARTS[spec.parameters](model, spec, stream, record)
    parameters = list(part.parameters.values())
    optimizer = torch.optim.AdamW(parameters, lr=spec.lr, weight_decay=0.0)
    first, weights = folder.load(optimizer)
    if weights:
        part.load(weights)
    curve = Curve(folder.path / CURVE, first)
    saved: int | None = first if weights else None
    losses: list[float] = []
    tokens, start = 0, time.monotonic()
    for step in range(first, spec.steps + 1):
        if step == stop_after:
            break
        is_last = step == spec.steps
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, spec.steps, spec.lr, spec.warmup)
        optimizer.zero_grad(set_to_none=True)
        with torch.set_grad_enabled(not is_last):
            loss, count = _backward(model, part, spec, stream.episodes(step), step)
        _check(loss, "loss", step, saved, folder.path)
        losses.append(float(loss))
        if step % spec.save_every == 0 or is_last:
            more = {} if dev is None else {"dev_loss": _dev_loss(model, part, spec, dev)}
            folder.save(part.parameters, optimizer, step)
            part.save(folder.path)
            saved = step
        else:
            more = {}
        if is_last:
            curve.append(step=step, loss=losses[-1], **more)
            break
        norm = torch.nn.utils.clip_grad_norm_(parameters, spec.clip)
        _check(norm, "gradient", step, saved, folder.path)
        curve.append(step=step, loss=losses[-1], gradient_norm=float(norm), lr=optimizer.param_groups[0]["lr"], **more)
        optimizer.step()
        tokens += count
        report_progress(f"loss {losses[-1]:.3f}", step + 1, spec.steps)
    part.close()
    seconds = time.monotonic() - start
    done = first + max(0, len(losses) - 1)
    return TrainingOutcome(folder.path, done, done - first, losses[0], losses[-1], tokens, seconds)


def _backward(
    model: HF, part: TrainedPart, spec: TuneSpec, episodes: Sequence[Episode], step: int
) -> tuple[Tensor, int]:
    """Loss of a step's episodes, and their tokens. The gradient of the loss is added up if gradients are on."""
    encoded = encode_step(model, part, spec, episodes)
    total = torch.zeros((), device=model.engine.runner.device)
    for start in range(0, len(episodes), spec.rows):
        with report_out_of_memory(
            f"icl fit: a forward pass with tune.rows: {spec.rows}", "fewer rows, fewer shots or a larger device"
        ):
            with torch.random.fork_rng(enabled=spec.dropout > 0):
                if spec.dropout > 0:
                    torch.manual_seed(StreamKey(spec.seed, f"tune/{step}/{start}").number("tune/dropout", 32))
                loss = chunk_loss(model.engine.runner, part, spec, encoded, start)
            if torch.is_grad_enabled():
                loss.backward()  # type: ignore[no-untyped-call]
        total = total + loss.detach()
    return total, encoded.tokens


def _dev_loss(model: HF, part: TrainedPart, spec: TuneSpec, dev: Episodes) -> float:
    """Mean loss of the first dev batches, without dropout."""
    spec = replace(spec, dropout=0.0)
    batches = range(min(DEV_STEPS, -(-len(dev.queries) // dev.batch)))
    with torch.no_grad(), part.without_dropout():
        losses = [_backward(model, part, spec, dev.episodes(step), step)[0] for step in batches]
    return float(torch.stack(losses).mean())


def _check(value: Tensor, what: str, step: int, saved: int | None, folder: Path) -> None:
    """Raises ModelError if a loss or gradient is not a number."""
    if bool(value.isfinite()):
        return
    left = "No adapter was written" if saved is None else f"The adapter in {folder} is that of step {saved}"
    raise ModelError(
        f"icl fit: the {what} after {step} {'step' if step == 1 else 'steps'} is {float(value)}. {left}. Lower "
        f"tune.lr or raise tune.warmup, with another --out. The losses are in {folder / CURVE}."
    )
