from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.config.config import load_config
from experiments.grid.grid import expand
from experiments.running.rescore import rescore
from experiments.running.run import run
from experiments.store.invocations import Invocation, read_invocations
from experiments.store.store import Store

Mapping = Callable[..., dict[str, Any]]
OWN = ("scores_invocation",)


def lines(store: Store) -> dict[tuple[str, str], dict[str, Any]]:
    cells = (store.read_run() or {})["cells"]
    return {(digest, line["query"]): line for digest in cells for line in store.samples(digest)}


def test_scores_and_baselines_become_those_of_a_run_with_the_metrics(mapping: Mapping, tmp_path: Path) -> None:
    answers = {"answer_mode": "options", "shots": 3}
    later = mapping(name="later", metrics=["strict"], **answers)
    at_once = mapping(name="at-once", metrics=["strict", "lenient", "option"], **answers)
    for config in (later, at_once):
        run(load_config(config), tmp_path)
    store = Store(tmp_path / "later")
    grid = expand(load_config({**at_once, "name": "later"}))
    invocation = Invocation(store)
    assert rescore(store, grid, invocation) == 6
    expected = lines(Store(tmp_path / "at-once"))
    assert {key: {k: v for k, v in line.items() if k not in OWN} for key, line in lines(store).items()} == expected
    assert {line["scores_invocation"] for line in lines(store).values()} == {2}
    assert [*read_invocations(store)] == [1, 2]
    digest = grid.cells[0].digest
    assert (store.read_cell(digest) or {})["metrics"] == (Store(tmp_path / "at-once").read_cell(digest) or {})[
        "metrics"
    ]
    assert rescore(store, grid, Invocation(store)) == 0
    assert [*read_invocations(store)] == [1, 2]


def test_failed_samples_and_queries_that_are_gone_stay_as_they_are(mapping: Mapping, tmp_path: Path) -> None:
    run(load_config(mapping(metrics=["strict"])), tmp_path)
    store = Store(tmp_path / "t")
    (digest,) = (store.read_run() or {})["cells"]
    first, second, *others = store.samples(digest)
    gone = {**first, "query": "gone"}
    failed = {k: v for k, v in second.items() if k not in ("output", "scores")} | {"failed": "no image"}
    store.replace_samples(digest, [gone, failed, *others])
    grid = expand(load_config(mapping(metrics=["lenient"])))
    assert rescore(store, grid, Invocation(store)) == 6
    after = list(store.samples(digest))
    assert after[:2] == [gone, failed]
    assert all(set(line["scores"]) == {"lenient"} for line in after[2:])


def test_a_cell_without_samples_gets_its_metrics_and_no_invocation(mapping: Mapping, tmp_path: Path) -> None:
    run(load_config(mapping(metrics=["strict"])), tmp_path)
    store = Store(tmp_path / "t")
    (digest,) = (store.read_run() or {})["cells"]
    (store.cell_folder(digest) / "0.jsonl").unlink()
    grid = expand(load_config(mapping(metrics=["lenient"])))
    assert rescore(store, grid, Invocation(store)) == 0
    assert not (store.cell_folder(digest) / "0.jsonl").exists()
    assert set((store.read_cell(digest) or {})["metrics"]) == {"lenient"}
    assert [*read_invocations(store)] == [1]


def test_a_renamed_answer_is_scored_by_its_stored_gold(mapping: Mapping, tmp_path: Path) -> None:
    symbols = {"transforms": [{"name": "symbols"}], "shots": 3}
    run(load_config(mapping(name="later", metrics=["unparsed_rate"], **symbols)), tmp_path)
    run(load_config(mapping(name="later", metrics=["strict"], **symbols)), tmp_path)
    run(load_config(mapping(name="at-once", metrics=["strict"], **symbols)), tmp_path)
    (later, at_once) = (lines(Store(tmp_path / name)) for name in ("later", "at-once"))
    assert {k: line["scores"] for k, line in later.items()} == {k: line["scores"] for k, line in at_once.items()}
    assert {k: line["baselines"] for k, line in later.items()} == {k: line["baselines"] for k, line in at_once.items()}
