import json

import pandas as pd
import pytest
from written_run import GREEDY, MASK_ONLY, VCD, decoded

from experiments.cli.main import main
from experiments.config.config import load_config
from experiments.imports.merged_runs import merge_runs
from experiments.results.loaded_run import load_run
from experiments.results.view_run import view_run
from experiments.running.run import run as run_config
from experiments.store.store import Store
from icl.errors import StoreError

HOW = {"queries": 12, "shots": (0, 2), "retrievers": ("knn",), "tasks": ("shapes",)}


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def scores(run):
    columns = ["task", "shots", "decoding", "mean", "low", "high", "samples"]
    return run.scores()[columns].sort_values(columns[:3], ignore_index=True)


def test_a_merged_run_has_the_scores_of_one_run_with_all_arms(written, tmp_path):
    whole = written("whole", decodings=(GREEDY, VCD, MASK_ONLY), **HOW)
    parts = [written("a", decodings=(GREEDY, VCD), **HOW), written("b", decodings=(GREEDY, MASK_ONLY), **HOW)]
    done = merge_runs(tmp_path / "m", [part.path for part in parts])
    merged = load_run(tmp_path / "m")
    pd.testing.assert_frame_equal(scores(merged), scores(whole))
    assert (done.cells, done.shared, done.differing) == (len(whole.info["cells"]), 4, 0)
    columns = ["decoding", "difference", "p", "p_corrected"]
    assert merged.compare()[columns].equals(whole.compare()[columns])
    assert view_run(merged).controls == {"vcd": ("mask_only(vcd)",)}
    assert sorted(p.name for p in (merged.path / "images").iterdir()) == sorted(
        p.name for p in (whole.path / "images").iterdir()
    )


def test_labels_are_made_again_where_one_label_means_two_values(written, tmp_path):
    other = decoded("vcd", alpha=2.0)  # both runs call it vcd
    one, two = written("a", decodings=(GREEDY, VCD), **HOW), written("b", decodings=(GREEDY, other), **HOW)
    merge_runs(tmp_path / "m", [one.path, two.path])
    frame = load_run(tmp_path / "m").samples()
    assert set(frame["decoding"]) == {"greedy", "vcd(alpha=1)", "vcd(alpha=2)"}


def test_samples_name_their_process_after_the_merge(mapping, tmp_path):
    for name, shots in (("a", 1), ("b", 2)):
        run_config(load_config(mapping(name=name, shots=shots)), tmp_path)
        path = tmp_path / name / "invocations.jsonl"
        line = json.loads(path.read_text())
        path.write_text(json.dumps({**line, "versions": {**line["versions"], "torch": f"9.{shots}"}}) + "\n")
    merge_runs(tmp_path / "m", [tmp_path / "a", tmp_path / "b"])
    merged = load_run(tmp_path / "m")
    assert merged.samples().groupby("shots")["invocation"].unique().map(list).to_dict() == {1: [1], 2: [2]}
    assert "torch 9.1 (6 samples) and 9.2 (6 samples)" in view_run(merged).mixed_versions
    assert merged.info["sizes"] == [6, 6]
    with pytest.raises(StoreError, match="merged from other runs"):
        run_config(load_config(mapping(name="m")), tmp_path)


def test_of_two_samples_of_a_query_the_first_finished_one_counts(written, tmp_path):
    failed = written("a", decodings=(GREEDY,), failing={"shapes-0003": "no answer"}, **HOW)
    full = written("b", decodings=(GREEDY,), **HOW)
    (digest, *_) = full.info["cells"]
    samples = [
        {**one, "output": "other"} if one["query"] == "shapes-0001" else one for one in Store(full.path).samples(digest)
    ]
    Store(full.path).replace_samples(digest, samples)
    done = merge_runs(tmp_path / "m", [failed.path, full.path])
    assert done.differing == 1
    merged = load_run(tmp_path / "m").samples()
    assert merged["failed"].isna().all()
    assert "other" not in set(merged["output"])


def test_nothing_of_an_earlier_merge_remains_and_a_stale_one_says_so(written, tmp_path, capsys):
    a, b = written("a", decodings=(GREEDY,), **HOW), written("b", decodings=(VCD,), **HOW)
    words = ["import", str(tmp_path / "m"), str(a.path), str(b.path)]
    assert main(words) == 0
    assert "merged 96 samples in 8 cells" in capsys.readouterr().out
    (tmp_path / "m" / "report.html").write_text("old")
    assert view_run(load_run(tmp_path / "m")).mixed_versions == ""
    (digest, *_) = a.info["cells"]
    store = Store(a.path)
    store.replace_samples(digest, list(store.samples(digest))[:-1])
    assert "changed since the merge. Run `icl import` again" in view_run(load_run(tmp_path / "m")).mixed_versions
    assert main(words) == 0
    assert not (tmp_path / "m" / "report.html").exists()
    assert view_run(load_run(tmp_path / "m")).mixed_versions == ""
    assert len(load_run(tmp_path / "m").samples()) == 95
    assert not list(tmp_path.glob(".m.*"))


def test_runs_that_do_not_pair_are_a_sentence(written, tmp_path, capsys):
    a = written("a", decodings=(GREEDY,), **HOW)
    seeds = written("seeds", decodings=(VCD,), seeds=(0,), **HOW)
    scored = written("scored", decodings=(VCD,), **HOW)
    edit(scored.path / "run.json", lambda info: info["metrics"]["lenient"].update(answer="last"))
    data = [written("old", decodings=(GREEDY,), **HOW), written("new", decodings=(VCD,), **HOW)]
    for run in data:
        for digest in run.info["cells"]:
            edit(
                run.path / "cells" / digest / "cell.json",
                lambda cell, run=run: cell.update(data={"queries": run.path.name}),
            )
    for runs, sentence in (
        ([a, seeds], "task 'shapes' has other seeds (0, 1; 0)"),
        ([a, scored], "their score 'lenient' has other parameters or code"),
        (data, "the queries of task 'shapes' differ"),
        ([a, a], "a merge needs at least two different runs."),
        ([a], "a merge needs at least two different runs."),
    ):
        assert main(["import", str(tmp_path / "m"), *(str(run.path) for run in runs)]) == 2
        err = capsys.readouterr().err
        assert sentence in err
        assert err.count("\n") == 1
        assert not (tmp_path / "m").exists()
    assert main(["import", str(a.path), str(data[0].path), str(data[1].path)]) == 2
    assert "exists and is not a merged run" in capsys.readouterr().err
    assert main(["import", str(tmp_path / "m"), str(a.path), str(tmp_path)]) == 2
    assert "not a run directory" in capsys.readouterr().err
