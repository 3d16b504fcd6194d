"""The leaderboard: its columns over several runs, its numbers, its page and its command."""

import math
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from written_run import GREEDY, MASK_ONLY, VCD

from experiments.api import run
from experiments.cli.main import main
from experiments.report.leaderboard import (
    collect_leaderboard,
    frontier_tables,
    leaderboard_frame,
    leaderboard_sections,
    render_leaderboard,
)
from experiments.results.loaded_run import load_run
from experiments.results.view_run import view_run
from experiments.stats.compare import compare
from experiments.stats.formatting import format_range, format_share
from experiments.store.store import Store
from icl.errors import ConfigError

HOSTILE = "<script>alert(1)</script>"


def test_columns_are_the_tasks_and_models_of_all_runs(written: Any) -> None:
    one = view_run(written("one", queries=8, seeds=(0,), shots=(0, 2)))
    two = view_run(written("two", queries=8, seeds=(0,), shots=(0,), models=("small", "large"), tasks=("shapes",)))
    board = collect_leaderboard([one, two])
    assert [(column.run, column.subject, column.model) for column in board.columns] == [
        ("one", "shapes", "tiny"),
        ("one", "binding, 2-way", "tiny"),
        ("two", "small", ""),
        ("two", "large", ""),
    ]
    assert board.methods == ("vcd",)
    assert board.family == 8  # vcd against greedy and against its mask, in four columns


def test_gains_are_the_paired_differences_of_compare(written: Any) -> None:
    view = view_run(written(queries=30, seeds=(0,), shots=(2,), retrievers=("random",), tasks=("shapes",)))
    row = leaderboard_frame(collect_leaderboard([view])).set_index("method").loc["vcd"]
    for name, against in (("gain", "greedy"), ("gain_over_strongest", "mask_only(vcd)")):
        table = compare(view.scores, {"decoding": against}, axes=view.axes).set_index("decoding").loc["vcd"]
        assert row[[name, f"{name}_low", f"{name}_high"]].tolist() == pytest.approx(
            table[["difference", "low", "high"]].tolist()
        )
    assert row["strongest"] == "mask_only"


def test_a_method_with_unread_outputs_has_a_range_and_no_gain(written: Any) -> None:
    made = written(queries=30, seeds=(0,), shots=(2,), retrievers=("random",), tasks=("shapes",))
    store = Store(made.path)
    for digest in made.info["cells"]:
        samples = list(store.samples(digest))
        if (store.read_intact_cell(digest) or {})["labels"]["decoding"] == "vcd":
            marked = [{**one, "unread": ["lenient"]} if i < 6 else one for i, one in enumerate(samples)]
            scores = [one["scores"]["lenient"] for one in samples]
            store.replace_samples(digest, marked)
    board = collect_leaderboard([view_run(load_run(made.path))])
    row = leaderboard_frame(board).set_index("method").loc["vcd"]
    ends = sum(scores[6:]) / 30, (sum(scores[6:]) + 6) / 30
    assert row[["mean_low", "mean_high", "unread"]].tolist() == pytest.approx([*ends, 0.2])
    assert row["low"] < row["mean_low"] < row["mean_high"] < row["high"]
    assert math.isnan(row["gain"])
    assert row["gain_low"] < ends[0] - ends[1] < row["gain_high"]
    assert row["verdict"] == "undecided"
    page = render_leaderboard(board, [], [])
    assert format_range(ends) in page
    assert format_share(row["score"]) not in page, "no number between the ends"


def test_every_text_of_a_run_is_escaped(written: Any) -> None:
    view = view_run(written(queries=4, tasks=(HOSTILE,), models=(HOSTILE,), seeds=(0,)))
    page = render_leaderboard(collect_leaderboard([view]), [], [HOSTILE])
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 3


