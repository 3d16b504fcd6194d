"""How accurate are methods without a model? The demonstrations' vote, and linear probes on retrieval vectors

    vote            the majority answer of the demonstrations, ties to the nearest
    demonstrations  a linear probe fitted on the sample's demonstrations alone (`experiments.analyses.linear_probe`)
    pool            a linear probe fitted on the whole pool, if it has 128 labels or fewer
    ... + texts     the same with the names of the labels as extra shots (Lin et al., CVPR 2023), if the encoder has
                    images and texts in one space and the retriever compares images. The retriever's embedder `close`
                    adds noise to these texts or shifts them

The vectors come from the arm's own retriever: from its encoder, or from a trained head. Arms with a retriever that
compares no vectors (`random`) have no probe. One row per arm against its reference (the run's `compare`), with the
difference in accuracy in pairs. Arms that differ only in decoding, order and similar axes count as one
(`distinct_choices`), and a reference that differs in nothing else is refused. If tasks are folds (`held_out`), the
first rows are over all folds together. Retrievers are fitted again, from the cache of embeddings.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from experiments import RunView, Store, answered_samples, build_retriever, make_table
from experiments.analyses.linear_probe import fit_probe
from experiments.analyses.reference_comparison import compare_with_reference, distinct_choices
from experiments.stats import demos_of, resolve_setting, text_items, to_records
from icl import ConfigError, DataFrame, Pool, Task, build, normalize_text
from icl.metrics import is_accepted
from retrievers import FittedSimilarity, Resources, SimilarityRetriever, reads

LABELS = 128
"""The largest number of classes of a probe on a pool; more would take hours."""

TEXTS = " + texts"
PROBES = ("vote", "demonstrations", "pool", f"demonstrations{TEXTS}", f"pool{TEXTS}")

Row = Mapping[str, Any]


def analyze(view: RunView) -> DataFrame:
    """One row per arm with a reference. Raises ConfigError if no arm has vectors, or none has a reference."""
    chosen, rows = distinct_choices(view, answered_samples(view), "the accuracy of the demonstrations without a model")
    right = {name: np.full(len(rows), np.nan) for name in PROBES}
    where, tasks = {index: place for place, index in enumerate(rows.index)}, dict[str, Task]()
    for digest, own in rows.groupby("cell", sort=False):
        space = _space(Store(view.path).read_cell(str(digest)) or {}, tasks)
        if space is not None:
            for name, values in right.items():
                values[[where[index] for index in own.index]] = space.right(name, to_records(own))
    if all(np.isnan(values).all() for values in right.values()):
        raise ConfigError(f"{view.path}: no arm's retriever compares vectors, so no probe can be fitted.")
    table_rows = []
    for name, values in right.items():
        if _is_comparable(name, ~np.isnan(values), _reference_rows(chosen, rows)):
            table_rows += [
                {"probe": name, **line}
                for line in compare_with_reference(chosen, rows.assign(accuracy=values), "accuracy")
            ]
    names = ", ".join(f"{axis} {value}" for axis, value in chosen.to.items())
    return make_table(table_rows, f"Right without a model, against {names}", signed=("difference", "low", "high"))


def _reference_rows(chosen: RunView, rows: DataFrame) -> Any:
    """Which rows are of a reference arm; [n] bool."""
    to = resolve_setting(rows, chosen.to, chosen.axes, "--to")
    return np.logical_and.reduce([(rows[axis] == value).to_numpy() for axis, value in to.items()])


def _is_comparable(name: str, has_value: Any, is_reference: Any) -> bool:
    """Whether a probe has values; for text shots, on both sides of the comparison."""
    if not name.endswith(TEXTS):
        return bool(has_value.any())
    return bool((has_value & is_reference).any() and (has_value & ~is_reference).any())


@dataclass(frozen=True)
class _Space:
    """The task and the fitted retriever of one cell; its queries share a pool."""

    task: Task
    pool: Pool
    fitted: FittedSimilarity

    @cached_property
    def query_vectors(self) -> dict[str, Any]:
        """The vector of each query id."""
        vectors = self.fitted.embed_queries([query.query for query in self.task.queries])
        return {query.id: vector for query, vector in zip(self.task.queries, vectors, strict=True)}

    @cached_property
    def place(self) -> dict[str, int]:
        return {example.id: i for i, example in enumerate(self.pool.examples)}

    def right(self, name: str, rows: Sequence[Row]) -> list[float]:
        """1 or 0 for each sample; NaN if this probe cannot be fitted."""
        if name == "vote":
            return [float(row["vote"]) if row.get("vote") is not None else np.nan for row in rows]
        base, _, _ = name.partition(TEXTS)
        if base != name and self.label_vectors is None:
            return [np.nan] * len(rows)
        texts = base != name
        predictions = self._by_pool(rows, texts) if base == "pool" else [self._by_demos(row, texts) for row in rows]
        return [
            np.nan if one is None else float(is_accepted(one, text_items(row, "gold")))
            for one, row in zip(predictions, rows, strict=True)
        ]

    @cached_property
    def label_vectors(self) -> Mapping[str, Any] | None:
        """The vector of each label's name. None if the retriever compares no images, or texts have another space."""
        embedder = self.fitted.retriever.embedder
        if getattr(self.fitted.retriever, "by", "image") != "image" or "text" not in reads(embedder):
            return None
        names = sorted({normalize_text(example.class_name) for example in self.pool.examples})
        if len(names) > LABELS:
            return None
        vectors = self.fitted.source.embed_texts(names)
        if vectors.shape[1] != self.fitted.index.vectors.shape[1]:
            return None
        return dict(zip(names, vectors, strict=True))

    def _texts(self, labels: Sequence[str], texts: bool) -> tuple[Any, Sequence[str]]:
        """Vectors and labels of the text shots of these labels; none without `texts`."""
        names = [name for name in dict.fromkeys(labels) if texts and name in (self.label_vectors or {})]
        if not self.label_vectors or not names:
            return None, ()
        return np.array([self.label_vectors[name] for name in names]), names

    def _by_demos(self, row: Row, texts: bool) -> str:
        demos = demos_of(row)
        labels = [normalize_text(answer) for *_, answer in demos]
        if len(set(labels)) == 1:
            return labels[0]
        vectors = self.fitted.index.vectors[[self.place[name] for name, *_ in demos]]
        probe = fit_probe(vectors, labels, *self._texts(labels, texts))
        return probe.predict(self.query_vectors[str(row["query"])][None])[0]

    def _by_pool(self, rows: Sequence[Row], texts: bool) -> Sequence[str | None]:
        labels = [normalize_text(example.class_name) for example in self.pool.examples]
        if not 1 < len(set(labels)) <= LABELS:
            return [None] * len(rows)
        probe = fit_probe(self.fitted.index.vectors, labels, *self._texts(labels, texts))
        return probe.predict(np.array([self.query_vectors[str(row["query"])] for row in rows]))


def _space(cell: Mapping[str, Any], tasks: dict[str, Task]) -> _Space | None:
    """The vectors of a cell.

    Args:
        cell: The cell.
        tasks: The tasks that were built before, by their node.

    Returns:
        None if the retriever compares no vectors, each query has its own pool, or its code is not of this package.
    """
    retriever = build_retriever(cell)
    if not isinstance(retriever, SimilarityRetriever) or retriever.needs & {"model", "gold"}:
        return None
    key = json.dumps(cell["task"], sort_keys=True)
    task = tasks.setdefault(key, build("task", cell["task"]))
    pools = {id(pool): pool for pool in (task.pool(query.id) for query in task.queries)}
    if len(pools) > 1:
        return None
    (pool,) = pools.values()
    fitted = retriever.fit(pool, Resources(int(cell["seed"])))
    return _Space(task, pool, fitted) if isinstance(fitted, FittedSimilarity) else None
