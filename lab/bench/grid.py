"""The share of a grid that is computed twice: the quickstart with fewer queries, fixed and nested demonstrations.

Distinct images, prompts and prefixes are counted at the model; the computed ones come from the counters in run.json.
"""

import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

from icl.models.hf.model import HF
from icl.models.hf.session import HFSession
from icl.tasks.base import Pool
from icl.types import Prompt, Query, RetrievedExample
from lab.bench import Row
from retrievers.base import FittedRanking, Resources

QUERIES = 24


@dataclass(frozen=True)
class Watched(HF):
    """The model under test, which records the distinct images and prompts that it opens."""

    images: ClassVar[set[str]] = set()
    prompts: ClassVar[dict[str, tuple[int, ...]]] = {}

    def open(self, prompts: Sequence[Prompt], **settings: Any) -> HFSession:
        for prompt in prompts:
            self.images.update(image.digest for image in prompt.images)
        fresh = {prompt.digest: prompt for prompt in prompts if prompt.digest not in self.prompts}
        for (digest, _), read in zip(fresh.items(), self.engine.prompt_encoder.read(list(fresh.values())), strict=True):
            self.prompts[digest] = read.key
        return super().open(prompts, **settings)


@dataclass(frozen=True)
class Fixed:
    """The first allowed members of the pool, the same for every query."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def fit(self, pool: Pool, resources: Resources) -> "FittedFixed":
        return FittedFixed(pool)


@dataclass(frozen=True)
class FittedFixed(FittedRanking):
    """The pool in its own order."""

    def rank(self, query: Query) -> Iterable[RetrievedExample]:
        return (RetrievedExample(example.id) for example in self.pool.examples)


def rows() -> list[Row]:
    """All figures of this file."""
    quickstart = files("experiments") / "configs" / "quickstart.yaml"
    few = [f"grid.task={json.dumps([{'name': t, 'queries': QUERIES} for t in ('easy-vqa', 'binding')])}"]
    counters = _run(str(quickstart), few)
    distinct_tokens_total = sum(map(len, Watched.prompts.values()))
    table = [
        (
            f"quickstart, {QUERIES} queries a task: images encoded / distinct images",
            f"{counters['images_encoded'] / len(Watched.images):.2f}",
            "1.00",
        ),
        (
            "the same: tokens forwarded in prefill / tokens of the distinct branch prompts",
            f"{counters['prefill_tokens'] / distinct_tokens_total:.2f}",
            "<= 1.05",
        ),
    ]
    fixed = [
        f"grid.task=[{{name: easy-vqa, queries: {4 * QUERIES}}}]",
        f"grid.retriever=['{__name__}:Fixed']",
        "grid.shots=[8]",
        "name=fixed",
    ]
    counters = _run(str(quickstart), fixed)
    table += [
        (
            "fixed demonstrations, 8 shots: tokens forwarded in prefill / distinct tokens",
            f"{counters['prefill_tokens'] / distinct_tokens(list(Watched.prompts.values())):.2f}",
            "<= 1.10",
        )
    ]
    for order in ("reversed", "as_retrieved"):
        counters = _run(str(quickstart), [*few, "grid.shots=[2, 4, 8]", f"order={order}", f"name={order}"])
        table.append(
            (
                f"2, 4 and 8 shots, order {order}: tokens forwarded in prefill / distinct tokens",
                f"{counters['prefill_tokens'] / distinct_tokens(list(Watched.prompts.values())):.2f}",
                "<= 1.10",
            )
        )
    knn = {"name": "knn", "by": "image"}
    hybrid = {"name": "hybrid", "of": knn, "similar": 2}
    for what, node in (
        ("2 similar demonstrations", {**hybrid, "part": "similar"}),
        ("14 common and 2 similar demonstrations", hybrid),
        ("16 similar demonstrations", knn),
    ):
        one_arm = ["grid.shots=[16]", "grid.decoding=[greedy]", "seeds=[0]", f"name={len(what)}"]
        counters = _run(str(quickstart), [fixed[0], f"grid.retriever=[{json.dumps(node)}]", *one_arm])
        table.append(
            (f"{what}: tokens forwarded in prefill a query", f"{counters['prefill_tokens'] / QUERIES / 4:.1f}", "")
        )
    return table


def distinct_tokens(prompts: Sequence[tuple[int, ...]]) -> int:
    """The number of nodes in the prefix tree of all prompts: a shared prefix counts once."""
    total = 0
    before: tuple[int, ...] = ()
    for prompt in sorted(prompts):
        shared = next((i for i, (a, b) in enumerate(zip(before, prompt, strict=False)) if a != b), None)
        total += len(prompt) - (min(len(before), len(prompt)) if shared is None else shared)
        before = prompt
    return total


def _run(file: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The counters of one run of an experiment file, with the watched model."""
    from experiments.config.config import load_config
    from experiments.running.run import run

    Watched.images.clear()
    Watched.prompts.clear()
    model = f"model={{name: '{__name__}:Watched'}}"
    with tempfile.TemporaryDirectory() as folder:
        done = run(load_config(Path(file), [model, *overrides]), Path(folder))
        counters: dict[str, Any] = json.loads((done.folder / "run.json").read_text())["sessions"][-1]["counters"]
        return counters
