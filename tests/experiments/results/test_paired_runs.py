import json

import pytest
from written_run import GREEDY, MASK_ONLY, VCD

from experiments.cli.main import main
from experiments.imports.merged_runs import merge_runs
from experiments.results.loaded_run import load_run
from experiments.results.paired_runs import _value, pair_runs
from experiments.results.run_list import list_runs
from experiments.results.view_run import NO_REFERENCE, view_run
from experiments.stats.compare import compare
from experiments.stats.pairs import UnpairedError
from experiments.store.store import Store
from icl.errors import ConfigError, StoreError

HOW = {"queries": 20, "shots": (2,), "retrievers": ("knn",), "tasks": ("shapes",)}


def compared(paired):
    view = paired.view
    return compare(view.scores, view.to, view.metric, axes=view.axes)


def test_two_runs_are_compared_as_two_arms_of_one_run(written, tmp_path):
    greedy, vcd = written("greedy", decodings=(GREEDY,), **HOW), written("vcd", decodings=(VCD,), **HOW)
    paired = pair_runs(view_run(greedy, to=NO_REFERENCE), view_run(vcd, to=NO_REFERENCE))
    (row,) = compared(paired).to_dict("records")
    merge_runs(tmp_path / "all", [greedy.path, vcd.path])
    (expected,) = load_run(tmp_path / "all").compare().to_dict("records")
    for name in ("mean", "reference_mean", "difference", "low", "high", "p", "right_to_wrong", "clusters"):
        assert row[name] == expected[name]
    assert paired.notes == ("settings that differ: decoding greedy → vcd",)


def test_a_run_is_not_compared_with_itself(written):
    view = view_run(written("same", decodings=(GREEDY,), **HOW), to=NO_REFERENCE)
    with pytest.raises(ConfigError, match=r"two different runs, and both are .*same\. For one, give it once\."):
        pair_runs(view, view)


def test_equal_settings_are_compared_and_other_arms_are_named(written):
    first = written("first", decodings=(GREEDY, VCD), **HOW)
    second = written("second", decodings=(VCD, MASK_ONLY), **HOW)
    paired = pair_runs(view_run(first, to=NO_REFERENCE), view_run(second, to=NO_REFERENCE))
    table = compared(paired)
    assert table["decoding"].tolist() == ["vcd"]
    assert table["difference"].tolist() == [0.0]
    assert paired.notes == ("no setting differs", "only in first: greedy", "only in second: mask_only(vcd)")


def test_each_arm_meets_the_nearest_one(written):
    greedy = written("greedy", decodings=(GREEDY,), **{**HOW, "shots": (2, 4)})
    others = written("others", decodings=(VCD, MASK_ONLY), **{**HOW, "shots": (2, 4)})
    table = compared(pair_runs(view_run(greedy, to=NO_REFERENCE), view_run(others, to=NO_REFERENCE)))
    assert table[["shots", "decoding"]].to_numpy().tolist() == [
        [2, "vcd"], [4, "vcd"], [2, "mask_only(vcd)"], [4, "mask_only(vcd)"]
    ]  # fmt: skip
    assert (table["family"] == 4).all()
    alone = written("alone", decodings=(MASK_ONLY,), **{**HOW, "shots": (2,)})
    both = written("both", decodings=(GREEDY, VCD), **HOW)
    with pytest.raises(ConfigError, match=r"matches several arms of both equally well: greedy; vcd\..*`icl import"):
        pair_runs(view_run(both, to=NO_REFERENCE), view_run(alone, to=NO_REFERENCE))


def test_an_arm_that_both_runs_have_leaves_the_others_to_their_nearest_ones(written):
    first = written("random", decodings=(GREEDY,), **{**HOW, "shots": (0, 2), "retrievers": ("random",)})
    second = written("knn", decodings=(GREEDY,), **{**HOW, "shots": (0, 2)})
    paired = pair_runs(view_run(first, to=NO_REFERENCE), view_run(second, to=NO_REFERENCE))
    assert compared(paired)["shots"].tolist() == [0, 2]
    assert paired.notes == ("settings that differ: retriever random → knn",)


def test_runs_that_ask_other_questions_under_one_id_are_refused(written):
    first, second = written("first", decodings=(GREEDY,), **HOW), written("second", decodings=(VCD,), **HOW)
    for digest in second.info["cells"]:
        samples = [{**one, "question": "How many?"} for one in Store(second.path).samples(digest)]
        Store(second.path).replace_samples(digest, samples)
    with pytest.raises(UnpairedError, match=r"20 queries with one id have another question \(query shapes-0000: "):
        pair_runs(view_run(first, to=NO_REFERENCE), view_run(second, to=NO_REFERENCE))


def test_the_command_names_what_differs(written, capsys, tmp_path):
    first = written("first", decodings=(GREEDY,), **HOW)
    second = written("second", decodings=(VCD,), **HOW)
    for run, torch in ((first, "2.3"), (second, "2.4")):
        (run.path / "invocations.jsonl").write_text(json.dumps({"id": 1, "versions": {"torch": torch}}) + "\n")
    runs = [str(first.path), str(second.path)]
    csv = tmp_path / "two.csv"
    assert main(["compare", *runs]) == 0
    out = capsys.readouterr().out
    assert "settings that differ: decoding greedy → vcd\nversions that differ: torch 2.3 → 2.4\n" in out
    assert "against first" in out
    assert main(["compare", *runs, "--as", "csv", "--out", str(csv)]) == 0
    capsys.readouterr()
    assert csv.read_text().startswith("task,")
    assert main(["compare", *runs, "--by", "type"]) == 0
    assert main(["compare", *runs, runs[0]]) == 2
    assert "takes one run or two, not 3" in capsys.readouterr().err
    assert main(["compare", *runs, "--to", "decoding=greedy"]) == 2
    assert "the first of two runs is the reference" in capsys.readouterr().err
    fewer = written("fewer", decodings=(VCD,), **{**HOW, "queries": 8})
    assert main(["compare", runs[0], str(fewer.path)]) == 2
    assert "are not paired: 12 of 20" in capsys.readouterr().err.replace("24 of 40", "12 of 20")


def test_the_list_of_runs_has_a_line_for_each(written, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    run = written("first", decodings=(GREEDY, VCD), failing={"shapes-0001": "gone"}, **HOW)
    written("second", decodings=(VCD,), **HOW)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.json").write_text("{")
    info = json.loads((run.path / "run.json").read_text())
    info["sessions"][-1]["state"] = "stopped"
    (run.path / "run.json").write_text(json.dumps({**info, "sizes": [20] * len(info["cells"])}))
    runs = {one.path.name: one for one in list_runs(tmp_path)}
    first, bad = runs["first"], runs["bad"]
    assert (first.arms, first.done, first.planned, first.state) == (2, 76, 80, "stopped")
    best = run.scores().sort_values("mean").iloc[-1]
    assert first.score == f"lenient {best['mean']:.3f} ({best['decoding']})".replace("0.", ".")
    assert runs["second"].arms == 1
    assert (bad.state, bad.time) == ("unreadable", None)
    assert list_runs(run.path) == [first]
    assert main(["ls", "runs", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert "76 of 80" in captured.out
    assert "run.json is damaged" in captured.err
    with pytest.raises(StoreError, match="is no folder"):
        list_runs(tmp_path / "none")


def test_the_value_of_an_axis_does_not_depend_on_the_order_of_keys():
    assert _value({"order": {"name": "x", "a": 1}}, "order") == _value({"order": {"a": 1, "name": "x"}}, "order")
    assert _value({"labels": {"order": "x"}}, "order") != _value({"labels": {"order": "y"}}, "order")
