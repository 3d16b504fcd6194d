"""Numbers as answers: errors and rank correlation, against numpy and scipy."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

import icl
from experiments.config.config import load_config
from experiments.grid.grid import expand
from experiments.grid.grid_warnings import grid_warnings
from experiments.results.view_run import view_run
from icl.metrics.base import ScoredSample
from icl.metrics.regression import rank_correlation
from icl.metrics.run_level import sum_rows
from icl.models.base import Request
from icl.registry import build
from icl.types import Example, Generation

OUTPUTS = ["31", "She looks about 45 years old.", "**20**", "Age: 7.5", "I cannot tell.", "between 20 and 30"]
GOLD = ["30", "50", "20", "9.25", "40", "25"]
READ = [31.0, 45.0, 20.0, 7.5]


def samples(metric: Any, outputs: list[str] = OUTPUTS, gold: list[str] = GOLD) -> list[ScoredSample]:
    examples = [Example(str(i), (), "How old?", (answer,)) for i, answer in enumerate(gold)]
    return [
        ScoredSample(e.id, metric.score(Generation(text=text), e), output=text, gold=e.answers)
        for e, text in zip(examples, outputs, strict=True)
    ]


def test_errors_are_those_of_the_numbers_that_outputs_state() -> None:
    errors = np.array(READ) - [30, 50, 20, 9.25]
    statistics = {
        name: build("metric", name).run_level(samples(build("metric", name))) for name in ("mae", "rmse", "spearman")
    }
    assert statistics["mae"].statistic == pytest.approx(np.abs(errors).mean())
    assert statistics["rmse"].statistic == pytest.approx(np.sqrt((errors**2).mean()))
    assert statistics["spearman"].statistic == pytest.approx(spearmanr(READ, [30, 50, 20, 9.25]).statistic)
    assert [list(one.counted) for one in statistics.values()] == [[True] * 4 + [False] * 2] * 3, (
        "two outputs state no number"
    )


def test_a_sample_has_a_score_between_0_and_1_and_none_without_a_number() -> None:
    scores = [one.score for one in samples(build("metric", "mae"))]
    assert scores == [0.5, pytest.approx(5 / 6), 0.0, pytest.approx(1.75 / 2.75), None, None]


def test_rank_correlation_of_any_choice_of_samples_is_that_of_scipy() -> None:
    rng = np.random.default_rng(3)
    x, y = np.round(rng.normal(size=(2, 40)), 1)
    y = np.round(y + x, 1)
    statistic = rank_correlation(x, y)
    assert statistic.statistic == pytest.approx(spearmanr(x, y).statistic)
    for _ in range(5):
        chosen = rng.choice(40, 40)  # with repetitions, as in a bootstrap
        value = statistic.value(sum_rows(statistic.rows[chosen]))
        assert value == pytest.approx(spearmanr(x[chosen], y[chosen]).statistic)
    total = sum_rows(statistic.rows)
    assert statistic.value(total + statistic.worst) < statistic.statistic < statistic.value(total + statistic.best)
    batch = statistic.value(np.stack([total, 3 * total]))
    assert batch == pytest.approx([statistic.statistic] * 2)
    assert np.isnan(rank_correlation([1, 1, 1], [1, 2, 3]).statistic)


def guess(request: Request) -> str:
    return "30" if "old" in repr(request.prompt) else "no idea"


def test_a_run_reports_errors_and_counts_outputs_without_a_number(tmp_path: Any) -> None:
    (tmp_path / "rows.csv").write_text("q,n\nold one?,20\nold two?,34\nyoung?,5\nold three?,30\n")
    task = {"name": "hub", "path": str(tmp_path / "rows.csv"), "columns": {"question": "q", "answer": "n"},
            "answer_is": "number", "pool_fraction": 0}  # fmt: skip
    config = {"name": "n", "task": task, "model": {"name": "fake-scripted", "answer": f"{__file__}:guess"},
              "metrics": ["mae", "rmse"], "grid": {"shots": [0]}}  # fmt: skip
    run = icl.run(config, runs=tmp_path / "runs", quiet=True)
    (row,) = run.scores("mae").to_dict("records")
    assert (row["mean"], row["missing"]) == (pytest.approx((10 + 4 + 0) / 3), 1)
    (row,) = run.scores("rmse").to_dict("records")
    assert row["mean"] == pytest.approx(((100 + 16 + 0) / 3) ** 0.5)
    assert view_run(run).answer_notes == ["1 of 4 outputs state no number"]
    assert list(grid_warnings(expand(load_config(config)))) == []
    config["task"]["columns"] = {"question": "q", "answer": "q"}
    config["task"]["answer_is"] = "text"
    (warning,) = grid_warnings(expand(load_config(config)))
    assert "4 of 4 answers are not numbers, such as 'old one?', so these queries have no score of mae, rmse" in warning
