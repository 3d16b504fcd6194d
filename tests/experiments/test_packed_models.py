"""Checkpoints that come in 4 bits, in a run: the plan says so, and the analysis knows which model is full precision."""

import sys
from pathlib import Path

import pytest

from experiments.analyses import quantization, quantization_measurements
from experiments.api import run
from experiments.config.config import load_config
from experiments.grid.grid import expand
from experiments.grid.grid_warnings import grid_warnings
from experiments.report.page import find_section
from experiments.results.view_run import view_run
from icl.models.hf import prequantized
from icl.models.hf.checkpoint import TINY

sys.path.insert(0, str(Path(__file__).parents[1] / "decoding" / "lockstep"))
import packed


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The shipped model and the same model in 4 bits. The config does not say which is which."""
    few, _ = packed.made(TINY, tmp_path_factory.mktemp("packed"), "gptq")
    return {
        "name": "few",
        "task": {"name": "binding", "ways": 2, "queries": 3},
        "seeds": [0],
        "max_new_tokens": 2,
        "grid": {"model": [{"name": "hf", "path": "tiny"}, {"name": "hf", "path": str(few)}], "shots": [0, 2]},
        "compare": {"to": {"shots": 0}, "metric": "lenient"},
    }


def test_the_plan_says_which_checkpoint_comes_quantized(config: dict[str, object]) -> None:
    (warning,) = grid_warnings(expand(load_config(config)))
    assert "model 'gptq': its checkpoint comes quantized (gptq); the weights stay packed" in warning


def test_the_analysis_and_the_report_compare_it_with_the_unquantized_model(
    config: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization_measurements, "_in_a_process", quantization_measurements.main)
    view = view_run(run(config, runs=tmp_path, quiet=True))
    assert quantization.precisions(view) == {"tiny": "none", "gptq": "gptq"}
    section = find_section(view, "quantization")
    assert section.frame is not None
    assert section.frame["model"].tolist() == ["tiny", "gptq"]
    table = quantization.analyze(view).set_index("model")
    assert 0 < table.loc["gptq", "kl"] <= table.loc["gptq", "kl_max"]
    assert table.loc["gptq", "weights_mib"] < 0.65 * table.loc["tiny", "weights_mib"]


def test_a_checkpoint_that_is_not_here_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("not JSON")
    for path in ("owner/name", str(tmp_path / "gone"), str(tmp_path), "tiny", None):
        assert prequantized.comes_as({"name": "hf", "path": path}) is None
