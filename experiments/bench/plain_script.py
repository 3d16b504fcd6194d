"""A run with one arm against a plain script, on new images: a loop over batches of `generate` and nothing else.

The run also plans, retrieves, scores, stores each sample and writes its tables. That costs the same for any model, so
the ratio is larger for more questions and for a larger model.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from experiments.bench import Row, one_thread, rounds
from experiments.bench.decoding import processed
from experiments.config.config import load_config
from experiments.running.run import run
from icl.models.hf.model import HF
from icl.streams import StreamKey
from icl.tasks.generated.binding import BindingTask
from icl.types import Context, Demo, Prompt
from prompts.composers.chat import Chat

QUESTIONS, SHOTS, BATCH, NEW_TOKENS, ROUNDS = 200, 4, 16, 8, 3


def rows() -> Iterator[Row]:
    """The figures of this file, on one thread."""
    with one_thread(), TemporaryDirectory() as folder:
        model = HF(path="tiny", dtype="float32", device="cpu")
        model.load()
        runs: list[Callable[[int], object]] = [partial(_run, Path(folder)), partial(_script, model)]
        seconds: list[list[tuple[float, float]]] = [[], []]
        for seed in range(rounds(ROUNDS) + 1):
            for times, one in zip(seconds, runs, strict=True):
                before = time.process_time(), time.perf_counter()
                one(seed)
                times.append((time.process_time() - before[0], time.perf_counter() - before[1]))
        for i, kind in enumerate(("CPU time", "wall time")):  # the first round loads modules
            ours, theirs = (median(each[i] for each in times[1:]) for times in seconds)
            figure = f"{theirs / ours:.2f}, {ours:.1f} s, {theirs:.1f} s"
            yield f"one arm of {QUESTIONS} questions, {SHOTS} shots: speed over a script, {kind}", figure, ""


def _run(folder: Path, seed: int) -> None:
    config: dict[str, Any] = {
        "name": f"plain-{seed}",
        "task": {"name": "binding", "queries": QUESTIONS, "seed": seed},
        "model": {"name": "hf", "path": "tiny", "dtype": "float32", "device": "cpu"},
        "seeds": [0],
        "grid": {"shots": [SHOTS]},
        "max_new_tokens": NEW_TOKENS,
    }
    run(load_config(config), folder)


def _script(model: HF, seed: int) -> None:
    """Answers the questions of a task in batches, with the first examples of the pool as demonstrations."""
    import torch

    task, prompts = BindingTask(seed=seed, query_limit=QUESTIONS), list[Prompt]()
    for query in task.queries:
        demos = tuple(Demo(example, 0.0, i) for i, example in enumerate(task.pool(query.id).examples[:SHOTS]))
        prompts.append(Chat().compose(Context(query.query, demos, StreamKey(0, query.id))))
    for start in range(0, len(prompts), BATCH):
        _answer(model, prompts[start : start + BATCH], torch.inference_mode)


def _answer(model: HF, prompts: Sequence[Prompt], inference_mode: Callable[[], Any]) -> list[str]:
    inputs = processed(model, prompts)
    with inference_mode():
        made = model.engine.runner.model.generate(**inputs, do_sample=False, max_new_tokens=NEW_TOKENS, pad_token_id=0)
    texts: list[str] = model.checkpoint.processor.batch_decode(
        made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    return texts
