"""Whether backends say the same: the quickstart, cut to a few queries, on each of them, compared pair by pair.

    python -m experiments.bench.backends runs/backends hf nf4         where transformers answers
    python -m experiments.bench.backends runs/backends vllm remote    where vLLM is installed (the README says how)
    python -m experiments.bench.backends runs/backends                the table of what has been run

`remote` starts `icl serve` for itself. The reference is `hf`: float32 on a CPU. Answers are compared where both
backends read the same prompt. Where they differ, two right backends part at a near-tie: the *lead*, in nats, is that of
the best token over the next at the answer's closest step, and the *shift* is by how much two backends differ in the
log-probability of a token that both chose. A difference is explained where the lead is at most four times the largest
shift among the answers that agree.
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

from experiments.config.config import load
from experiments.running.run import run
from experiments.stats.significance import mcnemar_p
from experiments.store.store import Store
from icl.errors import ICLError, ModelError

QUICKSTART = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
QUERIES, SEEDS, SHOTS = 24, (0,), (0, 4)
METRIC = "lenient"
REFERENCE = "hf"
ROOM = 4.0
"""Shifts that a lead may have and be explained by them: each of two tokens moves, in each of two backends."""

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
    """Of one backend with the reference, on one task.

    pairs: with one prompt. same: equal answers. right, right_there: of the reference and of this backend. shift: the
    largest among pairs that agree. leads: of the pairs that differ, in the reference, the largest first.
    """

    task: str
    backend: str
    pairs: int
    same: int
    right: int
    right_there: int
    p: float
    shift: float
    leads: tuple[float, ...]

    @property
    def explained(self) -> int:
        return sum(lead <= ROOM * self.shift for lead in self.leads)


def config(backend: str, model: Mapping[str, Any], queries: int = QUERIES) -> Any:
    """The quickstart on a backend, cut."""
    tasks = [{**task, "queries": queries} for task in load(QUICKSTART).grid["task"]]
    cut = {"name": backend, "model": dict(model), "seeds": list(SEEDS), "grid.task": tasks, "grid.shots": list(SHOTS)}
    return load(QUICKSTART, cut)


def samples(folder: Path) -> Samples:
    """(task, shots, retriever, decoding, seed, query) -> sample, of a run."""
    store, found = Store(folder), {}
    for digest in (store.read_run() or {}).get("cells", ()):
        labels = (store.read_cell(digest) or {}).get("labels", {})
        for sample in store.samples(digest):
            names = [labels.get(axis) for axis in ("task", "shots", "retriever", "decoding")]
            found[*names, sample["seed"], sample["query"]] = sample
    return found


def compared(backend: str, here: Samples, there: Samples) -> list[Agreement]:
    """here: the reference's samples."""
    rows = []
    for task in dict.fromkeys(str(key[0]) for key in here):
        keys = [key for key in here if key[0] == task and key in there]
        both = [(here[key], there[key]) for key in keys if _alike(here[key], there[key])]
        same = [(a, b) for a, b in both if a.get("output", "") == b.get("output", "")]
        leads = sorted((_lead(a) for a, b in both if a.get("output", "") != b.get("output", "")), reverse=True)
        right, other = ([bool(pair[i]["scores"][METRIC]) for pair in both] for i in (0, 1))
        lost = sum(a and not b for a, b in zip(right, other, strict=True))
        won = sum(b and not a for a, b in zip(right, other, strict=True))
        shift = max((_shift(a, b) for a, b in same), default=0.0)
        told = len(both), len(same), sum(right), sum(other), mcnemar_p(lost, won)
        rows.append(Agreement(task, backend, *told, shift, tuple(leads)))
    return rows


def _alike(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return not a.get("failed") and not b.get("failed") and a["prompt_digest"] == b["prompt_digest"]


def _lead(sample: Mapping[str, Any]) -> float:
    return float(min(sample["trace"]["gap"]))


def _shift(a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
    here, there = a["trace"]["logprob"], b["trace"]["logprob"]
    return max((abs(x - y) for x, y in zip(here, there, strict=False)), default=0.0)


def table(folder: Path) -> Iterator[str]:
    """A row a task and backend, as Markdown."""
    here = samples(folder / REFERENCE)
    if not here:
        raise ModelError(f"{folder}: nothing was run on '{REFERENCE}', which the others are compared with.")
    yield (
        f"| task | backend | pairs | same answer | {METRIC}: hf | {METRIC}: backend | p | largest shift | "
        "leads where they differ | explained |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    rows = [row for name in MODELS if name != REFERENCE for row in compared(name, here, samples(folder / name))]
    for row in (row for row in rows if row.pairs):
        span = f"{row.leads[-1]:.2g} to {row.leads[0]:.2g}" if row.leads else "–"
        cells = [row.task, row.backend, row.pairs, f"{100 * row.same / row.pairs:.1f} %"]
        cells += [f"{row.right / row.pairs:.3f}", f"{row.right_there / row.pairs:.3f}", f"{row.p:.2f}"]
        cells += [f"{row.shift:.1g}", span, f"{row.explained} of {len(row.leads)}"]
        yield "| " + " | ".join(map(str, cells)) + " |"


@contextmanager
def serving(model: str = "tiny") -> Iterator[str]:
    """The address of a server of `icl serve` on this machine, as long as the block runs."""
    import socket

    import httpx

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
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(1)
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
    """Runs what is named, then prints the table."""
    if len(sys.argv) < 2 or set(sys.argv[2:]) - MODELS.keys():
        sys.exit(f"python -m experiments.bench.backends FOLDER [{' '.join(MODELS)}]")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        measure(Path(sys.argv[1]), sys.argv[2:])
        print("\n".join(table(Path(sys.argv[1]))))
    except ICLError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
