"""The experiments that ship run as they are written, on a fake in place of the model."""

from pathlib import Path
from typing import Any

import pytest

import experiments
from experiments.analyses.catalogue import analysis
from experiments.api import run
from experiments.report.view import view

CONFIGS = Path(experiments.__file__).parent / "configs"
ANALYSES = {
    "order": ["order_sensitivity", "copying", "vote", "retrieval", "leakage"],
    "vlicl": ["shot_curve", "format_gain"],
    "perturbation": ["modality", "following", "noisy_labels", "shot_curve", "format_gain", "leakage"],
}


@pytest.mark.parametrize("name", ANALYSES)
def test_an_experiment_runs_and_each_of_its_analyses_speaks(name: str, tmp_path: Path) -> None:
    task: Any = {"name": "binding", "ways": 2, "queries": 3}
    less = {"model": "fake-vote", "seeds": [0], "grid.task": [task], "grid.retriever": ["random"]}
    seen = view(run(CONFIGS / f"{name}.yaml", less, tmp_path, quiet=True))
    assert not seen.failed
    for one in ANALYSES[name]:
        assert len(analysis(one)(seen)), one
    assert analysis("leakage")(seen)[["itself", "picture", "twice"]].to_numpy().sum() == 0


def test_the_experiment_on_conflict_tells_who_is_misled(tmp_path: Path) -> None:
    less = {"model": {"name": "fake-gold", "right": 1.0}, "grid.decoding": ["greedy"], "grid.shots": [0]}
    tasks: Any = [{"name": "conflict", "against": against, "queries": 6} for against in ("none", "printed")]
    seen = view(run(CONFIGS / "conflict.yaml", {**less, "grid.task": tasks}, tmp_path, quiet=True))
    assert not seen.failed
    assert seen.frame["recognised_accuracy"].mean() == 1
    assert seen.frame["misled"].dropna().eq(0).all()
    assert list(analysis("conflict")(seen)["both"]) == [1, 1]
