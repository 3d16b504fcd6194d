"""The experiments that ship run as they are written, on a fake in place of the model."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

import experiments
from decoding.arms.arm import build_arm
from experiments.analyses.catalog import find_analysis
from experiments.api import run
from experiments.config.config import load_config
from experiments.config.keys import KEYS
from experiments.grid.grid import axis_points, expand
from experiments.results.claims import judge_claims
from experiments.results.view_run import view_run
from experiments.stats.compare import compare

CONFIGS = Path(experiments.__file__).parent / "configs"
ANALYSES = {
    "order": ["order_sensitivity", "copying", "vote", "retrieval", "leakage"],
    "vlicl": ["shot_curve", "format_gain"],
    "perturbation": ["modality_sensitivity", "label_following", "noisy_labels", "shot_curve", "format_gain", "leakage"],
}


@pytest.mark.parametrize("name", ANALYSES)
def test_an_experiment_runs_and_each_of_its_analyses_has_rows(name: str, tmp_path: Path) -> None:
    task: Any = {"name": "binding", "ways": 2, "queries": 3}
    less = {"model": "fake-vote", "seeds": [0], "grid.task": [task], "grid.retriever": ["random"]}
    view = view_run(run(CONFIGS / f"{name}.yaml", less, tmp_path, quiet=True))
    assert not view.failed
    for analysis in ANALYSES[name]:
        assert len(find_analysis(analysis)(view)), analysis
    assert find_analysis("leakage")(view)[["itself", "image", "twice"]].to_numpy().sum() == 0


def test_the_experiment_on_conflict_measures_misled_answers(tmp_path: Path) -> None:
    less = {"model": {"name": "fake-gold", "accuracy": 1.0}, "grid.decoding": ["greedy"], "grid.shots": [0]}
    tasks: Any = [{"name": "conflict", "against": against, "queries": 6} for against in ("none", "printed")]
    view = view_run(run(CONFIGS / "conflict.yaml", {**less, "grid.task": tasks}, tmp_path, quiet=True))
    assert not view.failed
    assert view.frame["recognized_accuracy"].mean() == 1
    assert view.frame["misled_rate"].dropna().eq(0).all()
    assert list(find_analysis("conflict")(view)["both"]) == [1, 1]


def test_each_of_the_twenty_settings_is_compared_with_the_control(tmp_path: Path) -> None:
    less = {"model": "fake-vote", "seeds": [0], "task.of": {"name": "binding", "ways": 4, "concepts": 8, "queries": 2}}
    view = view_run(run(CONFIGS / "mm_icl_factors.yaml", less, tmp_path, quiet=True))
    assert not view.failed
    assert view.frame["cell"].nunique() == 20
    assert len(compare(view.scores, view.to or {}, "lenient", axes=view.axes)) == 19


def test_the_experiment_on_shifts_uses_no_source_of_a_pool_that_has_none(tmp_path: Path) -> None:
    of = {"name": "binding", "ways": 4, "concepts": 8, "queries": 2}
    tasks: Any = [{"name": "corrupted", "of": of, "by": "noise", "where": where} for where in ("query", "all")]
    less = {"model": "fake-vote", "seeds": [0], "grid.task": tasks, "grid.shots": [0, 3]}
    view = view_run(run(CONFIGS / "distribution_shift.yaml", less, tmp_path, quiet=True))
    assert not view.failed
    assert view.frame[view.frame["shots"] == 3].groupby("task")["retriever"].nunique().tolist() == [4, 2]


def test_each_setting_that_calls_the_model_is_compared_with_the_control(tmp_path: Path) -> None:
    less = {"seeds": [0], "grid.task": [{"name": "binding", "ways": 4, "queries": 2}]}
    view = view_run(run(CONFIGS / "asking.yaml", less, tmp_path, quiet=True))
    assert not view.failed
    assert view.frame["cell"].nunique() == 16
    assert len(compare(view.scores, view.to or {}, "lenient", axes=view.axes)) == 15
    oracle = find_analysis("leakage")(view)
    assert oracle[oracle["gold"] > 0]["retriever"].str.contains("gold").all()


def test_the_cells_of_the_quickstart_keep_their_digests() -> None:
    """A run of yesterday is gone on with today. On a fake: a checkpoint's own digest follows its weights."""
    cells = expand(load_config(CONFIGS / "quickstart.yaml", ["model=fake-copy"])).cells
    digest = hashlib.sha256("".join(cell.digest for cell in cells).encode()).hexdigest()
    assert (len(cells), cells[0].digest, digest[:16]) == (168, "99b9d1c7b099a868", "923e069d80e3a0f3")


def test_each_analysis_of_the_experiment_on_answers_has_rows(tmp_path: Path) -> None:
    less = {"model": "fake-vote", "seeds": [0], "grid.task": [{"name": "binding", "ways": 4, "queries": 3}]}
    view = view_run(run(CONFIGS / "answers.yaml", less, tmp_path, quiet=True))
    assert not view.failed
    for analysis in ("modality_importance", "option_shift", "disruption", "calibration"):
        assert len(find_analysis(analysis)(view)), analysis


def test_every_claim_of_debunk_is_tested_where_it_belongs(toy: str, tmp_path: Path) -> None:
    tasks: Any = [{"name": name, "queries": 4} for name in ("existence", "captions")]  # two questions an image
    tasks += [{"name": "binding", "queries": 2}]
    view = view_run(run(CONFIGS / "debunk.yaml", {"model": toy, "grid.task": tasks}, tmp_path, quiet=True))
    assert not view.failed
    judged = judge_claims(view)
    assert [one.claim.claim for one in judged if one.verdict == "not run"] == []
    assert len({one.claim.claim for one in judged}) == 20


FILES = sorted([*CONFIGS.glob("*.yaml"), *CONFIGS.glob("drawings/*.yaml")])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_shipped_config_reads_and_is_called_as_its_file(path: Path) -> None:
    config = load_config(path)
    assert config.name == path.relative_to(CONFIGS).with_suffix("").as_posix().replace("/", "-")
    assert set(config.document.data) <= set(KEYS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_component_of_a_shipped_config_is_there_with_its_parameters(path: Path) -> None:
    for point in axis_points(load_config(path)):
        for key in ("task", "model", "retriever", "order", "composer"):
            point[key].build()
        build_arm(point["decoding"])


def test_the_quickstart_is_shipped() -> None:
    assert "quickstart" in [path.stem for path in FILES]
