"""Measures logits, memory and speed of each model of a run in a process of its own, on the same prompts.

    python -m experiments.analyses.quantization_measurements RUN LABEL FILE      one model; the analysis calls this

The process holds one model, so its peak memory belongs to that model. Prompts are some of the run's own: a few queries
of every task, number of shots and retriever, under the first seed. Results are stored in RUN/precision/ under the
model's digest and are reused.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from icl import ICLError, ModelError, Prompt, torch

if TYPE_CHECKING:
    from experiments import RunView
    from experiments.grid.grid import Cell, Grid

QUERIES_PER_SETTING = 16
"""The number of queries of each task, number of shots and retriever."""
NEW_TOKENS = 8
MIB = 2**20

Floats = NDArray[np.float32]
Numbers = dict[str, float]


def measure_models(view: "RunView", full: str) -> dict[str, Numbers]:
    """kl, kl_max, weights_mib, peak_mib and tokens_s of each model. Raises ModelError if one cannot be run."""
    files = _files(view)
    next(iter(files.values())).parent.mkdir(exist_ok=True)
    for label, file in files.items():
        if not file.is_file():
            _in_a_process(view.path, label, file, view.trust)
    return _read(files, full)


def read_measurements(view: "RunView", full: str) -> dict[str, Numbers]:
    """The stored measurements; none if full precision was not measured."""
    files = {label: file for label, file in _files(view).items() if file.is_file()}
    return _read(files, full) if full in files else {}


def _files(view: "RunView") -> dict[str, Path]:
    labels = list(dict.fromkeys(map(str, view.scores["model"])))
    folder = view.path / "precision"
    return {label: folder / f"{re.sub(r'[^A-Za-z0-9=]+', '-', label).strip('-')}.npz" for label in labels}


def _read(files: Mapping[str, Path], full: str) -> dict[str, Numbers]:
    read = {label: np.load(file) for label, file in files.items()}
    reference: Floats = read[full]["logprobs"]
    measurements: dict[str, Numbers] = {}
    for label, one in read.items():
        own: Floats = one["logprobs"]
        if own.shape != reference.shape:
            raise ModelError(f"{files[label]} was measured on other prompts than {files[full]}: delete both.")
        numbers: Numbers = json.loads(str(one["numbers"]))
        divergences = kl_divergences(reference, own)
        kl = {"kl": float("nan"), "kl_max": float("nan")}
        measurements[label] = (
            kl if label == full else {"kl": float(divergences.mean()), "kl_max": float(divergences.max())}
        ) | numbers
    return measurements


def kl_divergences(full: Floats, other: Floats) -> NDArray[np.float64]:
    """[N] KL(full || other) in nats, for [N, V] log-probabilities."""
    p = full.astype(np.float64)
    gap = np.where(np.isfinite(p), p - other.astype(np.float64), 0.0)
    summed: NDArray[np.float64] = (np.exp(p) * gap).sum(-1)
    return np.maximum(summed, 0.0)


def _in_a_process(run: Path, label: str, file: Path, trust: bool) -> None:
    command = [sys.executable, "-m", "experiments.analyses.quantization_measurements", str(run), label, str(file)]
    command += ["--trust"] * trust
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "it said nothing")
        raise ModelError(f"{label} could not be measured: {last}")


def main(run: Path, label: str, file: Path, trust: bool = False) -> None:
    """Measures one model of a run and writes the file."""
    from decoding import DecodingRequest, parse_arm, run_requests
    from experiments.grid.grid import expand
    from experiments.results.loaded_run import load_run

    grid = expand(load_run(run, trust).load_config())
    cells = [cell for cell in grid.cells if str(cell.labels["model"]) == label]
    model: Any = cells[0].model
    if "logits" not in model.abilities:
        raise ModelError(f"{label} returns no logits, so its divergence cannot be measured; it needs `model: hf`.")
    prompts = measurement_prompts(grid, cells)
    model.load()
    logits = [model.open([prompt]).logits for prompt in prompts]
    requests = [DecodingRequest(prompt, parse_arm("greedy"), max_new_tokens=NEW_TOKENS) for prompt in prompts]
    run_requests(model, requests[:1], trace=False)  # warm-up
    start = time.perf_counter()
    answers = run_requests(model, requests, trace=False)
    seconds = time.perf_counter() - start
    tokens = sum(len(getattr(answer, "tokens", ())) + 1 for answer in answers)
    weights = model.weights_bytes / MIB
    numbers = {"weights_mib": weights, "peak_mib": _peak() / MIB, "tokens_s": tokens / seconds}
    logprobs = np.concatenate([one.log_softmax(-1).float().cpu().numpy() for one in logits])
    with file.with_suffix(".part").open("wb") as out:
        np.savez(out, logprobs=logprobs, numbers=json.dumps(numbers))
    file.with_suffix(".part").replace(file)


def measurement_prompts(grid: "Grid", cells: "list[Cell]") -> list[Prompt]:
    """The first queries of every task, number of shots and retriever, under the first seed."""
    from experiments.contexts.contexts import Retrieval, build_contexts, prompt_specs, render

    prompts: list[Prompt] = []
    for task in grid.tasks:
        mine = [cell for cell in cells if cell.task is task and cell.seed == grid.config.seeds[0]]
        for shots in sorted({cell.shots for cell in mine}):
            retrieval = Retrieval(task, mine[0].model)
            recipes = prompt_specs([cell for cell in mine if cell.shots == shots])
            for row in build_contexts(retrieval, recipes, task.queries[:QUERIES_PER_SETTING]):
                made = [render(item).prompt for item in row]
                prompts += [prompt for prompt in made if prompt is not None]
    return prompts


def _peak() -> float:
    """Peak memory in bytes: of the GPU's allocations, or of the process without a GPU. NaN on Windows without a GPU."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak * (1 if sys.platform == "darwin" else 1024))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), "--trust" in sys.argv[4:])
    except ICLError as problem:
        sys.exit(str(problem))
