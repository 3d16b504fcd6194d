import json

import numpy as np
import pandas as pd
import pytest
from written_run import GREEDY, VCD

from experiments.api import load_run
from experiments.cli.main import main
from experiments.config.config import load_config
from experiments.results.view_run import view_run
from experiments.running.run import run
from experiments.store.store import Store
from icl.errors import ConfigError, StoreError


def test_a_view_reads_axes_scores_and_reference_from_the_run(viewed):
    view = viewed(queries=3)
    assert view.row_axes == ("retriever", "decoding")
    assert (view.metric, view.to, view.correct) == ("lenient", {"decoding": "greedy"}, "holm")
    assert (view.metrics, view.baselines) == (("lenient", "strict"), ("vote",))
    assert view.fixed["model"] == "tiny"


def test_scores_share_the_memory_of_samples_and_change_alone(written):
    view = view_run(written(queries=3))
    for name in ("lenient", "retriever") if pd.__version__ >= "3" else ():  # before, a choice of columns is a copy
        assert np.shares_memory(view.scores[name].to_numpy(), view.frame[name].to_numpy())
    before = view.frame["lenient"].copy()
    view.scores["lenient"] = 0.5
    view.scores.loc[0, "strict"] = 0.25
    assert view.frame["lenient"].equals(before)
    assert view.frame["strict"][0] != 0.25


def test_controls_are_known_by_what_they_wrap(viewed):
    assert viewed(queries=3).controls == {"vcd": ("mask_only(vcd)",)}


def test_a_control_of_other_parameters_or_another_sampler_is_not_its_own(written):
    greedy, vcd, control = ({"strategy": {"name": n, **p}, "sampler": {"name": "greedy"}} for n, p in
        (("greedy", {}), ("vcd", {"alpha": 1.0}), ("mask_only", {"of": {"name": "vcd", "alpha": 1.0}})))  # fmt: skip
    other = {**control, "strategy": {"name": "mask_only", "of": {"name": "vcd", "alpha": 2.0}}}
    sampled = {**control, "sampler": {"name": "sampler", "temperature": 1.0}}
    assert view_run(written(name="a", queries=2, decodings=(greedy, vcd, control))).controls == {
        "vcd": ("mask_only(vcd)",)
    }
    assert view_run(written(name="b", queries=2, decodings=(greedy, vcd, other))).controls == {}
    assert view_run(written(name="c", queries=2, decodings=(greedy, vcd, sampled))).controls == {}


def test_another_metric_or_reference_can_be_asked_for(written):
    view = view_run(written(queries=3), metric="strict", to={"shots": "0"})
    assert (view.metric, view.to) == ("strict", {"shots": 0})


def test_unknown_words_are_sentences(written):
    run = written(queries=3)
    with pytest.raises(ConfigError, match=r"no score 'strikt'\. Did you mean 'strict'"):
        view_run(run, metric="strikt")
    with pytest.raises(ConfigError, match=r"no arm has decoding 'vdc'\. Did you mean 'vcd'"):
        view_run(run, to={"decoding": "vdc"})


def test_without_a_word_in_the_config_greedy_is_the_reference(written):
    run = written(queries=3)
    info = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps({**info, "config": {}}))
    assert view_run(run).to == {"decoding": "greedy"}


def test_with_one_strategy_the_usual_reference_is_random_retrieval_else_no_shots(written):
    def usual(retrievers):
        run = written(name="-".join(retrievers), queries=3, decodings=(GREEDY,), retrievers=retrievers)
        info = json.loads((run.path / "run.json").read_text())
        (run.path / "run.json").write_text(json.dumps({**info, "config": {}}))
        return view_run(run).to

    assert usual(("random", "knn")) == {"retriever": "random"}
    assert usual(("knn", "jaccard")) == {"shots": 0}


def test_the_strategy_that_others_are_compared_with_is_the_asked_one(written):
    run = written(queries=3, decodings=(GREEDY, VCD))
    assert view_run(run).reference == "greedy"
    assert view_run(run, to={"decoding": "vcd"}).reference == "vcd"
    assert view_run(run, to={"shots": "0"}).reference == "greedy"


def test_a_run_without_samples_is_a_sentence(written):
    with pytest.raises(StoreError, match="no finished sample yet"):
        view_run(written(queries=0))


def test_a_run_that_was_stopped_says_so(written):
    run = written(queries=3)
    assert view_run(run).unfinished == ""
    info = json.loads((run.path / "run.json").read_text())
    info["sessions"][-1]["state"] = "interrupted"
    (run.path / "run.json").write_text(json.dumps(info))
    assert view_run(run).unfinished.startswith("The run is not finished (interrupted)")


def test_a_run_that_has_not_come_to_its_reference_is_shown_without_comparisons(written, capsys):
    folder = written(queries=3, decodings=(VCD,)).path
    with pytest.raises(ConfigError, match=r"compare\.to: no arm has decoding 'greedy'\. Values: vcd"):
        view_run(load_run(folder))
    info = json.loads((folder / "run.json").read_text())
    info["sessions"][-1]["state"] = "interrupted"
    (folder / "run.json").write_text(json.dumps({**info, "cells": [*info["cells"], "0123456789abcdef"]}))
    cell = Store(folder).read_cell(info["cells"][0])
    labels = {**cell["labels"], "decoding": "greedy"}
    Store(folder).write_cell("0123456789abcdef", {**cell, "decoding": GREEDY, "labels": labels})
    view = view_run(load_run(folder))
    assert view.to == {}
    assert "because compare.to (decoding greedy) has no samples yet." in view.unfinished
    for command in (["show"], ["show", "scores"], ["report"], ["show", "progress"]):
        assert main([command[0], str(folder), *command[1:]]) == 0, command
        assert "no arm has" not in "".join(capsys.readouterr())
    with pytest.raises(ConfigError, match="no arm has decoding 'greedy'"):
        view_run(load_run(folder), to={"decoding": "greedy"})


def test_failed_samples_are_counted(written):
    view = view_run(written(queries=3, failing={"shapes-0001": "image broken.png cannot be read"}))
    assert view.failed == 2 * (3 + 2 * 2 * 3)


def test_a_score_is_called_an_accuracy_where_it_is_one_and_says_which_way_is_good(viewed, written):
    view = viewed(queries=3)
    assert (view.better, view.measure) == ("higher", "lenient accuracy")
    for name, better, measure in (
        ("chair_s", "lower", "chair_s (lower is better)"),
        ("yes_ratio", "neither", "yes_ratio"),
    ):
        run = written(name=name, queries=3)
        info = (run.path / "run.json").read_text().replace('"lenient"', f'"{name}"')
        (run.path / "run.json").write_text(info)
        for path in run.path.rglob("*.jsonl"):
            path.write_text(path.read_text().replace('"lenient"', f'"{name}"'))
        view = view_run(run)
        assert (view.better, view.measure) == (better, measure)


def test_a_reference_that_an_axis_of_one_value_is_by_its_parameters(mapping, tmp_path):
    to = {"model": {"max_tokens": None}}
    config = load_config(mapping(grid={"shots": [0, 1]}, compare={"to": to}))
    assert view_run(load_run(run(config, tmp_path / "runs").folder)).to == {"model": "fake-copy"}
