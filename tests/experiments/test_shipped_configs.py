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