def test_captions_have_chair_and_a_frontier(tmp_path: Any, capsys: Any) -> None:
    tasks = [{"name": "existence", "queries": 2, "pool_size": 4}, {"name": "captions", "queries": 3, "pool_size": 4}]
    config: Any = {"name": "t", "grid": {"task": tasks, "decoding": ["greedy", "vcd"]}, "max_new_tokens": 10}
    config |= {"metrics": ["lenient", "chair_corpus"], "model": {"name": "hf", "path": "tiny"}}
    made = run(config, runs=tmp_path, quiet=True)
    board = collect_leaderboard([view_run(made)])
    assert [(column.subject, column.metric) for column in board.columns] == [
        ("existence · random", "lenient"),
        ("captions", "chair_corpus"),
    ]
    (table,), refused = frontier_tables(view_run(made))
    assert (refused, table.title) == ("", "Hallucination and recall · t: captions, 0 shots")
    assert list(table.frame["decoding"][~table.frame["control"]]) == ["greedy", "vcd"]
    assert main(["report", str(made.path), "--as", "leaderboard", "--out", str(tmp_path / "board")]) == 0
    assert "vcd: " in capsys.readouterr().out
    page = (tmp_path / "board" / "leaderboard.html").read_text(encoding="utf-8")
    ((_, svg),) = table.figure.page()
    assert svg in page
    assert "recall of objects" in page
    costs = pd.read_csv(tmp_path / "board" / "leaderboard.csv").set_index("method")["forwards_per_token"]
    assert costs["vcd"].tolist() == [2, 2]
    assert costs["greedy"].tolist() == [1, 1]


def test_a_run_that_cannot_be_ranked_is_refused(written: Any) -> None:
    view = view_run(written(queries=4, decodings=(GREEDY,)))
    with pytest.raises(ConfigError, match="no decoding method beside its reference"):
        collect_leaderboard([view])
    with pytest.raises(ConfigError, match="no score chair_i"):
        collect_leaderboard([view_run(written("b", queries=4))], ["chair_i"])


def test_a_run_by_another_path_and_a_copy_count_once(
    written: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    path = written("one", queries=4, seeds=(0,)).path
    other = written("two", queries=5, seeds=(0,)).path
    copied = shutil.copytree(path, tmp_path / "copy")
    monkeypatch.chdir(path.parent)
    tables = []
    for runs in (["one", str(other)], ["one", "one", str(path), str(copied), str(other)]):
        assert main(["report", *runs, "--as", "leaderboard", "--out", str(tmp_path / "board")]) == 0
        tables.append((tmp_path / "board" / "leaderboard.csv").read_text())
    assert tables[0] == tables[1]
    lines = [line for line in capsys.readouterr().out.splitlines() if "it counts once" in line]
    assert lines == [f"{run} has the same cells and answers as one: it counts once." for run in ("one", path, copied)]


def test_a_label_with_two_meanings_and_a_missing_control_are_named(written: Any) -> None:
    sharp = {"strategy": {"name": "vcd", "alpha": 2.0}, "sampler": {"name": "greedy"}}
    views = [
        view_run(written("one", queries=4, decodings=(GREEDY, VCD, MASK_ONLY))),
        view_run(written("two", queries=4, decodings=(GREEDY, sharp))),
    ]
    notes = collect_leaderboard(views).notes
    assert any(note.startswith("vcd has other parameters in one run than in another") for note in notes)
    assert any(note.startswith("two: vcd: no control was run") for note in notes)


def test_every_column_has_a_table_with_its_verdicts_and_costs(written: Any) -> None:
    tasks = [f"task {i}" for i in range(6)]
    view = view_run(written(queries=2, seeds=(0,), shots=(0,), tasks=tasks))
    summary, verdicts = leaderboard_sections(collect_leaderboard([view]))
    assert [table.title.split(" · ")[0] for table in verdicts.tables] == tasks
    assert all([row[0][0].text for row in table.rows] == ["greedy", "vcd"] for table in verdicts.tables)
    assert summary.frame["columns"].tolist() == [6]
