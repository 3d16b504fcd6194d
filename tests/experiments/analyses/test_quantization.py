"""Quantization: divergences by hand, known gains of fakes, and a real model in two precisions."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.analyses import quantization, quantization_gains, quantization_measurements
from experiments.analyses.quantization_measurements import kl_divergences
from experiments.api import load_run, run
from experiments.results.view_run import view_run
from icl.errors import ConfigError, ModelError


def test_a_divergence_equals_its_formula() -> None:
    with np.errstate(divide="ignore"):
        full = np.log(np.array([[0.5, 0.5], [0.9, 0.1], [1.0, 0.0]], dtype=np.float32))
    other = np.log(np.array([[0.25, 0.75], [0.9, 0.1], [0.5, 0.5]], dtype=np.float32))
    by_hand = [0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75), 0.0, math.log(2)]
    assert kl_divergences(full, other) == pytest.approx(by_hand, abs=1e-6)


def models(ran: Any, **keys: Any) -> Any:
    """A voting model as full precision, and a copying model as the quantized one."""
    return ran(
        metric="strict",
        grid={"model": ["fake-vote", "fake-copy", "fake-gold"], "shots": [0, 5], **keys},
        compare={"to": {"model": "fake-vote"}, "metric": "strict"},
        metrics=["strict", "lenient"],
    )


def test_gains_and_their_changes_are_differences_sample_by_sample(ran: Any) -> None:
    table = quantization_gains.analyze(view := models(ran)).set_index("model")
    means = view.scores.groupby(["model", "shots"])["strict"].mean()
    for model in ("fake-vote", "fake-copy", "fake-gold"):
        assert table.loc[model, "gain"] == pytest.approx(means[model, 5] - means[model, 0])
        assert table.loc[model, "of"] == "5 shots over 0"
    assert table.loc["fake-gold", "gain"] == 0.0
    assert table.loc["fake-gold", "change"] == pytest.approx(-table.loc["fake-vote", "gain"])
    assert table.loc["fake-gold", "change_low"] <= table.loc["fake-gold", "change"] <= 0
    assert math.isnan(table.loc["fake-vote", "p"])


def test_a_retriever_s_gain_is_reported_next_to_the_gain_of_shots(ran: Any) -> None:
    near = {"name": "knn", "embedder": "pixels"}
    table = quantization_gains.analyze(view := models(ran, retriever=["random", near]))
    assert set(table["of"]) == {"5 shots over 0", "knn over random"}
    five_shots = view.scores[(view.scores["model"] == "fake-copy") & (view.scores["shots"] == 5)]
    means = five_shots.groupby("retriever")["strict"].mean()
    row = table[(table["of"] == "knn over random") & (table["model"] == "fake-copy")].iloc[0]
    assert row["gain"] == pytest.approx(means["knn"] - means["random"])


def test_one_precision_no_gain_and_missing_logits_are_reported(ran: Any) -> None:
    with pytest.raises(ConfigError, match="there is a single precision"):
        quantization.analyze(ran(model="fake-gold", name="one"))
    grid = {"model": ["fake-gold", "fake-copy"]}
    with pytest.raises(ConfigError, match="2 of its models are not quantized"):
        quantization.analyze(ran(grid=grid, shots=2, name="two"))
    compare = {"to": {"model": "fake-gold"}}
    with pytest.raises(ConfigError, match="no gain can be computed"):
        quantization_gains.analyze(ran(grid=grid, shots=2, compare=compare, name="three"))
    with pytest.raises(ModelError, match=r"fake-gold could not be measured: fake-gold returns no logits"):
        quantization.analyze(ran(grid=grid, shots=2, compare=compare, name="four"))


def test_a_real_model_is_measured_once_in_each_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The 4-bit model in a process of its own, and full precision in this one, which saves an import of PyTorch."""
    in_a_process = quantization_measurements._in_a_process
    monkeypatch.setattr(
        quantization_measurements,
        "_in_a_process",
        lambda run, label, *more: (in_a_process if "nf4" in label else quantization_measurements.main)(
            run, label, *more
        ),
    )
    config = {
        "name": "bits",
        "task": {"name": "binding", "ways": 2, "queries": 3},
        "model": {"name": "hf", "path": "tiny"},
        "seeds": [0],
        "max_new_tokens": 2,
        "grid": {"model.quantize": ["none", "nf4"], "shots": [0, 2]},
        "compare": {"to": {"model": {"quantize": "none"}}, "metric": "lenient"},
    }
    view = view_run(run(config, runs=tmp_path, quiet=True))
    table = quantization.analyze(view).set_index("model")
    full, few = "tiny(quantize=none)", "tiny(quantize=nf4)"
    assert list(table.index) == [full, few]
    assert table.loc[full, "agreement"] == 1.0
    assert 0 < table.loc[few, "kl"] <= table.loc[few, "kl_max"]
    assert math.isnan(table.loc[full, "kl"])
    assert table.loc[few, "weights_mib"] < 0.8 * table.loc[full, "weights_mib"]
    assert table.loc[few, "peak_mib"] > table.loc[few, "weights_mib"]
    assert table.loc[few, "tokens_s"] > 0
    files = sorted((view.path / "precision").iterdir())
    times = [file.stat().st_mtime_ns for file in files]
    again = quantization.analyze(view_run(load_run(view.path))).set_index("model")
    assert [file.stat().st_mtime_ns for file in files] == times
    assert again.loc[few, "kl"] == table.loc[few, "kl"]
