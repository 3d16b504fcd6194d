import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from written_run import write_run

from experiments.config.config import load_config
from experiments.config.keys import AXES
from experiments.grid.grid import expand
from experiments.results.loaded_run import Run, load_run
from experiments.results.view_run import view_run
from experiments.running.run import run
from experiments.store.store import Store
from icl.errors import ConfigError, ICLWarning, StoreError

Mapping = Callable[..., dict[str, Any]]
ROOT = Path(__file__).parents[3]
PACKAGES = ("icl", "prompts", "retrievers", "decoding", "experiments")


@pytest.fixture
def written_run(tmp_path: Path) -> Run:
    return write_run(tmp_path / "runs" / "study", tasks=("shapes",), queries=4)


def test_a_run_is_found_by_its_folder_or_any_file_in_it(written_run: Run) -> None:
    cell = next((written_run.path / "cells").iterdir())
    for path in (written_run.path, written_run.path / "run.json", cell / "cell.json", str(written_run.path)):
        assert load_run(path).path == written_run.path
    assert (load_run(written_run.path).trust, load_run(written_run.path, trust=True).trust) == (False, True)


def test_a_path_without_a_run_is_a_sentence_that_names_runs_nearby(written_run: Run) -> None:
    runs = written_run.path.parent
    (runs / "notes.txt").touch()
    (runs / "empty").mkdir()
    for path, says in (
        (
            runs / "notes.txt",
            r"notes\.txt is a file outside a run directory\. Use the folder that contains run\.json\.$",
        ),
        (runs, r"runs is not a run directory, but contains runs: study\. Use one of them\.$"),
        (runs / "studi", r"Did you mean 'study'\? Runs in the same folder: study\.$"),
        (runs / "empty", r"empty is not a run directory \(no run\.json\)\. Runs in the same folder: study\.$"),
        (runs / "none" / "deep", r"deep is not a run directory \(no run\.json\)\.$"),
    ):
        with pytest.raises(StoreError, match=says):
            load_run(path)


def test_a_name_without_its_folder_runs_is_suggested_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Store(tmp_path / "runs" / "study").write_run({})
    with pytest.raises(
        StoreError, match=r"^study is not a run directory \(no run\.json\)\. Did you mean 'runs/study'\?$"
    ):
        load_run("study")


def test_runs_nearby_are_listed_in_order_and_not_all(tmp_path: Path) -> None:
    for name in "jihgfedcba":
        Store(tmp_path / name).write_run({})
    with pytest.raises(StoreError, match=r"contains runs: a, b, c, d, e, f, g, h\. Use"):
        load_run(tmp_path)
    with pytest.raises(StoreError, match=r"Runs in the same folder: a, b, c, d, e, f, g, h\.$"):
        load_run(tmp_path / "something-else")


def test_a_config_is_read_with_the_folder_of_its_file(mapping: Mapping, tmp_path: Path) -> None:
    run(load_config(mapping()), tmp_path / "runs")
    loaded = load_run(tmp_path / "runs" / "t")
    assert loaded.config["shots"] == 2
    assert loaded.config_folder.resolve() == Path.cwd()
    with pytest.raises(ConfigError, match=r"the code .*shapes\.py:Shapes is not imported without --trust"):
        expand(loaded.load_config())
    trusted = load_run(loaded.path, trust=True).load_config()
    assert (trusted.name, trusted.document.folder.resolve()) == ("t", Path.cwd())
    Store(loaded.path).write_run({"cells": []})
    assert loaded.config_folder == loaded.path
    with pytest.raises(StoreError, match=r"run\.json has no config\. Use the experiment file instead of the run\."):
        _ = loaded.config


def test_cells_have_their_labels_and_counts(written_run: Run) -> None:
    store = Store(written_run.path)
    digest = written_run.info["cells"][0]
    first, second, *others = store.samples(digest)
    store.replace_samples(digest, [first, {**second, "failed": "no image"}, *others])
    cells = written_run.cells().set_index("cell")
    assert list(cells.index) == written_run.info["cells"]
    assert (cells.loc[digest, "finished"], cells.loc[digest, "failed"]) == (3, 1)
    assert set(cells["finished"]) == {3, 4}
    assert cells["shots"].tolist() == [(store.read_cell(d) or {})["labels"]["shots"] for d in cells.index]


