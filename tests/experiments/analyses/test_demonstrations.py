"""Analyses of demonstrations: retrieval, leakage, probes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import ndcg_score

from experiments.analyses import embedding_space, label_precision, leakage, probe, retrieval
from experiments.analyses.embedding_space import diagnose
from experiments.analyses.linear_probe import fit_probe
from experiments.stats.sample_rows import to_records
from experiments.store.store import Store
from icl.errors import ConfigError
from icl.metrics.normalize import normalize_text
from icl.registry import build
from retrievers.base import Resources
from retrievers.nearest import KNN

PARTS = Path(__file__).parent / "parts.py"
LEAKS = ["itself", "image", "twice", "alike", "labels", "gold"]


def _careless(*ids: str) -> dict[str, Any]:
    return {"name": f"{PARTS}:Careless", "ids": list(ids)}


def test_retrieved_answers_are_counted_by_rank(ran: Any) -> None:
    # colors of the pool go red, green, blue, red …; queries too: two of each
    view = ran(shots=4, seeds=[0], retriever=_careless("p-0001", "p-0000", "p-0003", "p-0002"))
    (row,) = retrieval.analyze(view).to_dict("records")
    assert row["precision"] == pytest.approx((2 + 1 + 1) / 3 / 4)
    assert (row["hit"], row["mrr"]) == (1.0, pytest.approx((1 / 2 + 1 + 1 / 4) / 3))
    assert (row["coverage"], row["distinct"], row["used"]) == (1.0, 0.75, 4)
    assert (row["similarity"], row["best"]) == (pytest.approx(0.85), 1.0)
    assert row["n"] == 6


def test_ranks_are_the_retriever_s_in_any_order(ran: Any) -> None:
    axes = {"order": ["reversed", "as_retrieved"]}
    view = ran(shots=2, seeds=[0], retriever=_careless("p-0001", "p-0000"), grid=axes)
    (row,) = retrieval.analyze(view).to_dict("records")
    assert row["mrr"] == pytest.approx((1 / 2 + 1 + 0) / 3)


def test_precision_is_over_the_shots_asked_for(ran: Any) -> None:
    (row,) = retrieval.analyze(ran(shots=4, seeds=[0], retriever=_careless("p-0000", "p-0001"))).to_dict("records")
    assert row["precision"] == pytest.approx((1 + 1 + 0) / 3 / 4)


def test_precision_is_compared_in_pairs(ran: Any) -> None:
    """Two red, two green and two blue queries: the reference retrieves red and green, the other arm red twice."""
    ours, theirs = (_careless(*ids) for ids in (("p-0000", "p-0003"), ("p-0000", "p-0001")))
    to = {"retriever": "Careless(ids=['p-0000', 'p-0001'])"}
    view = ran(shots=2, seeds=[0], grid={"retriever": [theirs, ours]}, compare={"to": to, "metric": "strict"})
    (row,) = label_precision.analyze(view).to_dict("records")
    assert (row["reference"], row["precision"]) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert (row["difference"], row["n"]) == (pytest.approx(0), 6)
    assert row["low"] < 0 < row["high"]


def test_precision_depends_on_the_demonstrations_alone(ran: Any) -> None:
    axes = {"retriever": ["random", "balanced"], "order": ["reversed", "as_retrieved"]}
    view = ran(shots=2, seeds=[0], grid=axes, compare={"to": {"order": "reversed"}, "metric": "strict"})
    with pytest.raises(ConfigError, match=r"does not depend on order\. Use another reference, such as --to"):
        label_precision.analyze(view)
    (row,) = label_precision.analyze(replace(view, to={"retriever": "random", "order": "reversed"})).to_dict("records")
    assert "order" not in row
    assert row["n"] == 6


def test_twice_the_demonstrations_are_not_twice_as_right() -> None:
    row = {"demos": [[f"p{i}", 0.0, "red"] for i in range(4)], "gold": ["red"]}
    assert retrieval.retrieval_statistics(row, 2)["precision"] == 1.0


def test_ndcg_of_graded_gold_answers_equals_that_of_scikit_learn() -> None:
    row = {
        "demos": [[f"p{i}", 0.0, answer] for i, answer in enumerate(["red", "green", "blue", "red", "pink"])],
        "ranks": [3, 0, 4, 2, 1],
        "gold": ["red", "blue", "red", "green", "red"],
    }
    grades, scores = [[3, 1, 1, 3, 0]], [[-3, 0, -4, -2, -1]]
    assert retrieval.retrieval_statistics(row, 5)["ndcg"] == pytest.approx(ndcg_score(grades, scores))
    assert retrieval.retrieval_statistics({**row, "gold": ["black"]}, 5)["ndcg"] == 0.0
    assert retrieval.retrieval_statistics({**row, "gold": ["pink"]}, 5)["ndcg"] == pytest.approx(1 / np.log2(3))


def test_the_variance_of_ranks_is_over_the_seeds_of_a_query() -> None:
    def sample(query: str, *names: str) -> dict[str, Any]:
        return {"query": query, "demos": [[name, 0.0, ""] for name in names], "ranks": list(range(len(names)))}

    rows = [sample("q", "a", "b"), sample("q", "b", "c"), sample("r", "a", "b"), sample("r", "a", "b")]
    # of q: a has 0, 2 (absent), b has 1, 0, and c has 2, 1; of r: none
    assert retrieval.rank_variance(rows, 2) == pytest.approx((1 + 0.25 + 0.25 + 0 + 0) / 5)
    assert np.isnan(retrieval.rank_variance(rows[:1], 2))


def test_without_options_there_is_no_coverage(ran: Any, shapes: str) -> None:
    view = ran(task={"name": shapes, "optionless": True}, shots=2)
    assert pd.isna(retrieval.analyze(view)["coverage"][0])


def test_a_run_of_our_own_retrievers_does_not_leak(ran: Any) -> None:
    table = leakage.analyze(ran(grid={"shots": [0, 3], "transforms": [[], ["flip_labels"]]}))
    clean, flipped = table.to_dict("records")
    assert [clean[key] for key in LEAKS] == [0] * 6
    assert [flipped[key] for key in LEAKS] == [0, 0, 0, 0, 12, 0]
    assert clean["first"] == ""


def test_each_kind_of_leak_is_counted(ran: Any) -> None:
    task = {"name": f"{PARTS}:Leaking"}
    table = leakage.analyze(
        ran(
            task=task,
            model="fake-gold",
            shots=2,
            seeds=[0],
            grid={"retriever": [_careless("q0", "q1"), _careless("q3", "twin")]},
        )
    )
    counts = [[row[key] for key in (*LEAKS, "first")] for row in table.to_dict("records")]
    assert counts == [[2, 2, 0, 0, 0, 0, "q0"], [1, 1, 0, 4, 0, 0, "q3"]]


def test_an_oracle_order_is_counted_as_gold(ran: Any) -> None:
    view = ran(shots=4, order="label_position")
    assert list(leakage.analyze(view)["gold"]) == [12]


def test_an_analysis_needs_demonstrations(ran: Any) -> None:
    with pytest.raises(ConfigError, match="Run the experiment with shots above 0"):
        leakage.analyze(ran(shots=0))


def test_folds_of_a_task_are_joined_with_the_group_as_the_unit(ran: Any) -> None:
    """Fold a has one right demonstration of two for half of its queries more than the reference, fold b for none."""
    task = {"name": f"{PARTS}:Folds"}
    ours, theirs = (_careless(*ids) for ids in (("p0", "p1"), ("p2", "p3")))
    label = "Careless(ids=['p2', 'p3'])"
    compared: dict[str, Any] = {"to": {"retriever": label}, "metric": "strict"}
    axes = {"task.held_out": ["a", "b"], "retriever": [theirs, ours]}
    rows_by_fold = label_precision.analyze(ran(task=task, shots=2, seeds=[0], grid=axes, compare=compared)).to_dict(
        "records"
    )
    assert [(row["task"], row["n"]) for row in rows_by_fold] == [("Folds", 8), ("folds a", 4), ("folds b", 4)]
    assert [row["difference"] for row in rows_by_fold] == pytest.approx([0.125, 0.25, 0.0])
    unfolded = label_precision.analyze(ran(name="u", task={**task, "held_out": "a"}, shots=2, seeds=[0],
                                     grid={"retriever": [theirs, ours]}, compare=compared))  # fmt: skip
    assert list(unfolded["n"]) == [4]


def test_probes_use_the_vectors_of_each_arm(ran: Any) -> None:
    """Compared with the same probes fitted here; `random` compares no vectors and has none."""
    node = {"name": "counting", "queries": 12, "pool_size": 60}
    axes = {"retriever": ["random", {"name": "knn", "embedder": "pixels"}, {"name": "knn", "embedder": "histogram"}]}
    to = {"retriever": "knn(embedder=pixels)"}
    view = ran(
        task=node,
        model="fake-vote",
        shots=4,
        seeds=[0],
        grid=axes,
        compare={"to": to, "metric": "strict"},
        metric="strict",
    )
    rows_by_probe = {row["probe"]: row for row in probe.analyze(view).to_dict("records")}
    assert set(rows_by_probe) == {"vote", "demonstrations", "pool"}
    task, means = build("task", node), dict[tuple[str, str], float]()
    for name in ("pixels", "histogram"):
        fitted = KNN(embedder=build("embedder", name)).fit(task.pool(""), Resources())
        query_vectors = fitted.embed_queries([query.query for query in task.queries])  # type: ignore[attr-defined]
        whole = fit_probe(fitted.index.vectors, [e.answer for e in fitted.pool.examples])  # type: ignore[attr-defined]
        golds = [query.answer for query in task.queries]
        means[name, "pool"] = float(np.mean(np.array(whole.predict(query_vectors)) == golds))
        few = []
        for query, vector in zip(task.queries, query_vectors, strict=True):
            demos = [task.pool("").by_id[one.id] for one in fitted.retrieve([query.query], 4)[0]]
            labels, rows = [e.answer for e in demos], fitted.source.embed_images(demos)  # type: ignore[attr-defined]
            prediction = labels[0] if len(set(labels)) == 1 else fit_probe(rows, labels).predict(vector[None])[0]
            few.append(prediction == query.answer)
        means[name, "demonstrations"] = float(np.mean(few))
    for kind in ("pool", "demonstrations"):
        assert (rows_by_probe[kind]["reference"], rows_by_probe[kind]["accuracy"]) == (
            means["pixels", kind],
            means["histogram", kind],
        )
        assert rows_by_probe[kind]["n"] == 12


def test_decodings_of_one_choice_have_one_row_of_probes(ran: Any) -> None:
    arms = {"retriever": ["random", {"name": "knn", "embedder": "pixels"}, {"name": "knn", "embedder": "histogram"}]}
    more = {"decoding": ["greedy", {"name": "vcd"}], "order": ["reversed", "random"]}
    to = {"retriever": "knn(embedder=pixels)"}
    node = {"name": "counting", "queries": 4, "pool_size": 20}
    model = {"name": "hf", "path": "tiny"}
    view = ran(task=node, model=model, shots=2, seeds=[0], grid={**arms, **more}, compare={"to": to})
    table = probe.analyze(view)
    assert list(table["probe"]) == ["vote", "demonstrations", "pool"]
    assert set(table["n"]) == {4}
    with pytest.raises(ConfigError, match="does not depend on decoding"):
        probe.analyze(replace(view, to={"decoding": "greedy"}))
    leaks = leakage.analyze(view).to_dict("records")
    assert [(row["retriever"], row["order"]) for row in leaks] == [
        (name, order) for name in view.frame["retriever"].unique() for order in ("reversed", "random")
    ]
    assert {row["samples"] for row in leaks} == {4}


def test_a_probe_needs_vectors(ran: Any) -> None:
    axes = {"retriever": ["random", "balanced"]}
    with pytest.raises(ConfigError, match="no arm's retriever compares vectors"):
        probe.analyze(ran(task="counting", shots=2, grid=axes, compare={"to": {"retriever": "random"}}))


def test_a_probe_has_text_shots_if_images_and_texts_share_a_space(ran: Any) -> None:
    """The shipped encoder reads both; `pixels` reads no texts."""
    axes = {"retriever": [{"name": "knn", "embedder": "pixels"}, "knn"]}
    view = ran(
        task={"name": "counting", "queries": 6, "pool_size": 30}, model="fake-vote", shots=3, seeds=[0], grid=axes
    )
    of_pixels = view.frame["retriever"].str.contains("pixels")
    pixels, encoder = (view.frame[own] for own in (of_pixels, ~of_pixels))
    space = probe._space(Store(view.path).read_cell(str(encoder["cell"].iloc[0])) or {}, {})
    assert space is not None
    rows = to_records(encoder)
    labels = [normalize_text(e.class_name) for e in space.pool.examples]
    names = list(dict.fromkeys(labels))
    texts = space.fitted.source.embed_texts(names)
    expected = fit_probe(space.fitted.index.vectors, labels, texts, names).predict(
        np.array([space.query_vectors[str(row["query"])] for row in rows])
    )
    assert list(space._by_pool(rows, texts=True)) == expected
    without = probe._space(Store(view.path).read_cell(str(pixels["cell"].iloc[0])) or {}, {})
    assert without is not None
    assert without.label_vectors is None
    assert np.isnan(without.right("pool + texts", to_records(pixels))).all()
    reference = next(iter(pixels["retriever"]))
    assert "pool + texts" not in set(probe.analyze(replace(view, to={"retriever": reference}))["probe"])


def test_the_space_of_each_encoder_has_one_row(ran: Any) -> None:
    axes = {"retriever": ["random", {"name": "knn", "embedder": "pixels"}, "knn"], "shots": [2, 3]}
    node = {"name": "counting", "queries": 4, "pool_size": 20}
    table = embedding_space.analyze(ran(task=node, model="fake-vote", seeds=[0], grid=axes))
    rows = {row["encoder"]: row for row in table.to_dict("records")}
    assert set(rows) == {"pixels", "encoder"}
    task = build("task", node)
    diagnosis = diagnose(task.pool(""), build("embedder", "encoder"))
    assert rows["encoder"]["gap"] == pytest.approx(diagnosis["gap"])
    assert rows["encoder"]["hubness"] == pytest.approx(diagnosis["hubness"])
    assert rows["pixels"]["images"] == 20
    assert rows["pixels"]["texts"] == 0
    with pytest.raises(ConfigError, match="no retriever of the run compares vectors"):
        embedding_space.analyze(ran(task=node, model="fake-vote", shots=2, seeds=[0]))


def test_tasks_with_and_without_facts_are_audited_together(ran: Any) -> None:
    """Samples do not store empty facts, so that the frame has NaN for them."""
    tasks = [{"name": "operators", "queries": 2}, {"name": f"{PARTS}:Leaking"}]
    table = leakage.analyze(ran(model="fake-vote", shots=2, seeds=[0], grid={"task": tasks}))
    assert table["samples"].tolist() == [2, 4]
