"""A retriever that is shown the gold marks every sample that it chose for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from experiments.analyses import leakage
from experiments.api import run
from experiments.results.view_run import view_run
from icl.tasks.base import Pool
from icl.types import RetrievedExample
from retrievers.base import Resources


@dataclass(frozen=True)
class Knowing:
    """Members of the pool with the query's answer, then the others."""

    needs: ClassVar[frozenset[str]] = frozenset({"gold"})

    def fit(self, pool: Pool, resources: Resources) -> "Chosen":
        return Chosen(pool)


@dataclass(frozen=True)
class Chosen:
    pool: Pool

    def retrieve(self, queries: Sequence[Any], k: int, policy: Any = None) -> list[tuple[RetrievedExample, ...]]:
        return [
            tuple(
                RetrievedExample(e.id) for e in sorted(self.pool.examples, key=lambda e: e.answer != query.answer)[:k]
            )
            for query in queries
        ]


def test_each_sample_of_an_oracle_is_marked_and_the_audit_counts_it(mapping: Any, tmp_path: Path) -> None:
    axes = {"shots": [0, 2], "retriever": ["random", f"{__file__}:Knowing"]}
    config = {key: value for key, value in mapping(grid=axes).items() if key != "shots"}
    done = run(config, runs=tmp_path, quiet=True)
    frame = done.samples()
    marked = frame["marks"].map(lambda marks: "retriever: saw the gold" in (marks if isinstance(marks, list) else []))
    assert set(frame[marked]["retriever"]) == {"Knowing"}
    assert marked.sum() == (frame["retriever"] == "Knowing").sum() > 0
    assert set(frame[marked]["shots"]) == {2}
    num_gold = leakage.analyze(view_run(done)).set_index("retriever")["gold"]
    assert (num_gold["random"], num_gold["Knowing"]) == (0, marked.sum())