def test_a_run_without_a_list_of_cells_or_labels_is_a_sentence(written_run: Run) -> None:
    store = Store(written_run.path)
    digest = written_run.info["cells"][2]
    store.write_cell(digest, {k: v for k, v in (store.read_cell(digest) or {}).items() if k != "labels"})
    with pytest.raises(StoreError, match=rf"{digest}/cell\.json has no labels\. Restore the file from a copy"):
        written_run.samples()
    info = json.loads((written_run.path / "run.json").read_text())
    (written_run.path / "run.json").write_text(json.dumps({k: v for k, v in info.items() if k != "cells"}))
    with pytest.raises(StoreError, match=r"run\.json is not the run\.json of a run: it has no list of cells\."):
        written_run.samples()


def test_a_run_without_samples_is_an_empty_frame_with_its_columns(mapping: Mapping, tmp_path: Path) -> None:
    run(load_config(mapping(metrics=["strict"])), tmp_path)
    for path in (tmp_path / "t").glob("cells/*/0.jsonl"):
        path.unlink()
    frame = load_run(tmp_path / "t").samples()
    assert len(frame) == 0
    assert {"cell", "decided_by", *AXES, "seed", "query", "group", "failed", "output", "strict"} <= set(frame)


def labels(frame: Any, axis: str) -> dict[int, set[str]]:
    return {int(shots): set(map(str, rows[axis])) for shots, rows in frame.groupby("shots")}


def test_damaged_lines_are_a_warning_also_from_the_cache(written_run: Run) -> None:
    samples = sorted((written_run.path / "cells").glob("*/0.jsonl"))[0]
    lines = samples.read_text().splitlines(keepends=True)
    samples.write_text("".join(["damaged\n", *lines[1:], "{}\n"]))
    place = rf"line 1 of .*{samples.parent.name}/0\.jsonl, and 1 more, is not a complete sample"
    for _ in range(2):
        with pytest.warns(ICLWarning, match=rf"{place}.*Run the experiment again"):
            assert len(written_run.lazy_samples()) == sum(written_run.cells()["finished"])


def test_an_axis_that_cannot_matter_has_the_only_other_value(mapping: Mapping, tmp_path: Path) -> None:
    def read(name: str, **keys: Any) -> Any:
        run(load_config(mapping(name=name, **{"shots": None, **keys})), tmp_path)
        return load_run(tmp_path / name).samples()

    one = read("one", retriever="balanced", grid={"shots": [0, 1]})
    assert labels(one, "retriever") == {0: {"balanced"}, 1: {"balanced"}}
    two = read("two", grid={"shots": [0, 1], "retriever": ["balanced", "random"]})
    assert labels(two, "retriever") == {0: {"none"}, 1: {"balanced", "random"}}
    none = read("none", shots=0)
    assert labels(none, "retriever") == {0: {"none"}}


def test_samples_have_their_axes_metrics_and_baselines(mapping: Mapping, tmp_path: Path) -> None:
    run(load_config(mapping(metrics=["strict", "unparsed_rate"], grid={"shots": [0, 3]}, shots=None)), tmp_path)
    frame = load_run(tmp_path / "t").samples()
    assert frame.attrs["axes"] == AXES
    assert frame.attrs["metrics"] == ("strict", "unparsed_rate")
    assert "vote" in frame.attrs["baselines"]
    assert frame.attrs["better"] == {"strict": "higher", "unparsed_rate": "lower"}
    assert frame.attrs["accuracies"] == ("strict",)
    assert frame["failed"].tolist() == [None] * 12
    pd.testing.assert_series_equal(frame["vote"], frame["vote:strict"], check_names=False)
    assert frame[frame["shots"] == 0]["vote"].isna().all()
    assert frame[frame["shots"] == 3]["vote"].notna().all()
    cells = load_run(tmp_path / "t").info["cells"]
    assert list(dict.fromkeys(frame["cell"])) == cells


