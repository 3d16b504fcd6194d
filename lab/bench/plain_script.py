"""Runs against plain scripts, on new images: loops over batches of `generate` and nothing else.

A run also plans, retrieves, scores, stores each sample and its images, and loads its model; the scripts have a loaded
one. That costs the same for any model, so the ratio is larger for more questions and for a larger model. A grid answers
equal prompts once and encodes each image once, which a script does not.

Each figure is the time of the script over that of the run, by CPU time and by wall time. A run uses a second core if
one is free: its threads write prompts, process images, score and store while the model answers.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from decoding.strategies.vcd import VCD
from experiments.config.config import load_config
from experiments.running.run import run
from icl.models.hf.model import HF
from icl.registry import build
from icl.streams import StreamKey
from icl.tasks.base import Task
from icl.types import Context, Demo, Prompt
from lab.bench import Row, one_thread, rounds
from lab.bench.decoding import ContrastProcessor, processed
from prompts.composers.turns import Chat

BATCH, SHOTS, NEW_TOKENS, ROUNDS = 16, 4, 8, 3
QUESTIONS, MORE_QUESTIONS = 200, 2000
GRID_QUERIES, GRID_SEEDS = 136, 3
"""The quickstart with 22,848 samples. A quick benchmark takes 4 queries and 200 questions."""
GRID_SHOTS = (0, 2, 4, 8, 2, 4, 8)
"""Of the arms of each decoding: no demonstrations, and three numbers of them for each of two retrievers."""
OTHER_IMAGES = 1000
"""A seed of tasks that no run of a benchmark has."""
MODEL = {"name": "hf", "path": "tiny", "dtype": "float32", "device": "cpu"}

Times = tuple[float, float]
"""Seconds: of the process, on the clock."""


def rows() -> Iterator[Row]:
    """The figures of this file, on one thread of torch."""
    with one_thread(), TemporaryDirectory() as folder:
        model = HF(path="tiny", dtype="float32", device="cpu")
        model.load()
        is_quick = rounds(ROUNDS) < ROUNDS
        for questions, times in ((QUESTIONS, rounds(ROUNDS)), *([] if is_quick else [(MORE_QUESTIONS, 1)])):
            run_one, script = partial(_run, Path(folder), questions), partial(_script, model, questions)
            # Other images for the script, because the process still has those of the run.
            pairs = [(_timed(run_one, seed), _timed(script, OTHER_IMAGES + seed)) for seed in range(times + 1)]
            what = f"one arm of {questions:,} questions, {SHOTS} shots: speed over a script"
            goal = ">= 1.0" if questions == QUESTIONS else ">= 1.5"
            yield what, _figure(pairs[1:]), goal  # the first round loads modules
        queries = 4 if is_quick else GRID_QUERIES
        pair = _timed(_run_grid, Path(folder), queries), _timed(_grid_script, model, queries)
        # The seeds of the script differ in the demonstrations alone.
        script_times = GRID_SEEDS * pair[1][0], GRID_SEEDS * pair[1][1]
        what = f"grid of {_grid_samples(queries):,} samples: speed over a script"
        yield what, _figure([(pair[0], script_times)]), ">= 12"


def _timed(function: Callable[..., object], *arguments: Any) -> Times:
    before = time.process_time(), time.perf_counter()
    function(*arguments)
    return time.process_time() - before[0], time.perf_counter() - before[1]


def _figure(pairs: Sequence[tuple[Times, Times]]) -> str:
    """Medians over rounds of the ratios, and the CPU seconds of run and script."""
    cpu, wall = (median(script[i] / ours[i] for ours, script in pairs) for i in range(2))
    ours, script = (median(pair[i][0] for pair in pairs) for i in range(2))
    return f"CPU {cpu:.2f} ({ours:.1f} s, {script:.1f} s), wall {wall:.2f}"


def _run(folder: Path, questions: int, seed: int) -> None:
    config: dict[str, Any] = {
        "name": f"plain-{questions}-{seed}",
        "task": {"name": "binding", "queries": questions, "seed": seed},
        "model": MODEL,
        "seeds": [0],
        "grid": {"shots": [SHOTS]},
        "max_new_tokens": NEW_TOKENS,
    }
    run(load_config(config), folder)


def _script(model: HF, questions: int, seed: int) -> None:
    """Answers the questions of a task in batches, with the first examples of the pool as demonstrations."""
    task = build("task", {"name": "binding", "queries": questions, "seed": seed})
    for batch in _batches(task, SHOTS):
        _answer(model, batch)


def _grid_tasks(queries: int) -> list[dict[str, Any]]:
    return [{"name": "easy-vqa", "queries": queries}, {"name": "binding", "ways": 4, "queries": queries}]


def _grid_samples(queries: int) -> int:
    return 2 * queries * GRID_SEEDS * 4 * len(GRID_SHOTS)


def _run_grid(folder: Path, queries: int) -> None:
    file = Path(str(files("experiments") / "configs" / "quickstart.yaml"))
    overrides = [f"grid.task={json.dumps(_grid_tasks(queries))}", f"model={json.dumps(MODEL)}", "name=grid"]
    outcome = run(load_config(file, overrides), folder)
    assert outcome.computed == _grid_samples(queries), outcome


def _grid_script(model: HF, queries: int) -> None:
    """Answers every sample of one seed: vcd with its second prompt, its controls and greedy with one."""
    for node in _grid_tasks(queries):
        for shots in GRID_SHOTS:
            for batch in _batches(build("task", node), shots):
                for is_vcd in (False, False, False, True):
                    _answer(model, batch, is_vcd)


def _batches(task: Task, shots: int) -> Iterator[list[Prompt]]:
    prompts: list[Prompt] = []
    for query in task.queries:
        demos = tuple(Demo(example, 0.0, i) for i, example in enumerate(task.pool(query.id).examples[:shots]))
        prompts.append(Chat().compose(Context(query.query, demos, StreamKey(0, query.id))))
    for start in range(0, len(prompts), BATCH):
        yield prompts[start : start + BATCH]


def _answer(model: HF, prompts: Sequence[Prompt], is_vcd: bool = False) -> list[str]:
    import torch

    inputs, language_model, processors = processed(model, prompts), model.engine.runner.model, []
    if is_vcd:
        noised = processed(model, [VCD().branches(prompt)[1] for prompt in prompts])
        processors.append(ContrastProcessor(language_model, noised, VCD()))
    with torch.inference_mode():
        made = language_model.generate(
            **inputs, do_sample=False, max_new_tokens=NEW_TOKENS, pad_token_id=0, logits_processor=processors
        )
    texts: list[str] = model.checkpoint.processor.batch_decode(
        made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    return texts
