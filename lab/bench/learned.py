"""Do learned demonstrations beat nearest neighbors? Each method on held-out queries, with its price in model calls.

For each task and seed, `icl fit` fits the retriever `learned` on training queries, and the model answers test queries
with 4 demonstrations of each method. A seed has its own images, pool, fit and test. A row has the accuracy of a method
over all seeds, and the accuracy of `learned` minus it, with the 95 % interval over paired queries. Calls are those that
choose demonstrations; each answer takes one more. The oracle reads the gold of the test queries, and answers the first
of them.

Runs stay in build/bench/learned, so that the same command continues a stopped one.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from lab.bench import Row, rounds

FOLDER = Path("build/bench/learned")
SEEDS = 3
MIXED = {"name": "paired", "image": {"name": "mix", "one": "encoder", "other": "histogram"}, "text": "encoder"}
GATED = {"name": "gated"}
TASKS: Mapping[str, tuple[dict[str, Any], Any]] = {
    "two rules": (GATED, None),
    "two rules, with a color histogram": (GATED, MIXED),
    "misleading half": ({**GATED, "misleading": True}, None),
    "wrong labels in half of the pool": ({"name": "mislabeled", "of": GATED}, None),
    "style shift": ({"name": "corrupted", "of": GATED, "by": {"name": "color", "brightness": 0.5}}, None),
    "operators": ({**GATED, "rule": "operator", "support": 64}, None),
}
"""Name -> (task, embedder of its retrievers, None for the default). Style shift: queries half as bright as the pool."""
FITTED = ("learned", "permuted_queries", "permuted_candidates")
"""Methods that need the model's feedback."""


@dataclass(frozen=True)
class Size:
    """Numbers of training queries, of test queries, and of the test queries that the oracle answers.

    Without training queries no head is fitted: only the oracle, `random` and `knn` run.
    """

    train: int
    test: int
    oracle: int


TINY = Size(400, 200, 40)


def rows(task: str = "") -> Iterator[Row]:
    """The table of the model `tiny`: a row for each task and method. task: a name of `TASKS`, default all."""
    return table("tiny", TINY, (task,) if task else tuple(TASKS))


def table(model: str, size: Size, names: Sequence[str]) -> Iterator[Row]:
    """A row for each of these tasks and each method, as soon as a task is measured."""
    is_quick = rounds(SEEDS) == 1
    if is_quick:
        size, names = Size(60, 10, 2), names[:1]
    with runs_folder() as folder:
        for name in names:
            title = f"{model}, {name}, {size.train or 'no'} training queries"
            if size.test != TINY.test:
                title += f", {size.test} test queries"
            folders = [folder / f"{title}, {seed}" for seed in range(rounds(SEEDS))]
            measured = [measure(model, size, name, seed, one) for seed, one in enumerate(folders)]
            yield from summarize(title, measured)


@contextmanager
def runs_folder() -> Iterator[Path]:
    """Where runs stay; a temporary folder with `--quick`."""
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary) if rounds(SEEDS) == 1 else FOLDER


@dataclass(frozen=True)
class Measured:
    """One task under one seed: query -> right or wrong, and calls, of each method; the probe if a head was fitted."""

    right: Mapping[str, Mapping[str, float]]
    calls: Mapping[str, int]
    probe: float | None