def test_an_older_run_has_the_directions_of_its_classes(mapping: Mapping, tmp_path: Path) -> None:
    run(load_config(mapping(metrics=["strict", "unparsed_rate"])), tmp_path)
    loaded = load_run(tmp_path / "t")
    info = {key: value for key, value in loaded.info.items() if key != "accuracies"}
    Store(loaded.path).write_run({**info, "metrics": {"unparsed_rate": {}, "strict": {"name": "own"}}})
    frame = loaded.samples()
    assert frame.attrs["better"] == {"unparsed_rate": "lower", "strict": "higher"}
    assert frame.attrs["accuracies"] == ()
    own = {"strict": {"name": "own", "better": "lower", "accuracy": True}, "unparsed_rate": {"better": "neither"}}
    Store(loaded.path).write_run({**loaded.info, "metrics": own})
    frame = loaded.samples()
    assert frame.attrs["better"] == {"strict": "lower", "unparsed_rate": "neither"}
    assert frame.attrs["accuracies"] == ("strict",)


def folders_of(call: Callable[[], Any]) -> set[str]:
    """The folders whose functions a call enters: folders of `experiments`, and other packages."""
    files = set[str]()
    sys.setprofile(lambda frame, event, _: files.add(frame.f_code.co_filename) if event == "call" else None)
    try:
        call()
    finally:
        sys.setprofile(None)
    modules = (Path(file).relative_to(ROOT) for file in files if Path(file).is_relative_to(ROOT))
    return {"/".join(one.parts[: 1 + (one.parts[0] == "experiments")]) for one in modules if one.parts[0] in PACKAGES}


def test_the_view_of_a_run_needs_nothing_but_its_own_files(mapping: Mapping, tmp_path: Path) -> None:
    nodes = ["greedy", "vcd", {"name": "mask_only", "of": "vcd"}]
    arms = {"decoding": nodes, "shots": [0, 1]}
    run(load_config(mapping(model={"name": "hf", "path": "tiny"}, grid=arms, shots=None)), tmp_path)
    loaded = load_run(tmp_path / "t")
    entered = folders_of(lambda: view_run(loaded))
    assert entered <= {f"experiments/{folder}" for folder in ("results", "store", "stats", "config")} | {"icl"}
    frame = loaded.samples()
    assert frame.groupby(["shots", "decoding"])["decided_by"].first().nunique() == 4
    store = Store(loaded.path)
    for digest in loaded.info["cells"]:
        cell = {key: value for key, value in (store.read_cell(digest) or {}).items() if key != "decided_by"}
        store.write_cell(digest, cell)
    assert "decoding" in folders_of(lambda: view_run(loaded))  # as in a run of an older release
    pd.testing.assert_frame_equal(loaded.samples(), frame)


def test_comparisons_have_the_defaults_of_the_config(written_run: Run) -> None:
    table = written_run.compare()
    assert set(table["decoding"]) == {"vcd", "mask_only(vcd)"}
    assert written_run.compare(metric="strict")["difference"].tolist() != table["difference"].tolist()
    other = written_run.compare(to={"shots": 0})
    assert 0 not in set(other["shots"])
    Store(written_run.path).write_run({**written_run.info, "config": {"name": "x"}})
    with pytest.raises(StoreError, match=r"its config has no 'compare'\. Pass the reference: "):
        written_run.compare()


def test_a_run_is_shown_with_its_cells_and_state(written_run: Run, tmp_path: Path) -> None:
    cells = len(written_run.info["cells"])
    for sessions, state in (
        ([{}, {"state": "finished"}], "finished"),
        ([{"state": "finished"}, {"state": "running"}], "running"),
    ):
        Store(written_run.path).write_run({**written_run.info, "sessions": sessions})
        assert repr(written_run) == f"Run({str(written_run.path)!r}: {cells} cells, {state})"
    assert repr(Run(tmp_path / "none")).endswith(": 0 cells, empty)")
