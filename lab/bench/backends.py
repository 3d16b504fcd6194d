"""Agreement between backends: the quickstart with a few queries on each backend, compared pair by pair.

    python -m lab.bench.backends runs/backends hf nf4         where transformers answers
    python -m lab.bench.backends runs/backends vllm remote    where vLLM is installed (the README says how)
    python -m lab.bench.backends runs/backends                the table of what has been run

`remote` starts `icl serve` itself. The reference is `hf` in float32 on a CPU. Answers are compared if both backends
read the same prompt. The *margin* of an answer is the log-probability of the best token minus that of the second one,
in nats, at its closest step. The *log-prob difference* of two backends is the difference between the log-probabilities
that they give to a token that both chose. Two answers that differ are explained if the margin is at most
`EXPLAINED_RATIO` times the largest log-prob difference among the answers that agree.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.config.config import load_config
from experiments.running.run import run
from experiments.stats.significance import mcnemar_p
from experiments.store.store import Store
from icl.errors import ICLError, ModelError

QUICKSTART = Path(__file__).parents[2] / "experiments" / "configs" / "quickstart.yaml"
QUERIES, SEEDS, SHOTS = 24, (0,), (0, 4)
METRIC = "lenient"
REFERENCE = "hf"
EXPLAINED_RATIO = 4.0
"""Two tokens can each move by one log-prob difference in each of two backends."""

MODELS: Mapping[str, Mapping[str, Any]] = {
    "hf": {"name": "hf", "path": "tiny"},
    "nf4": {"name": "hf", "path": "tiny", "quantize": "nf4"},
    "int8": {"name": "hf", "path": "tiny", "quantize": "int8"},
    "vllm": {"name": "vllm", "path": "tiny", "max_images": 16, "cache_gib": 0.5},
    "remote": {"name": "remote", "model": "tiny", "concurrency": 64},
}

Key = tuple[Any, ...]
Samples = Mapping[Key, Mapping[str, Any]]


@dataclass(frozen=True)
class Agreement:
    """Agreement of one backend with the reference on one task.

    Attributes:
        pairs: Samples whose prompts are equal.
        same: Pairs with equal answers.
        right: Right answers of the reference.
        right_there: Right answers of the backend.
        log_prob_difference: The largest difference in nats among pairs with equal answers.
        margins: The reference's margins in nats of the pairs that differ, the largest first.
    """

    task: str
    backend: str
    pairs: int
    same: int
    right: int
    right_there: int
    p: float
    log_prob_difference: float
    margins: tuple[float, ...]

    @property
    def explained(self) -> int:
        return sum(margin <= EXPLAINED_RATIO * self.log_prob_difference for margin in self.margins)


def config(backend: str, model: Mapping[str, Any], queries: int = QUERIES) -> Any:
    """The config of the quickstart on a backend, with few queries."""
    tasks = [{**task, "queries": queries} for task in load_config(QUICKSTART).grid["task"]]
    cut = {"name": backend, "model": dict(model), "seeds": list(SEEDS), "grid.task": tasks, "grid.shots": list(SHOTS)}
    return load_config(QUICKSTART, cut)


def samples(folder: Path) -> Samples:
    """(task, shots, retriever, decoding, seed, query) -> sample, of a run."""
    store, by_key = Store(folder), {}
    for digest in (store.read_run() or {}).get("cells", ()):
        labels = (store.read_cell(digest) or {}).get("labels", {})
        for sample in store.samples(digest):
            names = [labels.get(axis) for axis in ("task", "shots", "retriever", "decoding")]
            by_key[*names, sample["seed"], sample["query"]] = sample
    return by_key


def compare_backends(backend: str, here: Samples, there: Samples) -> list[Agreement]:
    """The agreement of a backend (`there`) with the reference (`here`), task by task."""
    rows = []
    for task in dict.fromkeys(str(key[0]) for key in here):
        keys = [key for key in here if key[0] == task and key in there]
        both = [(here[key], there[key]) for key in keys if _same_prompt(here[key], there[key])]
        same = [(a, b) for a, b in both if a.get("output", "") == b.get("output", "")]
        margins = sorted((_margin(a) for a, b in both if a.get("output", "") != b.get("output", "")), reverse=True)
        right, other = ([bool(pair[i]["scores"][METRIC]) for pair in both] for i in (0, 1))
        right_to_wrong = sum(a and not b for a, b in zip(right, other, strict=True))
        wrong_to_right = sum(b and not a for a, b in zip(right, other, strict=True))
        log_prob_difference = max((_log_prob_difference(a, b) for a, b in same), default=0.0)
        counts = len(both), len(same), sum(right), sum(other), mcnemar_p(right_to_wrong, wrong_to_right)
        rows.append(Agreement(task, backend, *counts, log_prob_difference, tuple(margins)))
    return rows


def _same_prompt(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return not a.get("failed") and not b.get("failed") and a["prompt_digest"] == b["prompt_digest"]


def _margin(sample: Mapping[str, Any]) -> float:
    return float(min(sample["trace"]["gap"]))


def _log_prob_difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
    here, there = a["trace"]["logprob"], b["trace"]["logprob"]
    return max((abs(x - y) for x, y in zip(here, there, strict=False)), default=0.0)


def table(folder: Path) -> Iterator[str]:
    """The lines of a Markdown table with a row for each task and backend."""
    here = samples(folder / REFERENCE)
    if not here:
        raise ModelError(f"{folder}: no run of '{REFERENCE}', the reference. Run it first.")
    yield (
        f"| task | backend | pairs | same answer | {METRIC}: hf | {METRIC}: backend | p | "
        "largest log-prob difference | "
        "margin where answers differ | explained |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    rows = [row for name in MODELS if name != REFERENCE for row in compare_backends(name, here, samples(folder / name))]
    for row in (row for row in rows if row.pairs):
        span = f"{row.margins[-1]:.2g} to {row.margins[0]:.2g}" if row.margins else "–"
        cells = [row.task, row.backend, row.pairs, f"{100 * row.same / row.pairs:.1f} %"]
        cells += [f"{row.right / row.pairs:.3f}", f"{row.right_there / row.pairs:.3f}", f"{row.p:.2f}"]
        cells += [f"{row.log_prob_difference:.1g}", span, f"{row.explained} of {len(row.margins)}"]
        yield "| " + " | ".join(map(str, cells)) + " |"


@contextmanager
def serving(model: str = "tiny") -> Iterator[str]:
    """Runs `icl serve` on this machine inside the block and yields its URL."""
    import socket

    import httpx2

    from experiments.cli.serve import server

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["max-num-seqs=64", f"kv-cache-memory-bytes={2**29}"]
    arguments, environment = server(model, "127.0.0.1", port, max_images=16, options=options)
    process = subprocess.Popen([sys.executable, *arguments], env=environment, stdout=subprocess.DEVNULL)
    try:
        for _ in range(600):
            if process.poll() is not None:
                raise ModelError(f"icl serve {model} ended with status {process.returncode}.")
            try:
                if httpx2.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200:
                    break
            except httpx2.TransportError:
                pass
            time.sleep(1)  # a server that loads its model refuses the connection or answers 503
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(60)


def measure(folder: Path, names: Sequence[str]) -> None:
    """Brings the runs of these backends up to date."""
    for name in names:
        if name == "remote":
            with serving() as url:
                run(config(name, {**MODELS[name], "url": url}), folder)
        else:
            run(config(name, MODELS[name]), folder)


def main() -> None:
    """Runs the backends of the command line, then prints the table."""
    if len(sys.argv) < 2 or set(sys.argv[2:]) - MODELS.keys():
        sys.exit(f"python -m lab.bench.backends FOLDER [{' '.join(MODELS)}]")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        measure(Path(sys.argv[1]), sys.argv[2:])
        print("\n".join(table(Path(sys.argv[1]))))
    except ICLError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
