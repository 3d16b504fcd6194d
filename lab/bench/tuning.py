"""Speed of `icl fit` on the shipped model, against loops that train the same LoRA adapter on the same answers.

plain loop     transformers and peft alone: batches of the processor that were made before, labels in the forward
passes alone   forward and backward passes of `icl fit` on prompts that were encoded before
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from experiments.config.config import load_config
from experiments.config.keys import TuneSpec
from experiments.tuning.checkpoint import TrainingFolder
from experiments.tuning.episodes import Episode, EpisodeStream
from experiments.tuning.objectives import IGNORED, EncodedStep, chunk_loss, encode_step, end_token
from experiments.tuning.train import train
from experiments.tuning.trained_parts import TrainedLora
from experiments.tuning.tune import episode_stream, training_cell
from icl.models.hf.model import HF
from lab.bench import Row, one_thread
from lab.bench.decoding import processed
from lab.bench.timing import cpu_rounds, round_ratios, with_spread

LONG, SHORT, ROUNDS = 10, 2, 3
"""Steps of two trainings, whose difference has neither loading nor the first steps; and rounds."""


def rows() -> Iterator[Row]:
    """All figures of this file."""
    config = load_config("tune_binding", [f"tune.steps={LONG + 1}"])
    assert config.tune is not None
    spec = config.tune
    cell = training_cell(config, spec, None)
    stream = episode_stream(config, spec, cell)
    with one_thread(), TemporaryDirectory() as folder:
        steps = [stream.episodes(step) for step in range(LONG)]
        ours = partial(_tuned, spec, lambda: episode_stream(config, spec, cell), Path(folder), count())
        model = HF(path="tiny", device="cpu")
        model.load()
        part = TrainedLora(model, spec)
        encoded = [encode_step(model, part, spec, one) for one in steps]
        batches = [_batch(model, one) for one in steps]
        runs = (ours, partial(_passes, spec, encoded), partial(_plain, spec, batches))
        spent = cpu_rounds([partial(run, length) for run in runs for length in (LONG, SHORT)], ROUNDS)
    tuned, passes, plain = ([a - b for a, b in zip(*spent[i : i + 2], strict=True)] for i in (0, 2, 4))
    rate = sum(one.tokens for one in encoded[SHORT:]) / median(tuned)
    what = f"LoRA, {LONG - SHORT} steps of {spec.batch} episodes: tokens/s over"
    yield f"{what} a plain loop", f"{with_spread(round_ratios(plain, tuned))}, {rate:,.0f} tokens/s", ">= 0.95"
    yield f"{what} its passes alone", with_spread(round_ratios(passes, tuned)), ""


def _tuned(
    spec: TuneSpec, stream: Callable[[], EpisodeStream], folder: Path, number: Iterator[int], length: int
) -> None:
    """`icl fit` up to a step, with retrieval, rendering, tokens, image features, curve and checkpoint."""
    model = HF(path="tiny", device="cpu")
    train(model, spec, stream(), TrainingFolder(folder / str(next(number)), "bench"), stop_after=length)


def _passes(spec: TuneSpec, steps: Sequence[EncodedStep], length: int) -> None:
    model = HF(path="tiny", device="cpu")
    adapter = TrainedLora(model, spec)
    _loop(adapter, spec, [partial(chunk_loss, model.engine.runner, adapter, spec, one, 0) for one in steps[:length]])


def _plain(spec: TuneSpec, batches: Sequence[dict[str, Any]], length: int) -> None:
    adapter = TrainedLora(HF(path="tiny", device="cpu"), spec)
    _loop(adapter, spec, [partial(_loss, adapter, batch) for batch in batches[:length]])


def _loss(adapter: TrainedLora, batch: dict[str, Any]) -> torch.Tensor:
    loss: torch.Tensor = adapter.peft(**batch).loss
    return loss


def _loop(adapter: TrainedLora, spec: TuneSpec, losses: Sequence[Callable[[], torch.Tensor]]) -> None:
    parameters = list(adapter.parameters.values())
    optimizer = torch.optim.AdamW(parameters, lr=spec.lr, weight_decay=0.0)
    for loss in losses:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, spec.clip)
        optimizer.step()


def _batch(model: HF, episodes: Sequence[Episode]) -> dict[str, Any]:
    """The processor's inputs of all prompts with their answers, and labels that are the answers alone."""
    inputs = processed(model, [one.prompt for one in episodes])
    answers = [[*model.option_ids(one.prompt, [one.answer])[0], end_token(model)] for one in episodes]
    width = max(map(len, answers))
    tokens = torch.tensor([[*own, *[own[-1]] * (width - len(own))] for own in answers])
    real = torch.tensor([[1] * len(own) + [0] * (width - len(own)) for own in answers])
    labels = torch.cat([torch.full_like(inputs["input_ids"], IGNORED), tokens.masked_fill(real == 0, IGNORED)], 1)
    ids, mask = torch.cat([inputs["input_ids"], tokens], 1), torch.cat([inputs["attention_mask"], real], 1)
    more = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
    return {**more, "input_ids": ids, "attention_mask": mask, "labels": labels, "use_cache": False}