def measure(model: str, size: Size, name: str, seed: int, folder: Path) -> Measured:
    """Fits and answers what the folder does not have yet."""
    from icl import build
    from retrievers.machinery.trained_heads import load_head

    node, embedder = TASKS[name]
    own = {} if embedder is None else {"embedder": embedder}
    test = with_values(node, seed=seed, queries=size.test)
    study = {
        "name": "test", "task": test, "model": {"name": "hf", "path": model}, "shots": 4, "seeds": [seed],
        "max_new_tokens": 4, "answer_mode": "options",
    }  # fmt: skip
    retrievers: list[Any] = ["random", {"name": "knn", "by": "image", **own}]
    probe, paid = None, 0
    if size.train:
        head = fitted(study, size.train, {"name": "learned", **own}, folder)
        metadata = load_head(head, "a head")[1]
        probe, paid = mean(json.loads(metadata["report"])["probe"]), json.loads(metadata["record"])["calls"]
        retrievers.append({"name": "learned", "fitted": str(head), **own})
    right = answers({**study, "controls": "default", "grid": {"retriever": retrievers}}, folder)
    calls = {method: paid if method in FITTED else 0 for method in right}
    if size.oracle:
        first = {**study, "name": "oracle", "task": with_values(test, queries=size.oracle)}
        right |= answers({**first, "retriever": "likelihood_oracle"}, folder)
        calls["likelihood_oracle"] = size.oracle * build("task", test).pool_size
    return Measured(right, calls, probe)


def fitted(study: Mapping[str, Any], train: int, retriever: dict[str, Any], folder: Path) -> Path:
    """The file of the head of this retriever. Fits it on training queries of the study's task if there is none."""
    from experiments.config.config import load_config
    from experiments.running.feedback import fit_retriever

    head = folder.resolve() / "head.safetensors"
    if not head.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        task = with_values(study["task"], split="train", queries=train)
        fit_retriever(load_config({**study, "task": task, "retriever": retriever}), head).heads.save(head)
    return head


def with_values(node: Mapping[str, Any], **values: Any) -> dict[str, Any]:
    """A task with these parameters; those of the innermost one if it is made from another."""
    return {**node, "of": with_values(node["of"], **values)} if "of" in node else {**node, **values}


def answers(study: dict[str, Any], folder: Path) -> dict[str, dict[str, float]]:
    """Method -> query -> 1 if the answer is right."""
    from experiments.api import run

    frame: Any = run(study, runs=folder, quiet=True).samples()
    methods = frame["retriever"].map(_method)
    return {method: dict(zip(own["query"], own["option"], strict=True)) for method, own in frame.groupby(methods)}


def _method(label: str) -> str:
    """'same_answer' for 'learned(control=same_answer)', and 'learned' for 'learned(control=none)'."""
    name, _, control = label.partition("(control=")
    return control.rstrip(")").replace("none", name) if control else name.partition("(")[0]


def summarize(title: str, seeds: Sequence[Measured]) -> Iterator[Row]:
    """A row for the probe and for each method. Queries of different seeds are different queries."""
    probes = [one.probe for one in seeds if one.probe is not None]
    if probes:
        yield (
            f"{title}: probe, pairs of demonstrations that the head orders as the model does",
            f"{mean(probes):.2f}",
            "",
        )
    best = "learned" if probes else "likelihood_oracle"
    for method in seeds[0].right:
        pairs = [
            (right, one.right[best][query])
            for one in seeds
            for query, right in one.right[method].items()
            if query in one.right[best]
        ]
        accuracy, difference = compare(pairs)
        figure = f"{accuracy:.3f}" + (f"; {best} {difference}" if method != best else "")
        calls = sum(one.calls[method] for one in seeds) // len(seeds)
        yield f"{title}: {method}, {len(pairs)} queries", f"{figure}; {calls:,} calls a seed", ""


def compare(pairs: Sequence[tuple[float, float]], units: Sequence[str] = ()) -> tuple[float, str]:
    """(accuracy of the first method, the second minus it with its interval).

    Args:
        pairs: For each query, 1 for each method that is right.
        units: [pairs] labels; equal ones belong to one unit of the interval. By default each pair is one.
    """
    import numpy as np

    from experiments.stats import Pairs, paired_test

    first, second = np.array(pairs, dtype=float).T
    test = paired_test(Pairs(first, second, np.array(units or range(len(pairs)))))
    return float(first.mean()), f"{test.difference:+.3f} [{test.low:+.3f}, {test.high:+.3f}]"
